"""Compressed PLY: how much is lost, how large it is, and what is refused."""

import numpy as np
import pytest

from worldloom.scene.errors import CorruptData
from worldloom.scene.packed_ply import load_packed, save_packed
from worldloom.scene.splats import Splats


def some_splats(n, *, k=1, seed=1):
    random = np.random.default_rng(seed)
    quats = random.normal(size=(n, 4))
    quats /= np.linalg.norm(quats, axis=1, keepdims=True)
    sh = random.normal(scale=0.5, size=(n, k, 3))
    sh[:, 0] = random.uniform(-1.5, 1.5, size=(n, 3))
    means = random.uniform((-4, -3, 0), (4, 3, 2.5), size=(n, 3))
    scales = np.exp(random.uniform(-6, -2, size=(n, 3)))
    opacities = random.uniform(size=n)
    return Splats(*(a.astype(np.float32) for a in (means, scales, quats, opacities, sh)))


@pytest.mark.parametrize("n", [1, 255, 256, 257, 5000])
@pytest.mark.parametrize("k", [1, 4, 16])
def test_what_is_packed_is_nearly_what_it_was(tmp_path, n, k):
    splats = some_splats(n, k=k)
    save_packed(splats, tmp_path / "p.ply")
    back, same = load_packed(tmp_path / "p.ply"), splats.select(splats.morton_order())
    box = 8 if n < 5000 else 4  # Width of the widest block [m].
    assert np.abs(back.means - same.means).max() <= box / 1023
    assert np.abs(np.log(back.scales / same.scales)).max() <= 4.0 / 1023
    assert np.abs(back.opacities - same.opacities).max() <= 0.51 / 255
    assert np.abs(back.rgb() - same.rgb()).max() <= 0.51 / 255 + 1e-6
    assert np.abs((back.quats_wxyz * same.quats_wxyz).sum(1)).min() > 0.99999
    inside = np.abs(same.sh[:, 1:]) < 3.9
    assert np.abs(back.sh[:, 1:] - same.sh[:, 1:])[inside].max(initial=0.0) <= 8 / 255


def test_a_splat_takes_sixteen_bytes_and_a_bit(tmp_path):
    save_packed(some_splats(100_000), tmp_path / "p.ply")
    assert (tmp_path / "p.ply").stat().st_size / 100_000 < 16.4


def test_the_same_splats_give_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        save_packed(some_splats(1000), tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_another_reader_of_ply_finds_its_elements(tmp_path):
    plyfile = pytest.importorskip("plyfile")
    save_packed(some_splats(600, k=4), tmp_path / "p.ply")
    ply = plyfile.PlyData.read(tmp_path / "p.ply")
    counts = {element.name: element.count for element in ply}
    assert counts == {"chunk": 3, "vertex": 600, "sh": 600}
    assert ply["vertex"]["packed_position"].dtype == np.uint32
    assert (ply["chunk"]["max_x"] >= ply["chunk"]["min_x"]).all()


def test_nothing_and_what_is_not_finite_is_refused(tmp_path):
    splats = some_splats(3)
    splats.means[1, 1] = np.nan
    for bad in (splats, Splats.empty()):
        with pytest.raises(CorruptData, match="cannot be packed"):
            save_packed(bad, tmp_path / "p.ply")


@pytest.mark.parametrize(
    "spoil",
    [
        lambda data: data[:-1],
        lambda data: data + b"x",
        lambda data: data.replace(b"vertex 300", b"vertex 900"),
        lambda data: data.replace(b"vertex 300", b"vertex 99999999999"),
        lambda data: data.replace(b"uint packed_scale", b"float packed_scale"),
        lambda data: b"ply\n" * 3000,
        lambda data: b"",
    ],
)
def test_a_damaged_file_is_refused(tmp_path, spoil):
    file = tmp_path / "p.ply"
    save_packed(some_splats(300), file)
    file.write_bytes(spoil(file.read_bytes()))
    with pytest.raises(CorruptData, match=r"no packed PLY|bytes behind its header"):
        load_packed(file)
