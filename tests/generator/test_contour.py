"""The zero level of a volume: closed where it is measured, open where it is not."""

import numpy as np
import pytest

from worldloom.generator.surface.contour import extract
from worldloom.generator.surface.fusion import BLOCK, TsdfVolume

VOXEL, TRUNC = 0.05, 0.2


def filled(distance, *, low=-3, high=3, weight=None):
    """A volume of blocks `low` to `high` with the signed distance function `distance`."""
    volume = TsdfVolume(VOXEL, TRUNC)
    axis = np.arange(low, high, dtype=np.int32)
    coords = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, 3)
    place = np.arange(BLOCK)
    ijk = np.stack(np.meshgrid(place, place, place, indexing="ij"), -1).reshape(-1, 3)
    centres = (coords[:, None] * BLOCK + ijk + 0.5) * VOXEL
    volume.coords = coords
    volume.tsdf = np.clip(distance(centres) / TRUNC, -1, 1).astype(np.float32)
    volume.weight = np.ones(volume.tsdf.shape, np.float32)
    if weight is not None:
        volume.weight *= weight(centres)
    volume.free = np.zeros_like(volume.tsdf)
    volume.rgb = np.full((*volume.tsdf.shape, 3), 0.25, np.float32)
    volume._count = len(coords)
    return volume


def edge_uses(mesh):
    """How often each undirected edge is used, and how often each directed one."""
    directed = np.concatenate([mesh.faces[:, [a, (a + 1) % 3]] for a in range(3)])
    _, both = np.unique(np.sort(directed, axis=1), axis=0, return_counts=True)
    _, one = np.unique(directed, axis=0, return_counts=True)
    return both, one


def signed_volume(mesh):
    a, b, c = mesh.corners().transpose(1, 0, 2)
    return float(np.sum(a * np.cross(b, c)) / 6)


def ball(centre, radius):
    return lambda p: np.linalg.norm(p - np.asarray(centre), axis=-1) - radius


def box(half):
    def distance(p):
        q = np.abs(p) - np.asarray(half)
        outside = np.linalg.norm(np.maximum(q, 0), axis=-1)
        return outside + np.minimum(q.max(-1), 0)

    return distance


@pytest.mark.parametrize("centre", [(0.0, 0.0, 0.0), (0.013, -0.021, 0.037), (0.4, 0.4, 0.4)])
def test_a_ball_is_closed_outward_and_of_the_right_size_across_block_borders(centre):
    mesh = extract(filled(ball(centre, 0.5)))
    both, one = edge_uses(mesh)
    assert np.all(both == 2)
    assert np.all(one == 1)
    assert signed_volume(mesh) == pytest.approx(4 / 3 * np.pi * 0.125, rel=0.02)
    radius = np.linalg.norm(mesh.vertices - np.array(centre, np.float32), axis=1)
    assert np.abs(radius - 0.5).max() < 0.1 * VOXEL
    assert mesh.areas().min() > 0


def test_a_box_whose_faces_run_through_voxel_centres_is_closed_without_slivers():
    # 0.425 is the centre of a voxel: signs there would come from rounding.
    mesh = extract(filled(box([0.425, 0.325, 0.225])))
    both, one = edge_uses(mesh)
    assert np.all(both == 2)
    assert np.all(one == 1)
    assert mesh.areas().min() > 1e-10
    assert signed_volume(mesh) == pytest.approx(8 * 0.425 * 0.325 * 0.225, rel=0.08)


def test_zero_distance_with_rounding_noise_gives_one_sheet():
    rng = np.random.default_rng(1)

    def plane(p):
        return p[..., 2] - 0.025 + 1e-7 * rng.normal(size=p.shape[:-1])

    mesh = extract(filled(plane, low=-1, high=1))
    both, _ = edge_uses(mesh)
    n = 2 * BLOCK - 1
    assert np.ptp(mesh.vertices[:, 2]) < 1e-4
    assert len(mesh.faces) == 2 * (n - 1) ** 2
    assert (both == 1).sum() == 4 * (n - 1)


def test_winding_is_towards_the_free_space_of_a_plane():
    mesh = extract(filled(lambda p: p[..., 2] - 0.111, low=-1, high=1))
    assert (mesh.normals()[:, 2] > 0.999).all()
    assert np.allclose(mesh.vertices[:, 2], 0.111, atol=1e-5)


def test_a_slanted_plane_is_met_exactly():
    normal = np.array([0.36, 0.48, 0.8])
    mesh = extract(filled(lambda p: p @ normal - 0.03, low=-1, high=1))
    assert np.abs(mesh.vertices @ normal - 0.03).max() < 1e-5
    assert (mesh.normals() @ normal > 0.999).all()


def test_unmeasured_space_gets_no_surface():
    half = extract(filled(ball((0, 0, 0), 0.5), weight=lambda p: (p[..., 0] > 0).astype(float)))
    whole = extract(filled(ball((0, 0, 0), 0.5)))
    assert half.vertices[:, 0].min() > 0
    assert half.areas().sum() < 0.55 * whole.areas().sum()
    nothing = extract(filled(ball((0, 0, 0), 0.5), weight=lambda p: np.zeros(p.shape[:-1])))
    assert len(nothing.faces) == 0


def test_the_order_of_blocks_does_not_matter():
    volume = filled(ball((0.1, 0.05, -0.07), 0.45))
    expected = extract(volume)
    order = np.random.default_rng(3).permutation(volume._count)
    for name in ("coords", "tsdf", "weight", "free", "rgb"):
        setattr(volume, name, getattr(volume, name)[order])
    shuffled = extract(volume)
    assert shuffled.vertices.tobytes() == expected.vertices.tobytes()
    assert shuffled.faces.tobytes() == expected.faces.tobytes()


def test_colours_are_those_of_the_voxels_beside_the_surface():
    mesh = extract(filled(ball((0, 0, 0), 0.5)))
    assert np.allclose(mesh.colors, 0.25, atol=1e-6)
