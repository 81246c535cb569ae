"""The first arrow: a photo becomes a level metric scene, whatever its depth comes from."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from worldloom.generator import weights
from worldloom.generator.depth.compare import affine_error, ramp_error
from worldloom.generator.depth.models import choose_model
from worldloom.generator.depth.motorcycle import CAMERA_HEIGHT_M, PITCH_DEG, motorcycle
from worldloom.generator.seed import make_seed
from worldloom.generator.truth.photos import ten_photos
from worldloom.scene.cameras import unproject
from worldloom.scene.errors import NotFound
from worldloom.scene.request import Intrinsics, ScaleHint

CHECKPOINT = Path(__file__).resolve().parents[3] / "shared" / "weights" / "tcmonodepth_small.pt.tar"


@pytest.fixture(scope="module")
def sample():
    try:
        return motorcycle()
    except NotFound as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    if not CHECKPOINT.is_file():
        pytest.skip("the weights of TCMonoDepth-small are not on this machine")
    folder = tmp_path_factory.mktemp("weights")
    weights.convert("tcmonodepth-small", CHECKPOINT, folder)
    return folder


def seed_with(sample, source, tmp_path, folder=None):
    depth_file = None
    if source == "supplied":
        depth_file = tmp_path / "depth.npy"
        np.save(depth_file, sample.depth)
    return make_seed(
        sample.photo, long_side=416, depth_file=depth_file, intrinsics=sample.intrinsics,
        scale_hint=None if source == "supplied" else ScaleHint(camera_height_m=CAMERA_HEIGHT_M),
        weights_dir=folder if folder is not None else tmp_path / "none",
    )  # fmt: skip


def truth_at(depth, shape):
    rows = ((np.arange(shape[0]) + 0.5) * depth.shape[0] / shape[0]).astype(int)
    columns = ((np.arange(shape[1]) + 0.5) * depth.shape[1] / shape[1]).astype(int)
    return depth[rows][:, columns]


@pytest.mark.parametrize("source", ["prior", "supplied", "tcmonodepth"])
def test_the_scene_is_level_its_floor_flat_and_nothing_lies_below_it(
    sample, source, tmp_path, request
):
    networks = request.getfixturevalue("folder") if source == "tcmonodepth" else None
    seed = seed_with(sample, source, tmp_path, networks)
    assert seed.depth_source.startswith(source)
    points = unproject(seed.depth, seed.K, seed.c2w)
    floor = seed.floor & (seed.depth > 0)
    assert floor.sum() > 0.05 * floor.size
    assert np.sqrt(np.mean(points[floor][:, 2] ** 2)) < 0.005  # relief, 5 mm rms
    assert points[seed.depth > 0][:, 2].min() > -0.02
    assert seed.c2w[:2, 3] == pytest.approx([0, 0], abs=1e-9)
    assert seed.c2w[2, 3] == pytest.approx(CAMERA_HEIGHT_M, abs=0.06)
    pitch = -np.degrees(np.arcsin(seed.c2w[2, 2]))
    assert pitch == pytest.approx(PITCH_DEG, abs=4.0)


def test_the_scale_says_where_it_comes_from(sample, tmp_path):
    told = seed_with(sample, "prior", tmp_path).scale
    assert told["status"] == "calibrated"
    assert told["sources"][0]["name"] == "camera-height"
    assert seed_with(sample, "supplied", tmp_path).scale["status"] == "calibrated"
    guessed = make_seed(sample.photo, long_side=416, weights_dir=tmp_path / "none")
    assert guessed.scale["status"] == "unknown"
    assert any("--camera-height" in note for note in guessed.notes)


def prior_scores(photo, truth, intrinsics, tmp_path):
    """Affine-aligned errors of the prior and of the best vertical ramp."""
    seed = make_seed(
        photo, long_side=416, intrinsics=intrinsics, weights_dir=tmp_path / "no-weights"
    )
    truth = truth_at(truth, seed.depth.shape)
    inverse = np.where(seed.depth > 0, 1 / np.maximum(seed.depth, 1e-6), 0)
    return affine_error(inverse, truth), ramp_error(truth)


def test_the_prior_beats_the_best_vertical_ramp_on_the_sample_photo(sample, tmp_path):
    ours, ramp = prior_scores(sample.photo, sample.depth, sample.intrinsics, tmp_path)
    assert ours["r2"] > ramp["r2"]
    assert ours["abs_rel"] < ramp["abs_rel"]


@pytest.mark.parametrize("number", [2, 4, 6])
def test_the_prior_beats_the_best_vertical_ramp_on_truth_renders(number, tmp_path):
    photo = ten_photos()[number]
    file = tmp_path / "photo.png"
    Image.fromarray((np.clip(photo.rgb, 0, 1) * 255 + 0.5).astype(np.uint8)).save(file)
    height, width = photo.depth.shape
    K = photo.K
    known = Intrinsics(K[0, 0], K[1, 1], K[0, 2], K[1, 2], width, height)
    ours, ramp = prior_scores(file, photo.depth, known, tmp_path)
    assert ours["r2"] > ramp["r2"]
    assert ours["abs_rel"] < ramp["abs_rel"]


def test_the_small_network_reaches_its_published_accuracy_and_wants_bytes(sample, folder):
    model = choose_model(folder)
    rgb = np.asarray(Image.open(sample.photo).convert("RGB"), np.float32) / 255
    inverse = model.inverse_depth(rgb)
    truth = truth_at(sample.depth, inverse.shape)
    assert affine_error(inverse, truth)["r2"] >= 0.75
