"""Dust goes, simplification keeps shape and seams, tiles fit together, holes close when small."""

import numpy as np
import pytest

from worldloom.generator.surface.backs import winding
from worldloom.generator.surface.cleanup import (
    drop_dust,
    face_components,
    flatten_floor,
    without_slivers,
)
from worldloom.generator.surface.compare import sample_surface, score_surface
from worldloom.generator.surface.extract import Surface
from worldloom.generator.surface.holes import close_holes
from worldloom.generator.surface.observed import Observed
from worldloom.generator.surface.plan import LevelPlan
from worldloom.generator.surface.simplify import simplify
from worldloom.generator.surface.tiles import collider_tiles
from worldloom.scene.cameras import intrinsics
from worldloom.scene.frame import look_at
from worldloom.scene.mesh import TriMesh

VOXEL = 0.02


def sheet(nx, ny, *, side=0.1, origin=(0.0, 0.0), height=None):
    """A floor of nx x ny squares facing up."""
    x, y = np.meshgrid(np.arange(nx + 1), np.arange(ny + 1), indexing="ij")
    xy = np.stack([x, y], -1).reshape(-1, 2) * side + np.asarray(origin)
    z = np.zeros(len(xy)) if height is None else height(xy)
    vertices = np.concatenate([xy, z[:, None]], 1).astype(np.float32)
    index = np.arange(len(vertices)).reshape(nx + 1, ny + 1)
    a, b, c, d = index[:-1, :-1], index[1:, :-1], index[1:, 1:], index[:-1, 1:]
    faces = np.concatenate([np.stack(t, -1).reshape(-1, 3) for t in ((a, b, c), (a, c, d))])
    colors = np.stack([xy[:, 0] > xy[:, 0].mean()] * 3, 1).astype(np.float32)
    return TriMesh(vertices, faces.astype(np.int32), colors)


def boundary(mesh):
    """Lengths of the edges that only one face has, vertices welded by position."""
    _, number = np.unique(mesh.vertices, axis=0, return_inverse=True)
    faces = number.reshape(-1)[mesh.faces]
    edges = np.sort(np.concatenate([faces[:, [a, (a + 1) % 3]] for a in range(3)]), axis=1)
    _, first, uses = np.unique(edges, axis=0, return_index=True, return_counts=True)
    ends = np.concatenate([mesh.faces[:, [a, (a + 1) % 3]] for a in range(3)])[first[uses == 1]]
    return np.linalg.norm(np.diff(mesh.vertices[ends], axis=1)[:, 0], axis=1)


def surface(mesh, *, level=0, voxel=VOXEL):
    count, vertices = len(mesh.faces), len(mesh.vertices)
    return Surface(mesh, np.full(count, level, np.int8), np.ones(vertices, np.float32), voxel)


def seen_from_above(*, centre=(1.0, 1.0)):
    """What a camera two metres above a floor has seen."""
    K = intrinsics(90.0, 480, 480)
    plan = LevelPlan(VOXEL, near=VOXEL * K[0, 0] / 1.5)
    observed = Observed(plan, 0.5 * VOXEL)
    c2w = look_at([*centre, 2.0], [centre[0], centre[1] + 1e-4, 0.0])
    observed.add(np.full((480, 480), 2.0, np.float32), c2w, K)
    return observed


def test_dust_is_removed_and_what_touches_the_rest_stays():
    floor = sheet(100, 100)
    dust = sheet(3, 3, side=0.02, origin=(4.0, 4.0), height=lambda xy: np.full(len(xy), 1.0))
    kept = drop_dust(surface(TriMesh.concat([floor, dust])))
    assert len(kept.mesh.faces) == len(floor.faces) == len(kept.level)
    assert kept.mesh.vertices[:, 2].max() == 0
    assert len(drop_dust(surface(TriMesh.empty())).mesh.faces) == 0


def test_the_largest_part_stays_even_if_all_are_small():
    tiny, tinier = sheet(3, 3), sheet(2, 2, origin=(5, 5))
    kept = drop_dust(surface(TriMesh.concat([tinier, tiny])))
    assert len(kept.mesh.faces) == len(tiny.faces)


