"""Splats survive files and turns of the world."""

import gzip

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worldloom.render.rasterise import rasterise
from worldloom.scene.cameras import intrinsics
from worldloom.scene.errors import CorruptData
from worldloom.scene.frame import look_at, matrix_from_quat_wxyz, rigid
from worldloom.scene.harmonics_rotation import harmonics_basis, rotate_harmonics
from worldloom.scene.splats import Splats
from worldloom.scene.spz import load_spz, save_spz

SIZE = (64, 48)
K = intrinsics(70.0, *SIZE)
CAMERA = look_at([0.0, 0.0, 1.0], [2.0, 0.0, 1.0])


def cloud(n=150, degree=3, seed=0):
    rng = np.random.default_rng(seed)
    quats = rng.normal(size=(n, 4))
    arrays = (
        rng.uniform([1.0, -1.5, 0.0], [5.0, 1.5, 2.0], (n, 3)),
        rng.uniform(0.02, 0.2, (n, 3)),
        quats / np.linalg.norm(quats, axis=1, keepdims=True),
        rng.uniform(0.1, 0.95, n),
        rng.normal(0, 0.25, (n, (degree + 1) ** 2, 3)),
    )
    return Splats(*(np.ascontiguousarray(a, np.float32) for a in arrays))


numbers = st.floats(-1, 1, allow_nan=False)


@settings(max_examples=12, deadline=None)
@given(
    quat=st.tuples(numbers, numbers, numbers, numbers).filter(lambda q: np.linalg.norm(q) > 0.1),
    scale=st.floats(0.3, 3.0),
    degree=st.integers(0, 3),
)
def test_a_turned_world_looks_the_same_from_a_turned_camera(quat, scale, degree):
    rotation = matrix_from_quat_wxyz(np.array(quat))
    shift = np.array([0.3, -2.0, 1.1])
    transform = rigid(scale * rotation, shift)
    camera = rigid(rotation @ CAMERA[:3, :3], transform[:3, :3] @ CAMERA[:3, 3] + shift)
    splats = cloud(degree=degree)
    before = rasterise(splats, CAMERA, K, SIZE)
    after = rasterise(splats.transformed(transform), camera, K, SIZE)
    assert np.allclose(before.rgb, after.rgb, atol=2e-3)


def test_harmonics_turn_exactly():
    rng = np.random.default_rng(1)
    rotation = matrix_from_quat_wxyz(rng.normal(size=4))
    sh = rng.normal(size=(5, 16, 3)).astype(np.float32)
    directions = rng.normal(size=(40, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    turned = rotate_harmonics(sh, rotation)
    before = np.einsum("dk,nkc->ndc", harmonics_basis(directions), sh[:, 1:])
    after = np.einsum("dk,nkc->ndc", harmonics_basis(directions @ rotation.T), turned[:, 1:])
    assert np.allclose(before, after, atol=1e-5)
    assert (turned[:, 0] == sh[:, 0]).all()


@pytest.mark.parametrize("bad", [np.diag([1, 1, -1, 1]), np.diag([1, 2, 1, 1]), np.zeros((4, 4))])
def test_a_mirror_is_refused(bad):
    with pytest.raises(CorruptData, match="one scale, a rotation and a shift"):
        cloud().transformed(np.asarray(bad, float))


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_spz_comes_back_within_its_steps(tmp_path, degree):
    splats = cloud(degree=degree)
    save_spz(splats, tmp_path / "a.spz")
    back = load_spz(tmp_path / "a.spz")
    assert np.allclose(back.means, splats.means, atol=1.3e-4)
    assert np.allclose(np.log(back.scales), np.log(splats.scales), atol=0.033)
    turn = np.abs(np.sum(back.quats_wxyz * splats.quats_wxyz, 1))
    assert turn.min() > 1 - 1e-5
    assert np.allclose(back.opacities, splats.opacities, atol=0.002)
    assert np.allclose(back.sh[:, 0], splats.sh[:, 0], atol=0.014)
    assert np.allclose(np.clip(splats.sh[:, 1:], -1, 1), back.sh[:, 1:], atol=0.01)
    view = [rasterise(s, CAMERA, K, SIZE).rgb for s in (splats, back)]
    assert np.sqrt(np.mean((view[0] - view[1]) ** 2)) < 0.01


def test_spz_is_small_and_always_the_same(tmp_path):
    splats = cloud(5000, degree=0)
    for name in ("a", "b"):
        save_spz(splats, tmp_path / f"{name}.spz")
    splats.save_ply(tmp_path / "a.ply")
    assert (tmp_path / "a.spz").read_bytes() == (tmp_path / "b.spz").read_bytes()
    assert (tmp_path / "a.spz").stat().st_size < 0.32 * (tmp_path / "a.ply").stat().st_size


def test_spz_of_nothing_and_of_a_large_world(tmp_path):
    save_spz(Splats.empty(), tmp_path / "none.spz")
    assert load_spz(tmp_path / "none.spz").n == 0
    far = cloud()
    far.means[:] *= 10_000
    save_spz(far, tmp_path / "far.spz")
    assert np.allclose(load_spz(tmp_path / "far.spz").means, far.means, atol=0.01)
    far.means[0] = np.nan
    with pytest.raises(CorruptData, match="nan m from the origin"):
        save_spz(far, tmp_path / "far.spz")


def test_what_is_no_spz_is_refused(tmp_path):
    save_spz(cloud(), tmp_path / "a.spz")
    whole = (tmp_path / "a.spz").read_bytes()
    content = gzip.decompress(whole)
    for wrong in (b"hello", whole[:60], gzip.compress(content[:-9]), gzip.compress(b"no" * 40)):
        (tmp_path / "b.spz").write_bytes(wrong)
        with pytest.raises(CorruptData):
            load_spz(tmp_path / "b.spz")


def test_gsply_reads_the_same_splats(tmp_path):
    gsply = pytest.importorskip("gsply.spz")
    splats = cloud()
    save_spz(splats, tmp_path / "a.spz")
    theirs, ours = gsply.read_spz(tmp_path / "a.spz"), load_spz(tmp_path / "a.spz")
    assert np.allclose(theirs.means, ours.means, atol=1e-6)
    assert np.allclose(theirs.quats, ours.quats_wxyz, atol=1e-5)
    assert np.allclose(np.exp(theirs.scales), ours.scales, rtol=1e-5)
    assert np.allclose(theirs.sh0, ours.sh[:, 0], atol=1e-5)
    assert np.allclose(theirs.shN, ours.sh[:, 1:], atol=1e-6)
    assert np.allclose(1 / (1 + np.exp(-theirs.opacities)), ours.opacities, atol=1e-5)
