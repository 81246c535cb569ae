"""Depth Anything 3 in use: weights on disk, the photo's depth, Lyra's generated frames."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from worldloom.generator import weights
from worldloom.generator.depth import models
from worldloom.generator.depth.da3 import network as network_module
from worldloom.generator.depth.da3 import single
from worldloom.generator.depth.da3.load import for_gpu, load_file, random_network
from worldloom.generator.depth.da3.sizes import gpu_weight_bytes
from worldloom.generator.depth.da3.variants import variant_of
from worldloom.generator.depth.metric_network import ratio_evidence
from worldloom.generator.engines import load_engine
from worldloom.generator.memory.cache import FrameCache
from worldloom.generator.seed import make_seed
from worldloom.generator.video.frame import ORIGIN_NONE
from worldloom.generator.video.lyra import released
from worldloom.generator.video.lyra.estimated import EstimatedDepth
from worldloom.generator.video.lyra.loop import LyraOptions
from worldloom.generator.video.lyra.model import LyraModel, PromptBook
from worldloom.generator.video.lyra.opening import _check_depth
from worldloom.generator.video.lyra.placement import Placement
from worldloom.generator.video.lyra.reprojected import ReprojectedDepth
from worldloom.generator.video.lyra.tiny import tiny_depth
from worldloom.generator.video.preview import PreviewModel
from worldloom.scene.errors import CorruptData, EngineFailed, InvalidRequest
from worldloom.scene.frame import invert_rigid
from worldloom.scene.path_presets import preset
from worldloom.scene.request import ScaleHint

VARIANT = {"da3-small": "tiny", "da3-base": "tiny", "da3-metric-large": "tiny-metric",
           "da3-nested": "tiny-nested"}  # fmt: skip


@pytest.fixture(autouse=True, scope="module")
def few_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """Published files with tiny networks in them."""
    folder = tmp_path_factory.mktemp("published")
    for variant in ("tiny", "tiny-metric", "tiny-nested"):
        tensors = random_network(variant).state_dict()
        save_file({f"model.{n}": t for n, t in tensors.items()}, folder / f"{variant}.safetensors")
    boxed = {f"model.{n}": t for n, t in random_network("tiny-nested").state_dict().items()}
    torch.save({"module": boxed, "step": 5}, folder / "model.pt")
    return folder


@pytest.fixture(scope="module")
def folder(published, tmp_path_factory):
    """A weights folder with all of them converted."""
    folder = tmp_path_factory.mktemp("weights")
    for name, variant in VARIANT.items():
        source = published / f"{variant}.safetensors"
        weights.convert(name, source, folder, config={"variant": variant})
    return folder


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    from PIL import Image

    rows, columns = np.mgrid[:120, :200]
    # A chequered floor before a plain wall.
    tiles = ((rows // (1 + (rows - 50).clip(0) // 8) + columns // 20) % 2) * 80 + 100
    rgb = np.where(rows > 60, tiles, 190 - rows).astype(np.uint8)[..., None].repeat(3, -1)
    file = tmp_path_factory.mktemp("photo") / "photo.png"
    Image.fromarray(rgb).save(file)
    return file


@pytest.fixture
def tiny_variants(monkeypatch):
    """Let the catalogue's names mean the tiny networks."""
    monkeypatch.setattr(single, "PUBLISHED", {**single.PUBLISHED, **VARIANT})


def test_the_catalogue_knows_the_models_and_their_terms():
    for name in ("da3-small", "da3-base", "da3-metric-large"):
        assert weights.lookup(name).licence == "Apache-2.0"
        assert not weights.lookup(name).research_only
    for name in ("da3-giant", "da3-nested"):
        assert weights.lookup(name).licence == "CC BY-NC 4.0"
        assert weights.lookup(name).research_only
    assert weights.lookup("lyra2-recon").research_only
    assert set(single.PUBLISHED) <= {entry.name for entry in weights.catalogue()}
    with pytest.raises(InvalidRequest, match="convert da3-small SOURCE"):
        weights.get("da3-small", timeout_s=1)


def test_published_files_are_converted_verified_and_loaded(folder):
    file = weights.verify("da3-nested", folder)
    network = load_file("tiny-nested", file)
    expected = random_network("tiny-nested").state_dict()
    assert all(torch.equal(network.state_dict()[name], t) for name, t in expected.items())
    with file.open("r+b") as stream:
        stream.seek(-1, 2)
        last = stream.read(1)
        stream.seek(-1, 2)
        stream.write(bytes([last[0] ^ 1]))
    try:
        with pytest.raises(CorruptData, match="convert them again"):
            weights.verify("da3-nested", folder)
    finally:
        with file.open("r+b") as stream:
            stream.seek(-1, 2)
            stream.write(last)


