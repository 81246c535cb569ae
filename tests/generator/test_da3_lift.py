"""Cameras brought home, Gaussians in the world, Lyra's depth seam."""

import numpy as np
import pytest
import torch

from worldloom.generator.depth.da3.align import align
from worldloom.generator.depth.da3.depth_model import Da3Depth, at_size
from worldloom.generator.depth.da3.lifter import Da3Lifter, LiftOptions
from worldloom.generator.depth.da3.load import random_network
from worldloom.generator.depth.da3.network import Prediction
from worldloom.generator.depth.da3.ray_poses import cameras_from_rays
from worldloom.generator.depth.da3.sizes import kept_bytes
from worldloom.scene.errors import EngineFailed
from worldloom.scene.frame import CAMERA_TO_FLU, invert_rigid, matrix_from_quat_wxyz, rigid

SIZE = (30, 52)


@pytest.fixture(autouse=True, scope="module")
def few_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def nested():
    return random_network("tiny-nested")


def path(count, straight=False, seed=0):
    """Level cameras [v 4 4] in a world with Z up."""
    rng = np.random.default_rng(seed)
    wobble = np.concatenate([np.ones((count, 1)), 0.05 * rng.standard_normal((count, 3))], 1)
    turn = matrix_from_quat_wxyz(wobble) @ CAMERA_TO_FLU
    side = 0 if straight else 0.2
    centre = np.stack([0.4 * np.arange(count), side * np.sin(np.arange(count)),
                       1.2 + 0 * np.arange(count)], -1)  # fmt: skip
    return rigid(turn, centre)


def frames(count, seed=1):
    rgb = np.random.default_rng(seed).random((count, *SIZE, 3)).astype(np.float32)
    K = np.tile([[45.0, 0, 26], [0, 45.0, 15], [0, 0, 1]], (count, 1, 1))
    return rgb, K


def predicted(c2w, scale=2.5, seed=4):
    """World to camera of the same cameras in another frame and unit."""
    turn = matrix_from_quat_wxyz(np.random.default_rng(seed).standard_normal(4))
    centre = scale * c2w[:, :3, 3] @ turn.T + [5, -3, 1]
    return invert_rigid(rigid(turn @ c2w[:, :3, :3], centre))


@pytest.mark.parametrize("straight", [False, True])
def test_a_similarity_brings_predicted_cameras_home(straight):
    c2w = path(8, straight)
    depth = np.full((8, 6, 8), 5.0)
    found = align(invert_rigid(c2w), predicted(c2w), depth)
    assert found.scale == pytest.approx(2.5, rel=1e-6)
    assert found.source == "poses"
    np.testing.assert_allclose(found.c2w, c2w, atol=1e-6)
    if not straight:
        released = align(invert_rigid(c2w), predicted(c2w), depth, centres_only=True)
        np.testing.assert_allclose(released.c2w, c2w, atol=1e-6)


def test_one_camera_that_lies_off_does_not_bend_the_rest():
    c2w = path(12)
    wrong = c2w.copy()
    wrong[5, :3, 3] += [0, 1.5, 0]
    depth = np.full((12, 6, 8), 5.0)
    found = align(invert_rigid(c2w), predicted(wrong), depth)
    others = np.arange(12) != 5
    assert np.abs(found.c2w[others] - c2w[others]).max() < 0.15
    assert found.c2w[5, 1, 3] - c2w[5, 1, 3] == pytest.approx(1.5, abs=0.2)


def test_cameras_that_stand_still_take_the_scale_from_depth_or_metres():
    c2w = path(4)
    c2w[:, :3, 3] = c2w[0, :3, 3]
    depth = np.full((4, 12, 16), 6.0)
    given, own = invert_rigid(c2w), predicted(c2w)
    found = align(given, own, depth, known={1: np.full((12, 16), 2.0)})
    assert (found.scale, found.source) == (pytest.approx(3), "overlap")
    np.testing.assert_allclose(found.c2w, c2w, atol=1e-6)
    assert align(given, own, depth, metric=1.0).source == "network"
    with pytest.raises(EngineFailed, match=r"stand still.*nested"):
        align(given, own, depth)


