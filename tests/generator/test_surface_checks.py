"""The checks of a collider find what they are made for, and nothing in a good one."""

from types import SimpleNamespace

import numpy as np
import pytest

from worldloom.generator.surface.plan import LevelPlan
from worldloom.generator.truth.surface_checks import check_surface, crack_edges, welded
from worldloom.scene.cameras import intrinsics
from worldloom.scene.frame import look_at
from worldloom.scene.mesh import TriMesh

K = intrinsics(90.0, 240, 240)
PLAN = LevelPlan(0.02, near=1.6)


def floor(nx=100, ny=100, *, side=0.02, origin=(0.0, 0.0), z=0.0):
    """A floor of squares facing up."""
    x, y = np.meshgrid(np.arange(nx + 1), np.arange(ny + 1), indexing="ij")
    xy = np.stack([x, y], -1).reshape(-1, 2) * side + np.asarray(origin)
    vertices = np.column_stack([xy, np.full(len(xy), z)]).astype(np.float32)
    index = np.arange(len(vertices)).reshape(nx + 1, ny + 1)
    a, b, c, d = index[:-1, :-1], index[1:, :-1], index[1:, 1:], index[:-1, 1:]
    faces = np.concatenate([np.stack(t, -1).reshape(-1, 3) for t in ((a, b, c), (a, c, d))])
    return TriMesh(vertices, faces.astype(np.int32))


def looking_down(x=1.0, y=1.0, *, height=1.5):
    """A camera above the floor; it sees a square of twice its height."""
    c2w = look_at([x, y, height], [x, y + 1e-4, 0.0])
    return SimpleNamespace(depth=np.full((240, 240), height, np.float32), c2w=c2w, K=K)


def test_a_sound_floor_passes_everything():
    checks = check_surface([floor()], [looking_down()], plan=PLAN)
    # The outline of the floor lies inside what the camera saw: it is told as a crack.
    inner = check_surface([floor(200, 200, origin=(-1.0, -1.0))], [looking_down()], plan=PLAN)
    assert checks.crack_edges == 400
    assert inner.crack_edges == 0
    assert inner.border_edges == 800
    assert inner.inward == 0
    assert checks.invented_share == 0
    assert checks.triangles == 20_000
    assert checks.per_100_m2 == pytest.approx(20_000 * 25, rel=1e-3)


def test_a_slit_between_tiles_is_a_crack_and_a_seam_within_the_weld_is_none():
    left = floor(100, 200, origin=(-1.0, -1.0))
    for gap, cracks in ((0.0, False), (5e-5, False), (0.005, True)):
        right = floor(100, 200, origin=(1.0 + gap, -1.0))
        found = check_surface([left, right], [looking_down()], plan=PLAN)
        assert (found.crack_edges > 0) == cracks
        assert (found.crack_m > 2) == cracks


def test_a_border_where_nobody_looked_further_is_no_crack():
    small = looking_down(height=0.5)
    mesh = floor(51, 51, origin=(0.49, 0.49))
    assert not crack_edges(mesh, [small], plan=PLAN).any()
    assert crack_edges(mesh, [looking_down()], plan=PLAN).any()


def test_far_surface_is_held_to_the_voxels_of_its_level():
    # From 8 m a voxel has 8 cm (level 2): 2.87 of them are 23 cm, and the picture shows 16 m.
    far = looking_down(0.0, 0.0, height=8.0)
    for gap, cracks in ((0.15, False), (0.35, True)):
        half = 8.0 - gap
        mesh = floor(200, 200, side=half / 100, origin=(-half, -half))
        edges = crack_edges(mesh, [far], plan=PLAN)
        # The corners are seen from farther than the middles of the sides, at the same level.
        assert edges.any() == cracks
        near = crack_edges(mesh, [far], plan=LevelPlan(0.02, near=8.0))
        assert near.any()


def test_triangles_turned_over_are_inward():
    mesh = floor()
    turned = TriMesh(mesh.vertices, mesh.faces[:, ::-1].copy())
    assert check_surface([turned], [looking_down()], plan=PLAN).inward > 1000


def test_surface_behind_what_was_seen_is_invented():
    hidden = floor(z=-0.5)
    checks = check_surface([floor(), hidden], [looking_down()], plan=PLAN)
    assert checks.invented_share == pytest.approx(0.5, abs=0.01)
    assert check_surface([hidden], [], plan=PLAN).invented_share == 1


def test_nothing_to_check_is_told_as_nothing():
    checks = check_surface([], [looking_down()], plan=PLAN)
    assert (checks.border_edges, checks.crack_edges, checks.inward, checks.triangles) == (0,) * 4
    assert checks.invented_share == 0


def test_welding_joins_what_is_near_and_drops_what_collapses():
    left, right = floor(10, 10), floor(10, 10, origin=(0.2 + 3e-5, 0.0))
    joined = welded(TriMesh.concat([left, right]))
    assert len(joined.vertices) == 2 * 121 - 11
    assert len(joined.faces) == 400
