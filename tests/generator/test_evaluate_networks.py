"""Networks of metrics: public names, strict loading, and the laws that hold with any weights."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from worldloom.generator.evaluate.checkpoints import FILES, load_strict, read_tensors
from worldloom.generator.evaluate.fid import (
    Gaussian,
    features_of,
    fit,
    frechet_distance,
    load_inception,
)
from worldloom.generator.evaluate.inception import FidInception
from worldloom.generator.evaluate.lpips import VARIANTS, Lpips, load_lpips
from worldloom.generator.evaluate.style import (
    build_vgg19,
    gram,
    grams,
    load_vgg19,
    style_consistency,
    style_distance,
)
from worldloom.scene.errors import CorruptData, InvalidRequest, NotFound

CONVOLUTIONS = {
    "alex": (0, 3, 6, 8, 10),
    "vgg": (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28),
    "vgg19": (0, 2, 5, 7, 10, 12, 14, 16, 19, 21, 23, 25, 28, 30, 32, 34),
}
"""Numbers of the convolutions in torchvision's `features`."""


@pytest.fixture(scope="module")
def pictures():
    rng = np.random.default_rng(3)
    return [rng.random((64, 96, 3)) for _ in range(3)]


@pytest.mark.parametrize("variant", VARIANTS)
def test_lpips_bears_the_public_names(variant):
    metric = Lpips(variant)
    wanted = {f"features.{n}.{p}" for n in CONVOLUTIONS[variant] for p in ("weight", "bias")}
    assert set(metric.net.state_dict()) == wanted
    assert set(metric.heads.state_dict()) == {f"lin{n}.model.1.weight" for n in range(5)}


@pytest.mark.parametrize("variant", VARIANTS)
def test_lpips_is_zero_for_equal_pictures_and_symmetric(variant, pictures):
    torch.manual_seed(1)
    metric = Lpips(variant)
    for head in metric.heads.parameters():
        head.data.abs_()
    a, b = pictures[:2]
    assert metric.distance(a, a) == 0
    assert metric.distance(a, b) > 0
    assert metric.distance(a, b) == pytest.approx(metric.distance(b, a), rel=1e-5)


def test_lpips_with_one_open_channel_is_the_difference_of_unit_features(pictures):
    """The whole formula again, from the stack's own features."""
    torch.manual_seed(2)
    metric = Lpips("alex")
    a, b = (torch.from_numpy(p.transpose(2, 0, 1)[None]).float() for p in pictures[:2])
    shift = torch.tensor([-0.030, -0.088, -0.188])[:, None, None]
    scale = torch.tensor([0.458, 0.448, 0.450])[:, None, None]
    with torch.no_grad():
        first, second = (metric.net((2 * x - 1 - shift) / scale) for x in (a, b))
        wanted = 0.0
        for n, (x, y) in enumerate(zip(first, second, strict=True)):
            x, y = x / x.norm(dim=1, keepdim=True), y / y.norm(dim=1, keepdim=True)
            weight = metric.heads.state_dict()[f"lin{n}.model.1.weight"][0, :, 0, 0]
            difference = torch.nan_to_num((x - y) ** 2)
            wanted += float((difference * weight[:, None, None]).sum(1).mean())
    assert float(metric(a, b)[0]) == pytest.approx(wanted, rel=1e-4)


def test_lpips_refuses_pictures_below_its_least_side():
    small = np.zeros((20, 40, 3))
    with pytest.raises(InvalidRequest, match="LPIPS needs 32"):
        Lpips("alex").distance(small, small)


def test_metrics_without_weights_name_every_file_and_its_place(tmp_path):
    wanted = "alexnet-owt-7be5be79.pth .*download.pytorch.org.* and alex.pth .*PerceptualSimilarity"
    with pytest.raises(NotFound, match=wanted):
        load_lpips("alex", tmp_path)
    with pytest.raises(NotFound, match=r"vgg16-397923af.pth .* and vgg.pth"):
        load_lpips("vgg", tmp_path)
    with pytest.raises(NotFound, match=r"FID needs pt_inception-2015-12-05-6726825d.pth"):
        load_inception(tmp_path)
    with pytest.raises(NotFound, match=r"style consistency needs vgg19-dcbb9e9d.pth"):
        load_vgg19(tmp_path)


def test_weights_are_loaded_strictly_and_without_their_classifier(tmp_path):
    source = Lpips("alex")
    tensors = {**source.net.state_dict(), "classifier.1.weight": torch.zeros(2, 2)}
    save_file(tensors, tmp_path / "alexnet-owt-7be5be79.safetensors")
    save_file(source.heads.state_dict(), tmp_path / "alex.safetensors")
    loaded = load_lpips("alex", tmp_path)
    a, b = torch.rand(1, 3, 40, 40), torch.rand(1, 3, 40, 40)
    assert torch.equal(loaded(a, b), source(a, b))
    heads = dict(source.heads.state_dict())
    heads["lin0.model.1.weight"] = torch.zeros(1, 3, 1, 1)
    with pytest.raises(CorruptData, match=r"lin0.model.1.weight as \[1, 3, 1, 1\] instead of"):
        load_strict(loaded.heads, heads, "lpips-alex")
    del heads["lin0.model.1.weight"]
    heads["lin9.model.1.weight"] = torch.zeros(1)
    with pytest.raises(CorruptData, match=r"lacks lin0.*has lin9"):
        load_strict(loaded.heads, heads, "lpips-alex")