def test_components_are_told_apart():
    label = face_components(TriMesh.concat([sheet(4, 4), sheet(2, 2, origin=(3, 3))]))
    assert len(np.unique(label[:32])) == 1
    assert len(np.unique(label[32:])) == 1
    assert label[0] != label[-1]


def test_a_flat_floor_becomes_few_faces_and_keeps_its_outline():
    floor = simplify(sheet(100, 80), 0.005).mesh
    assert len(floor.faces) <= 200
    assert np.abs(floor.vertices[:, 2]).max() < 1e-6
    assert floor.areas().sum() == pytest.approx(80.0, rel=1e-3)
    assert boundary(floor).sum() == pytest.approx(36.0, rel=1e-3)
    assert (floor.normals()[:, 2] > 0.99).all()


def test_no_vertex_moves_further_than_the_bound():
    def waves(xy):
        return 0.1 * np.sin(3 * xy[:, 0]) * np.cos(2 * xy[:, 1])

    for bound in (0.002, 0.01):
        small = simplify(sheet(120, 100, side=0.05, height=waves), bound)
        assert small.over_bound == 1
        assert len(small.mesh.faces) < 12000
        away = np.abs(small.mesh.vertices[:, 2] - waves(small.mesh.vertices[:, :2]))
        assert away.max() < 1.5 * bound


def test_a_step_of_two_centimetres_survives_simplification():
    floor = sheet(200, 60, side=0.025, height=lambda xy: 0.02 * (xy[:, 0] > 2.5))
    small = simplify(floor, 0.005).mesh
    low = small.vertices[small.vertices[:, 0] < 2.4][:, 2]
    high = small.vertices[small.vertices[:, 0] > 2.6][:, 2]
    assert len(small.faces) < 1500
    assert np.abs(low).max() < 1e-3
    assert np.abs(high - 0.02).max() < 1e-3


def test_a_budget_is_met_and_what_that_cost_is_told():
    rng = np.random.default_rng(0)
    rough = sheet(80, 80, height=lambda xy: 0.01 * rng.normal(size=len(xy)))
    small = simplify(rough, 0.001, target=2000)
    assert len(small.mesh.faces) <= 2000
    assert small.over_bound > 1
    assert len(small.face) == len(small.mesh.faces)


def test_locked_vertices_stay_where_they_are():
    floor = sheet(40, 40, height=lambda xy: 0.05 * np.sin(5 * xy[:, 0]))
    locked = floor.vertices[:, 0] == floor.vertices[:, 0].max()
    small = simplify(floor, 0.02, locked=locked).mesh
    kept = {tuple(v) for v in small.vertices.tolist()}
    assert all(tuple(v) in kept for v in floor.vertices[locked].tolist())
    assert len(small.faces) < len(floor.faces) / 4


def test_simplification_opens_no_crack_and_joins_nothing():
    rng = np.random.default_rng(2)
    rough = sheet(60, 60, height=lambda xy: 0.01 * rng.normal(size=len(xy)))
    small = simplify(rough, 0.02).mesh
    edges = np.sort(np.concatenate([small.faces[:, [a, (a + 1) % 3]] for a in range(3)]), axis=1)
    _, uses = np.unique(edges, axis=0, return_counts=True)
    assert uses.max() == 2
    assert boundary(small).sum() == pytest.approx(24.0, rel=0.05)


def test_degenerate_repeated_and_infinite_faces_are_dropped_without_a_crack():
    floor = sheet(10, 10)
    vertices = np.concatenate([floor.vertices, [[np.nan, 0, 0]]]).astype(np.float32)
    # A vertex moved onto its neighbour makes two faces without area.
    vertices[60] = vertices[61]
    faces = np.concatenate([floor.faces, floor.faces[:3], [[0, 1, len(vertices) - 1]]])
    clean = without_slivers(surface(TriMesh(vertices, faces.astype(np.int32), None)))
    mesh = clean.mesh
    assert np.isfinite(mesh.vertices).all()
    assert mesh.areas().min() > 1e-8
    assert len(clean.level) == len(mesh.faces)
    assert len(np.unique(np.sort(mesh.faces, axis=1), axis=0)) == len(mesh.faces)
    assert boundary(mesh).sum() == pytest.approx(4.0, rel=1e-6)