def test_lyras_tuned_checkpoint_is_a_pickle_with_a_box(published, tmp_path):
    config = {"variant": "tiny-nested"}
    weights.convert("lyra2-recon", published / "model.pt", tmp_path, config=config)
    assert load_file("tiny-nested", weights.verify("lyra2-recon", tmp_path)).config.splats


def test_a_file_of_another_model_is_refused_by_name(published, tmp_path):
    with pytest.raises(EngineFailed, match=r"da3-small cannot be converted: .*missing"):
        weights.convert("da3-small", published / "tiny.safetensors", tmp_path)


def test_the_photos_depth_comes_from_the_best_model_that_is_there(folder, tmp_path, tiny_variants):
    assert models.choose_model(tmp_path) is None
    assert models.choose_model(folder).name == "da3-base"
    for name in ("da3_small.safetensors", "da3_small.json"):
        (tmp_path / name).symlink_to(folder / name)
    model = models.choose_model(tmp_path)
    assert model.name == "da3-small"
    (record,) = model.weights
    assert (record.licence, len(record.sha256)) == ("Apache-2.0", 64)
    inverse = model.inverse_depth(np.random.default_rng(0).random((60, 100, 3)).astype(np.float32))
    assert inverse.shape == (60, 100)
    assert (inverse > 0).all()


def test_damaged_weights_are_passed_over_with_a_note(folder, tmp_path, tiny_variants):
    for name in ("da3_small.safetensors", "da3_small.json", "da3_base.json"):
        (tmp_path / name).symlink_to(folder / name)
    (tmp_path / "da3_base.safetensors").write_bytes(b"damaged")
    notes = []
    assert models.choose_model(tmp_path, notes=notes).name == "da3-small"
    assert len(notes) == 1
    assert "da3_base.safetensors" in notes[0]


def test_the_lifter_is_the_best_model_with_a_gaussian_head(folder, tmp_path, tiny_variants):
    assert models.choose_lifter(tmp_path) is None
    lifter = models.choose_lifter(folder)
    (record,) = lifter.weights
    assert (record.name, record.research_only) == ("da3-nested", True)
    assert lifter.network.config.splats


def test_the_metric_model_gives_metres_and_sky(folder, tiny_variants):
    model = models.choose_metric(folder)
    rgb = np.random.default_rng(0).random((60, 100, 3)).astype(np.float32)
    K = np.array([[90.0, 0, 50], [0, 90.0, 30], [0, 0, 1]])
    near, far = model.view(rgb, K), model.view(rgb, K * [[2], [2], [1]])
    assert near.depth.shape == near.sky.shape == (60, 100)
    np.testing.assert_allclose(far.depth, 2 * near.depth, rtol=1e-5)


def test_the_photos_seed_names_the_network(folder, photo, tiny_variants):
    seed = make_seed(photo, work_size=(96, 48), weights_dir=folder)
    assert seed.depth_source == "da3-base"
    assert "da3-base" in {record["name"] for record in seed.weights}
    assert np.isfinite(seed.depth).all()


def test_generated_frames_get_their_depth_from_the_network(photo):
    seed = make_seed(photo, work_size=(96, 48))
    geometry, cache = PreviewModel(seed, seed_number=1), FrameCache()
    frame = geometry.first()
    cache.add(0, frame.rgb, frame.depth, frame.origin, frame.c2w, frame.K)
    path = preset("dolly", distance=0.5, frames=81)
    every = path.resolve(seed.c2w, seed.K, (96, 48))
    numbers = [0, 8, 16]
    pixels = torch.rand(3, 3, 48, 96, generator=torch.Generator().manual_seed(1)) * 2 - 1
    w2c = invert_rigid(every.c2w[numbers]) @ seed.c2w
    stage = Placement(torch.device("cpu")).stage
    depth = EstimatedDepth(tiny_depth(), geometry, every.select(slice(1, 81)), cache, stage)
    answer = depth(numbers, pixels, w2c, every.K[numbers])
    assert [made.frame_id for made in depth.made] == [8, 16]
    # What is known stays as it is.
    assert np.array_equal(answer.depth[0], cache.get(0).depth)
    for made in depth.made:
        assert np.isfinite(made.depth).all()
        assert (made.depth > 0).mean() > 0.5
        assert ((made.origin == ORIGIN_NONE) == (made.depth == 0)).all()
    # Depth of the photo bounds the scale of the network's.
    middle = np.median(frame.depth[frame.depth > 0])
    assert middle / 5 < np.median(depth.made[0].depth) < middle * 5