def test_a_window_becomes_splats_in_the_world(nested):
    rgb, K = frames(4)
    c2w = path(4)
    lifter = Da3Lifter(nested)
    made = lifter.lift_window(rgb, c2w, K)
    # 28 x 56 pixels are 14 x 28 Gaussians, without int(8 / 256 of it) at every side.
    assert made.splats.n == 4 * 14 * 28
    for part in (made.splats.means, made.splats.scales, made.splats.quats_wxyz, made.splats.sh):
        assert np.isfinite(part).all()
    assert (made.splats.opacities > 0).all()
    assert (made.splats.opacities < 1).all()
    np.testing.assert_allclose(np.linalg.norm(made.splats.quats_wxyz, axis=1), 1, atol=1e-5)
    # Each stands in front of the camera that made it, in the world's axes.
    for view in range(4):
        own = made.splats.means[made.view == view]
        local = (own - made.c2w[view, :3, 3]) @ made.c2w[view, :3, :3]
        assert (local[:, 2] > 0).all()
    assert (made.confidence > 1).all()
    assert np.array_equal(lifter.lift(rgb, c2w, K).means, made.splats.means)


def test_where_the_world_lies_does_not_matter(nested):
    """Splats of a moved world are the moved splats, rotations included."""
    rgb, K = frames(3)
    c2w = path(3)
    move = rigid(matrix_from_quat_wxyz([0.9, 0.2, -0.3, 0.4]), [7.0, -2, 3])
    lifter = Da3Lifter(nested)
    here = lifter.lift(rgb, c2w, K).transformed(move)
    there = lifter.lift(rgb, move @ c2w, K)
    np.testing.assert_allclose(there.means, here.means, atol=1e-3)
    np.testing.assert_allclose(np.abs((there.quats_wxyz * here.quats_wxyz).sum(1)), 1, atol=1e-4)


def test_sky_and_border_are_left_out(nested):
    rgb, K = frames(1)
    metric = nested.da3_metric.head.scratch.sky_output_conv2[2]
    before = metric.bias.clone()
    try:
        metric.bias.fill_(10.0)
        all_sky = Da3Lifter(nested).lift_window(rgb, path(1), K, depth={0: np.full(SIZE, 2.0)})
    finally:
        metric.bias.copy_(before)
    assert all_sky.splats.n == 0
    cut = Da3Lifter(nested, options=LiftOptions(border=0.2, drop_sky=False))
    assert cut.lift_window(rgb, path(1), K).splats.n == (14 - 4) * (28 - 10)


def test_one_view_takes_its_scale_from_depth_or_metres(nested):
    rgb, K = frames(1)
    found = Da3Lifter(nested).lift_window(rgb, path(1), K)
    assert found.scale_source == "network"
    told = Da3Lifter(nested).lift_window(rgb, path(1), K, depth={0: np.full(SIZE, 2.0, np.float32)})
    assert told.scale_source == "overlap"
    away = np.linalg.norm(told.splats.means - told.c2w[0, :3, 3], axis=1)
    assert np.median(away) == pytest.approx(2.0, rel=0.2)
    with pytest.raises(EngineFailed, match="stand still"):
        Da3Lifter(nested.da3).lift(rgb, path(1), K)


def test_a_model_without_the_gaussian_head_cannot_lift():
    with pytest.raises(EngineFailed, match="no Gaussian head"):
        Da3Lifter(random_network("tiny-metric"))


def test_bad_frames_are_refused(nested):
    rgb, K = frames(2)
    rgb[1, 0, 0] = np.nan
    with pytest.raises(EngineFailed, match="view 1: 1"):
        Da3Lifter(nested).lift(rgb, path(2), K)
    with pytest.raises(EngineFailed, match="poses of shape"):
        Da3Lifter(nested).lift(frames(2)[0], np.full((2, 4, 4), np.nan), K)


def test_kept_maps_are_small_and_counted(nested):
    rgb, K = frames(4)
    made = Da3Lifter(nested).lift_window(rgb, path(4), K)
    counted = kept_bytes(nested.config, 4, (56, 28), splats=True)
    camera = 4 * 128 * 4
    assert made.kept_bytes == counted + camera
    tokens = 4 * 2 * 4 * 4 * nested.config.head_width * 4
    assert made.kept_bytes < tokens


def test_half_precision_of_the_kept_maps_hardly_changes_depth(nested):
    pictures = torch.randn(3, 3, 28, 42, generator=torch.Generator().manual_seed(0))
    main = nested.da3
    depths = [
        main.predict(main.features(pictures, keep=kind), pictures).depth
        for kind in (torch.float32, torch.bfloat16)
    ]
    torch.testing.assert_close(*depths, rtol=0.02, atol=0)


