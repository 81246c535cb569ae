"""The zero level of a volume: closed where it is measured, also across levels; else open."""

import numpy as np
import pytest

from worldloom.generator.surface.extract import extract_surface
from worldloom.generator.surface.keys import BLOCK
from worldloom.generator.surface.levels import LevelVolume
from worldloom.generator.surface.plan import LevelPlan
from worldloom.generator.surface.simplify import border_edges

VOXEL, LEVELS = 0.05, 3
PLAN = LevelPlan(VOXEL, LEVELS, near=2.0)


def blocks_at(level, low, high):
    """Blocks of a level with coordinates from `low` up to, not including, `high`."""
    axes = [np.arange(a, b) for a, b in zip(low, high, strict=True)]
    ijk = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)
    return np.column_stack([np.full(len(ijk), level), ijk]).astype(np.int32)


def filled(distance, *, low=-3, high=3, coords=None, weight=None):
    """A volume whose samples have the signed distance function `distance`."""
    volume = LevelVolume(PLAN)
    if coords is None:
        coords = blocks_at(0, [low] * 3, [high] * 3)
    place = np.arange(BLOCK)
    ijk = np.stack(np.meshgrid(place, place, place, indexing="ij"), -1).reshape(-1, 3)
    voxel = VOXEL * 2.0 ** coords[:, None, :1]
    at = (coords[:, None, 1:] * BLOCK + ijk) * voxel + volume.origin
    volume.coords = coords
    volume.tsdf = np.clip(distance(at) / (PLAN.truncation * voxel[..., 0]), -1, 1)
    volume.tsdf = volume.tsdf.astype(np.float32)
    volume.weight = np.ones(volume.tsdf.shape, np.float32)
    if weight is not None:
        volume.weight *= weight(at)
    volume.free = np.zeros_like(volume.tsdf)
    volume.rgb = np.full((*volume.tsdf.shape, 3), 65535 // 4, np.uint16)
    volume._count = len(coords)
    volume._index(4096)
    return volume


def steps(*, span=4):
    """Blocks of three levels side by side along x, 2:1 balanced, around the origin."""
    return np.concatenate(
        [
            blocks_at(0, [-2 * span, -span, -span], [0, span, span]),
            blocks_at(1, [0, -span // 2, -span // 2], [2, span // 2, span // 2]),
            blocks_at(2, [1, -span // 4, -span // 4], [3, span // 4, span // 4]),
        ]
    )


def extract(volume):
    return extract_surface(volume).mesh


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


@pytest.mark.parametrize("x", [0.0, 0.77, 0.4, 0.9])
def test_a_ball_across_two_borders_of_levels_is_closed_and_round(x):
    # Level 1 begins at x = 0, level 2 at 0.8; the ball reaches over one of them or both.
    mesh = extract(filled(ball((x, 0.03, -0.02), 0.55), coords=steps()))
    both, one = edge_uses(mesh)
    assert np.all(both == 2)
    assert np.all(one == 1)
    assert signed_volume(mesh) == pytest.approx(4 / 3 * np.pi * 0.55**3, rel=0.05)
    radius = np.linalg.norm(mesh.vertices - np.float32([x, 0.03, -0.02]), axis=1)
    assert np.abs(radius - 0.55).max() < 0.1 * 4 * VOXEL


@pytest.mark.parametrize("normal", [(0.36, 0.48, 0.8), (0.1, 0.05, 0.99), (-0.6, 0.2, 0.7)])
def test_a_slanted_plane_across_levels_is_met_exactly_without_a_gap(normal):
    normal = np.array(normal) / np.linalg.norm(normal)
    surface = extract_surface(filled(lambda p: p @ normal - 0.031, coords=steps()))
    mesh = surface.mesh
    assert set(surface.level) == {0, 1, 2}
    assert np.abs(mesh.vertices @ normal - 0.031).max() < 2e-4 * 4 * VOXEL
    folded = mesh.areas()[mesh.normals() @ normal < 0.999].sum()
    assert folded < 1e-4 * mesh.areas().sum()
    # Borders are only where the blocks end, never inside.
    ends = mesh.vertices[border_edges(mesh.faces)].mean(1)
    low, high = np.array([-3.2, -1.6, -1.6]), np.array([4.8, 1.6, 1.6])
    inside = np.minimum(ends - low, high - ends).min(1)
    assert inside.max() < 2 * 4 * VOXEL


def test_a_box_whose_faces_run_through_samples_is_closed_without_slivers():
    # 0.425 is a sample: signs there would come from rounding.
    mesh = extract(filled(box([0.425, 0.325, 0.225])))
    both, one = edge_uses(mesh)
    assert np.all(both == 2)
    assert np.all(one == 1)
    assert mesh.areas().min() > 1e-10
    assert signed_volume(mesh) == pytest.approx(8 * 0.425 * 0.325 * 0.225, rel=0.02)


def test_zero_distance_with_rounding_noise_gives_one_sheet():
    rng = np.random.default_rng(1)

    def plane(p):
        return p[..., 2] - 0.025 + 1e-7 * rng.normal(size=p.shape[:-1])

    mesh = extract(filled(plane, low=-1, high=1))
    both, _ = edge_uses(mesh)
    n = 2 * BLOCK - 1
    assert np.ptp(mesh.vertices[:, 2]) < 1e-3 * VOXEL * 4
    assert len(mesh.faces) == 2 * (n - 1) ** 2
    assert (both == 1).sum() == 4 * (n - 1)


def test_winding_is_towards_the_free_space_of_a_plane():
    mesh = extract(filled(lambda p: p[..., 2] - 0.111, low=-1, high=1))
    assert (mesh.normals()[:, 2] > 0.999).all()
    assert np.allclose(mesh.vertices[:, 2], 0.111, atol=1e-5)


def test_unmeasured_space_gets_no_surface():
    half = extract(filled(ball((0, 0, 0), 0.5), weight=lambda p: (p[..., 0] > 0).astype(float)))
    whole = extract(filled(ball((0, 0, 0), 0.5)))
    assert half.vertices[:, 0].min() > 0
    assert half.areas().sum() < 0.55 * whole.areas().sum()
    nothing = extract(filled(ball((0, 0, 0), 0.5), weight=lambda p: np.zeros(p.shape[:-1])))
    assert len(nothing.faces) == 0


def test_what_the_fine_level_did_not_measure_the_coarse_one_fills():
    coarse = blocks_at(1, [-2, -2, -2], [2, 2, 2])
    fine = blocks_at(0, [-2, -2, -2], [2, 2, 2])
    volume = filled(ball((0, 0, 0), 0.45), coords=np.concatenate([fine, coarse]))
    volume.weight[: len(fine)] *= np.arange(len(fine))[:, None] % 2
    mesh = extract(volume)
    both, _ = edge_uses(mesh)
    assert np.all(both == 2)
    assert signed_volume(mesh) == pytest.approx(4 / 3 * np.pi * 0.45**3, rel=0.05)


def test_the_order_of_blocks_does_not_matter():
    volume = filled(ball((0.1, 0.05, -0.07), 0.45), coords=steps())
    expected = extract_surface(volume)
    order = np.random.default_rng(3).permutation(volume._count)
    for name in ("coords", "tsdf", "weight", "free", "rgb"):
        setattr(volume, name, getattr(volume, name)[order])
    volume._index(4096)
    shuffled = extract_surface(volume)
    for name in ("vertices", "faces", "colors"):
        one, two = getattr(shuffled.mesh, name), getattr(expected.mesh, name)
        assert one.tobytes() == two.tobytes()
    assert shuffled.level.tobytes() == expected.level.tobytes()


def test_colours_are_those_of_the_samples_beside_the_surface():
    mesh = extract(filled(ball((0, 0, 0), 0.5)))
    assert np.allclose(mesh.colors, 0.25, atol=1e-4)