def test_the_model_of_the_engine_asks_the_network_it_is_given(photo):
    seed = make_seed(photo, work_size=(96, 48))
    book = PromptBook({0: ""}, lambda _: torch.zeros(1), None)
    options = LyraOptions()
    networks = SimpleNamespace(placement=Placement(torch.device("cpu")))
    carried = LyraModel(seed, networks, options, book)
    asked = LyraModel(seed, networks, options, book, depth=tiny_depth())
    cameras = preset("dolly", distance=0.5, frames=2).resolve(seed.c2w, seed.K, (96, 48))
    assert isinstance(carried._depth_of(cameras, FrameCache()), ReprojectedDepth)
    assert isinstance(asked._depth_of(cameras, FrameCache()), EstimatedDepth)


def test_a_released_engine_takes_the_depth_network_where_it_is(folder, tmp_path):
    sizes = released.Sizes(depth="tiny-nested")
    cpu = torch.device("cpu")
    network = released.load_depth(folder, cpu, sizes)
    assert network.config == variant_of("tiny").main
    assert released.load_depth(tmp_path, cpu, sizes) is None


def test_presets_say_where_depth_comes_from():
    assert load_engine("lyra2").options["depth"] == "da3"
    assert load_engine("lyra2-dmd").options["depth"] == "da3"
    assert load_engine("lyra2-tiny").options["depth"] == "carried"
    with pytest.raises(EngineFailed, match="one of carried, da3"):
        _check_depth({"depth": "guessed"})


def test_a_gpu_keeps_the_backbones_matrices_in_half_precision():
    network = for_gpu(random_network("tiny-nested"))
    counted = sum(p.numel() * p.element_size() for p in network.parameters())
    assert counted == gpu_weight_bytes(variant_of("tiny-nested"))
    kinds = SimpleNamespace(**{n.replace(".", "_"): p.dtype for n, p in network.named_parameters()})
    assert kinds.da3_backbone_pretrained_blocks_0_attn_qkv_weight == torch.bfloat16
    assert kinds.da3_backbone_pretrained_norm_weight == torch.float32
    assert kinds.da3_head_projects_0_weight == torch.float32


def test_matrices_in_half_precision_answer_as_mixed_precision_does(monkeypatch):
    """The GPU's path on a CPU: autocast rounds the same matrices in every call."""
    pictures = torch.randn(3, 3, 28, 42, generator=torch.Generator().manual_seed(1))
    w2c = np.tile(np.eye(4), (3, 1, 1))
    w2c[:, 0, 3] = np.arange(3)
    K = np.tile([[40.0, 0, 21], [0, 40, 14], [0, 0, 1]], (3, 1, 1))
    single = random_network("tiny-nested")(pictures, w2c=w2c, K=K, splats=True)
    monkeypatch.setattr(
        network_module, "half_precision", lambda device: torch.autocast("cpu", torch.bfloat16)
    )
    mixed = random_network("tiny-nested")(pictures, w2c=w2c, K=K, splats=True)
    halved = for_gpu(random_network("tiny-nested"))(pictures, w2c=w2c, K=K, splats=True)
    for name in ("depth", "confidence", "w2c", "sky"):
        assert torch.equal(getattr(mixed, name), getattr(halved, name))
        assert getattr(halved, name).dtype == torch.float32
    assert torch.equal(mixed.gaussians.raw, halved.gaussians.raw)
    torch.testing.assert_close(mixed.depth, single.depth, rtol=0.05, atol=0)


def test_metres_of_a_network_are_evidence_of_the_scale():
    rng = np.random.default_rng(0)
    depth = rng.random((20, 30)).astype(np.float32) + 1
    sky = np.zeros((20, 30))
    sky[:5], depth[-1] = 1, 0
    model = SimpleNamespace(
        name="da3-metric-large", view=lambda rgb, K: single.MetricView(2.5 * depth, sky)
    )
    rgb = np.zeros((20, 30, 3), np.float32)
    found = ratio_evidence(model, rgb, np.eye(3), depth)
    assert found.value == pytest.approx(2.5)
    assert found.kind == "network"
    all_sky = SimpleNamespace(name="x", view=lambda rgb, K: single.MetricView(depth, sky + 1))
    assert ratio_evidence(all_sky, rgb, np.eye(3), depth) is None


def test_the_metric_network_tells_the_scale_where_nobody_else_does(
    folder, photo, tiny_variants, tmp_path
):
    seed = make_seed(photo, work_size=(96, 48), weights_dir=folder)
    names = [source["name"] for source in seed.scale["sources"]]
    assert names == ["da3-metric-large", "usual-camera-height"]
    assert seed.scale["status"] == "estimated"
    assert "da3-metric-large" in {record["name"] for record in seed.weights}
    told = make_seed(
        photo, work_size=(96, 48), weights_dir=folder, scale_hint=ScaleHint(camera_height_m=1.2)
    )
    assert [source["name"] for source in told.scale["sources"]] == ["camera-height"]
    assert told.scale["status"] == "calibrated"
    nobody = make_seed(photo, work_size=(96, 48), weights_dir=tmp_path)
    assert nobody.scale["status"] == "unknown"