def test_lyras_seam_gives_depth_in_the_units_of_the_run(nested):
    rgb, K = frames(3)
    c2w = path(3)
    pixels = torch.from_numpy(rgb * 2 - 1).permute(0, 3, 1, 2)
    known = {8: np.full(SIZE, 3.0, np.float32)}
    model = Da3Depth(nested, lambda numbers: {n: known[n] for n in numbers if n in known})
    answer = model([0, 8, 16], pixels, invert_rigid(c2w), K)
    assert answer.aligned
    assert answer.depth.shape == (3, *SIZE)
    assert answer.w2c.shape == (3, 4, 4)
    assert np.isfinite(answer.depth).all()
    assert (
        1.5 <= np.median(answer.depth[1]) <= 6
    )  # Bounded by a factor of two around what is known.


def test_sky_has_no_depth_at_the_seam():
    sky = torch.zeros(1, 28, 42)
    sky[0, :14] = 1
    found = at_size(Prediction(torch.ones(1, 28, 42), sky=sky), SIZE)
    assert found.shape == (1, *SIZE)
    assert (found[0, :14] == 0).all()
    np.testing.assert_allclose(found[0, 16:], 1, rtol=1e-6)


def ray_maps(c2w, K, size, grid=(16, 24)):
    """Directions of any length and centres [v h w 6] of cameras."""
    rows, columns = np.mgrid[: grid[0], : grid[1]]
    u, v = (columns + 0.5) * size[1] / grid[1], (rows + 0.5) * size[0] / grid[0]
    places = np.stack([u, v, np.ones(grid)], -1)
    directions = np.einsum("vij,vjk,hwk->vhwi", c2w[:, :3, :3], np.linalg.inv(K), places)
    centres = np.broadcast_to(c2w[:, None, None, :3, 3], directions.shape)
    return np.concatenate([0.7 * directions, centres], -1)


def test_cameras_are_read_from_ray_maps():
    c2w = path(3)
    # Also a camera that looks back, whose directions have a negative z.
    c2w[2, :3, :3] = c2w[2, :3, :3] @ np.diag([-1.0, 1, -1])
    K = np.tile([[40.0, 0, 20], [0, 44.0, 15.5], [0, 0, 1]], (3, 1, 1))
    rays = ray_maps(c2w, K, (28, 42))
    w2c, found = cameras_from_rays(rays, np.ones(rays.shape[:3]), (28, 42))
    np.testing.assert_allclose(w2c, invert_rigid(c2w), atol=1e-9)
    np.testing.assert_allclose(found, K, atol=1e-7)
    rng = np.random.default_rng(0)
    wrong = rng.random(rays.shape[:3]) < 0.2
    rays[wrong, :3] = rng.standard_normal((int(wrong.sum()), 3))
    sure = np.where(wrong, 1.0, 1 + rng.random(rays.shape[:3]))
    w2c, found = cameras_from_rays(rays, sure, (28, 42))
    np.testing.assert_allclose(w2c, invert_rigid(c2w), atol=0.02)
    np.testing.assert_allclose(found, K, atol=0.5)


def test_rays_of_no_camera_are_refused():
    c2w, K = path(1), np.array([[[40.0, 0, 21], [0, 44.0, 14], [0, 0, 1]]])
    rays = ray_maps(c2w, K, (28, 42))
    rays[..., :3] *= [1, -1, 1]
    with pytest.raises(EngineFailed, match="view 0 are those of no camera"):
        cameras_from_rays(rays, np.ones((1, 16, 24)), (28, 42))


def test_a_network_takes_its_cameras_from_rays_when_asked(nested):
    pictures = torch.zeros(1, 3, 28, 42)
    decoded, seen = nested.da3(pictures), nested.da3(pictures, ray_poses=True)
    assert torch.equal(decoded.depth, seen.depth)
    assert seen.w2c.shape == decoded.w2c.shape
    assert not torch.allclose(seen.w2c, decoded.w2c)
    assert torch.isfinite(seen.K).all()


def test_a_visiting_network_comes_for_a_window_and_goes_again(nested, monkeypatch):
    went = []
    whole = type(nested).to
    monkeypatch.setattr(
        type(nested), "to", lambda net, where: (went.append(where), whole(net, where))[1]
    )
    rgb, K = frames(2)
    Da3Lifter(nested, visits=torch.device("cpu")).lift(rgb, path(2), K)
    assert went == [torch.device("cpu")] * 2
    Da3Lifter(nested).lift(rgb, path(2), K)
    assert len(went) == 2