def test_tiles_share_border_vertices_exactly_and_hold_the_whole_floor():
    floor = sheet(200, 150, side=0.15, origin=(-11.0, -7.0), height=lambda xy: np.sin(xy[:, 0]))
    tiles = collider_tiles(surface(floor), [], budget=100_000, far_level=9)
    assert len({place for place, _ in tiles}) == len(tiles)
    for _, mesh in tiles:
        assert np.ptp(mesh.vertices[:, :2], axis=0).max() < 10.0 + 2 * 0.15
    together = TriMesh.concat([mesh for _, mesh in tiles])
    assert len(together.faces) < len(floor.faces)
    assert boundary(together).sum() == pytest.approx(boundary(floor).sum(), rel=1e-2)
    assert collider_tiles(surface(TriMesh.empty()), [], budget=10, far_level=9) == []


def test_a_tile_whose_surface_did_not_change_keeps_its_bytes_while_another_grows():
    def hills(xy):
        return np.where(xy[:, 0] > 10.5, 0.1 * np.sin(3 * xy[:, 1]), 0.02 * np.sin(xy[:, 0]))

    old = collider_tiles(surface(sheet(195, 60)), [], budget=100_000, far_level=9)
    new = collider_tiles(
        surface(sheet(195, 60, height=lambda xy: np.where(xy[:, 0] > 10.5, hills(xy), 0))),
        [], budget=100_000, far_level=9,
    )  # fmt: skip
    (place, one), (same, two) = old[0], new[0]
    assert place == same == "0,0"
    assert one.vertices.tobytes() == two.vertices.tobytes()
    assert one.faces.tobytes() == two.faces.tobytes()
    assert old[1][1].vertices.tobytes() != new[1][1].vertices.tobytes()


def test_the_far_field_has_tiles_of_its_own_that_fit_the_near_ones():
    floor = sheet(300, 40, side=0.2, height=lambda xy: 0.1 * np.sin(xy[:, 0]))
    level = np.where(floor.corners()[:, :, 0].mean(1) > 20, 3, 0).astype(np.int8)
    both = Surface(floor, level, np.ones(len(floor.vertices), np.float32), VOXEL)
    tiles = collider_tiles(both, [], budget=100_000, far_level=2)
    assert {place.split(":")[0] for place, _ in tiles if ":" in place} == {"far"}
    together = TriMesh.concat([mesh for _, mesh in tiles])
    assert boundary(together).sum() == pytest.approx(boundary(floor).sum(), rel=1e-2)


def test_a_tile_that_is_too_full_is_quartered(monkeypatch):
    monkeypatch.setattr("worldloom.generator.surface.tiles.TILE_FACES", 500)
    rng = np.random.default_rng(1)
    rough = sheet(50, 50, height=lambda xy: rng.normal(size=len(xy)))
    tiles = collider_tiles(surface(rough), [], budget=10**6, far_level=9)
    assert all(len(mesh.faces) <= 500 for _, mesh in tiles)
    assert sum(len(mesh.faces) for _, mesh in tiles) > 3000


class Above:
    """A camera two metres above a floor that it saw."""

    c2w = look_at([2.0, 1.99, 2.0], [2.0, 2.0, 0.0])
    K = intrinsics(60.0, 128, 128)
    depth = np.full((128, 128), 2.0, np.float32)


def test_faces_wound_the_wrong_way_are_turned_over():
    floor = sheet(40, 40)
    turned = TriMesh(floor.vertices, floor.faces[:, ::-1].copy(), None)
    assert winding(floor, Above, VOXEL).behind.size == 0
    assert winding(turned, Above, VOXEL).turned.size > 100
    tiles = collider_tiles(surface(turned), [Above], budget=10**6, far_level=9)
    seen = [winding(mesh, Above, VOXEL) for _, mesh in tiles]
    assert not any(w.behind.size for w in seen)
    assert any(w.ahead.size for w in seen)