def test_a_file_under_a_public_name_must_have_the_published_hash(tmp_path):
    torch.save({"lin0.model.1.weight": torch.zeros(1, 64, 1, 1)}, tmp_path / "alex.pth")
    with pytest.raises(
        CorruptData, match=r"has sha256 .*the published alex.pth has df73285e35b22355"
    ):
        read_tensors("lpips-alex", tmp_path)
    (tmp_path / "vgg.safetensors").write_bytes(b"no tensors")
    with pytest.raises(CorruptData, match=r"vgg.safetensors cannot be read"):
        read_tensors("lpips-vgg", tmp_path)


def test_pickles_are_opened_in_a_child_and_only_as_plain_tensors(tmp_path, monkeypatch):
    from dataclasses import replace

    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "sprung"), "w"))

    monkeypatch.setitem(FILES, "lpips-alex", replace(FILES["lpips-alex"], sha256=""))
    heads = Lpips("alex").heads.state_dict()
    torch.save(heads, tmp_path / "alex.pth")
    assert torch.equal(
        read_tensors("lpips-alex", tmp_path)["lin1.model.1.weight"], heads["lin1.model.1.weight"]
    )
    torch.save({"a": Trap()}, tmp_path / "alex.pth")
    with pytest.raises(CorruptData, match=r"alex.pth is no checkpoint: UnpicklingError"):
        read_tensors("lpips-alex", tmp_path)
    assert not (tmp_path / "sprung").exists()


def test_inception_has_the_public_names_and_2048_features(pictures):
    net = FidInception()
    names = set(net.state_dict())
    assert {
        "Conv2d_1a_3x3.conv.weight", "Conv2d_1a_3x3.bn.running_mean",
        "Mixed_5b.branch3x3dbl_3.conv.weight", "Mixed_6a.branch3x3dbl_3.bn.bias",
        "Mixed_6e.branch7x7dbl_5.conv.weight", "Mixed_7a.branch7x7x3_4.bn.running_var",
        "Mixed_7c.branch3x3dbl_3b.conv.weight", "fc.weight",
    } <= names  # fmt: skip
    # 94 units of five tensors and a counter each, and the classifier.
    assert len(names) == 94 * 6 + 2
    assert net.fc.weight.shape == (1008, 2048)
    features = features_of(net, [*pictures[:2], pictures[2][:40]])
    assert features.shape == (3, 2048)
    assert np.isfinite(features).all()


def test_frechet_distances_have_their_closed_forms():
    rng = np.random.default_rng(0)
    a, b = rng.random(6), rng.random(6)
    spread_a, spread_b = rng.random(6) + 0.1, rng.random(6) + 0.1
    one = Gaussian(a, np.diag(spread_a**2), 9)
    two = Gaussian(b, np.diag(spread_b**2), 9)
    wanted = ((a - b) ** 2).sum() + ((spread_a - spread_b) ** 2).sum()
    assert frechet_distance(one, two) == pytest.approx(wanted)
    assert frechet_distance(one, one) == pytest.approx(0, abs=1e-9)
    # Turning both together changes nothing, and covariances need not have full rank.
    turn, _ = np.linalg.qr(rng.normal(size=(6, 6)))
    turned = [Gaussian(turn @ g.mean, turn @ g.covariance @ turn.T, 9) for g in (one, two)]
    assert frechet_distance(*turned) == pytest.approx(wanted)
    few = fit(rng.normal(size=(3, 50)))
    assert frechet_distance(few, few) == pytest.approx(0, abs=1e-6)


def test_one_picture_has_no_fid():
    with pytest.raises(InvalidRequest, match="features of 1 pictures"):
        fit(np.zeros((1, 8)))
    with pytest.raises(InvalidRequest, match="1 of them not finite"):
        fit(np.array([[1.0, np.nan], [1.0, 2.0]]))


def test_gram_matrices_are_products_of_channels_over_all_elements():
    features = torch.arange(12.0).reshape(1, 2, 2, 3)
    flat = features.reshape(2, 6)
    assert torch.allclose(gram(features), flat @ flat.T / 12)


def test_style_is_full_for_the_same_picture_and_bears_public_names(pictures):
    torch.manual_seed(0)
    net = build_vgg19()
    wanted = {f"features.{n}.{p}" for n in CONVOLUTIONS["vgg19"] for p in ("weight", "bias")}
    assert set(net.state_dict()) == wanted
    small = pictures[0][:16, :16]
    assert [g.shape[0] for g in grams(net, small)] == [64, 64, 128, 128, 256]
    assert style_distance(net, small, [small]) == 0
    assert style_consistency(0.0) == 100
    assert style_consistency(0.0035) == pytest.approx(50)
    assert style_consistency(1.0) == 0