def test_backs_in_the_air_before_what_a_camera_saw_are_left_out():
    floor = sheet(40, 40)
    high = TriMesh(floor.vertices + np.float32([0, 0, 0.5]), floor.faces[:, ::-1].copy(), None)
    assert collider_tiles(surface(high), [Above], budget=10**6, far_level=9) == []
    # What stands behind the surface that the camera saw is none of its business.
    deep = TriMesh(high.vertices - np.float32([0, 0, 1.0]), high.faces, None)
    assert winding(deep, Above, VOXEL).behind.size == 0
    assert collider_tiles(surface(deep), [Above], budget=10**6, far_level=9)


def test_a_small_hole_in_a_floor_that_was_seen_is_closed():
    holed = with_hole(sheet(100, 100, side=0.02), radius=0.04)
    closed = close_holes(surface(holed), seen_from_above())
    assert boundary(closed.mesh).sum() == pytest.approx(8.0, rel=1e-4)
    assert closed.mesh.areas().sum() == pytest.approx(4.0, rel=1e-4)
    assert (closed.mesh.normals()[:, 2] > 0.999).all()
    assert len(closed.level) == len(closed.mesh.faces)
    assert len(closed.weight) == len(closed.mesh.vertices)


def test_a_small_hole_in_a_wall_is_closed_too():
    holed = with_hole(sheet(100, 100, side=0.02), radius=0.04)
    turn = np.float32([[1, 0, 0], [0, 0, -1], [0, 1, 0]])
    wall = TriMesh(holed.vertices @ turn.T, holed.faces, None)
    observed = seen_from_above()
    observed.look = lambda points: np.ones(len(points), np.uint8)
    closed = close_holes(surface(wall), observed)
    assert boundary(closed.mesh).sum() == pytest.approx(8.0, rel=1e-4)
    assert closed.mesh.areas().sum() == pytest.approx(4.0, rel=1e-4)


def test_a_large_hole_and_one_that_nobody_saw_stay_open():
    floor = sheet(100, 100, side=0.02)
    large = surface(with_hole(floor, radius=0.2))
    assert close_holes(large, seen_from_above()) is large
    unseen = surface(with_hole(floor, radius=0.04))
    assert close_holes(unseen, seen_from_above(centre=(9.0, 9.0))) is unseen


def with_hole(mesh, *, radius):
    """The mesh without the faces around its middle."""
    middle = mesh.corners().mean(1)[:, :2] - np.ptp(mesh.vertices[:, :2], axis=0) / 2
    return mesh.select_faces(np.abs(middle).max(1) > radius)


def test_the_floor_near_zero_is_put_onto_it_and_walls_stay():
    floor = sheet(20, 20, height=lambda xy: 0.01 * np.sin(9 * xy[:, 0]))
    flat = flatten_floor(surface(floor), 0.02).mesh
    assert np.abs(flat.vertices[:, 2]).max() == 0
    assert flatten_floor(surface(floor), 0.0).mesh is floor


def test_the_same_mesh_gives_the_same_bytes():
    floor = sheet(60, 60, height=lambda xy: 0.1 * np.sin(3 * xy[:, 0]) * np.cos(2 * xy[:, 1]))
    one, two = simplify(floor, 0.01).mesh, simplify(floor, 0.01).mesh
    assert one.vertices.tobytes() == two.vertices.tobytes()
    assert one.faces.tobytes() == two.faces.tobytes()


def test_a_surface_agrees_with_itself_and_not_with_one_elsewhere():
    floor = sheet(20, 20)
    lifted = TriMesh(floor.vertices + np.float32([0, 0, 0.1]), floor.faces, None)
    half = floor.select_faces(floor.corners()[:, :, 0].max(1) <= 1.01)
    points = sample_surface(floor, 20_000, 1)
    assert points[:, :2].min() >= 0
    assert np.allclose(points.mean(0), [1, 1, 0], atol=0.02)
    assert score_surface(points, sample_surface(floor, 20_000, 2), 0.05).f_score > 0.999
    assert score_surface(points, sample_surface(lifted, 20_000, 2), 0.05).f_score == 0
    part = score_surface(sample_surface(half, 20_000, 3), points, 0.05)
    assert part.accuracy > 0.999
    assert part.completeness == pytest.approx(0.52, abs=0.03)
