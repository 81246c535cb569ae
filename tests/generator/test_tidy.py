"""Floaters go, decimation keeps shape and seams, tiles fit together."""

import numpy as np
import pytest

from worldloom.generator.surface.compare import sample_surface, score_surface
from worldloom.generator.surface.tidy import (
    collider_tiles,
    decimate,
    face_components,
    remove_floaters,
    visual_mesh,
)
from worldloom.scene.mesh import TriMesh


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


def test_floaters_are_removed_and_what_touches_the_rest_stays():
    floor = sheet(100, 100)
    dust = sheet(3, 3, side=0.02, origin=(4.0, 4.0), height=lambda xy: np.full(len(xy), 1.0))
    kept = remove_floaters(TriMesh.concat([floor, dust]))
    assert len(kept.faces) == len(floor.faces)
    assert kept.vertices[:, 2].max() == 0
    assert len(remove_floaters(TriMesh.empty()).faces) == 0


def test_the_largest_part_stays_even_if_all_are_small():
    tiny, tinier = sheet(3, 3), sheet(2, 2, origin=(5, 5))
    kept = remove_floaters(TriMesh.concat([tinier, tiny]))
    assert len(kept.faces) == len(tiny.faces)


def test_components_are_told_apart():
    label = face_components(TriMesh.concat([sheet(4, 4), sheet(2, 2, origin=(3, 3))]))
    assert len(np.unique(label[:32])) == 1
    assert len(np.unique(label[32:])) == 1
    assert label[0] != label[-1]


def test_decimation_keeps_a_flat_floor_flat_and_its_outline():
    floor = decimate(sheet(100, 80), 2000)
    assert len(floor.faces) <= 2000
    assert np.abs(floor.vertices[:, 2]).max() < 1e-6
    assert floor.areas().sum() == pytest.approx(80.0, rel=2e-3)
    assert boundary(floor).sum() == pytest.approx(36.0, rel=2e-2)
    assert (floor.normals()[:, 2] > 0.99).all()


def test_decimation_keeps_a_step_of_two_centimetres():
    floor = sheet(200, 60, side=0.025, height=lambda xy: 0.02 * (xy[:, 0] > 2.5))
    small = decimate(floor, 1500)
    low = small.vertices[small.vertices[:, 0] < 2.4][:, 2]
    high = small.vertices[small.vertices[:, 0] > 2.6][:, 2]
    assert np.abs(low).max() < 1e-3
    assert np.abs(high - 0.02).max() < 1e-3


def test_decimation_keeps_colours_where_they_were():
    small = decimate(sheet(100, 80), 3000)
    left = small.vertices[:, 0] < 4.7
    assert np.all(small.colors[left] == 0)
    assert np.all(small.colors[small.vertices[:, 0] > 5.3] == 1)


def test_degenerate_repeated_and_infinite_faces_are_dropped_without_a_crack():
    floor = sheet(10, 10)
    vertices = np.concatenate([floor.vertices, [[np.nan, 0, 0]]]).astype(np.float32)
    # A vertex moved onto its neighbour makes two faces without area.
    vertices[60] = vertices[61]
    faces = np.concatenate([floor.faces, floor.faces[:3], [[0, 1, len(vertices) - 1]]])
    mesh = decimate(TriMesh(vertices, faces.astype(np.int32), None), 10_000)
    assert np.isfinite(mesh.vertices).all()
    assert mesh.areas().min() > 1e-8
    assert len(np.unique(np.sort(mesh.faces, axis=1), axis=0)) == len(mesh.faces)
    assert boundary(mesh).sum() == pytest.approx(4.0, rel=1e-6)


def test_tiles_hold_every_face_once_share_border_vertices_and_stay_small():
    floor = sheet(200, 150, side=0.15, origin=(-11.0, -7.0), height=lambda xy: np.sin(xy[:, 0]))
    tiles = collider_tiles(floor, max_faces=9000)
    assert len({place for place, _ in tiles}) == len(tiles)
    assert max(len(mesh.faces) for _, mesh in tiles) <= 9000
    assert sum(len(mesh.faces) for _, mesh in tiles) == len(floor.faces)
    for _, mesh in tiles:
        assert np.ptp(mesh.vertices[:, :2], axis=0).max() < 10.0 + 2 * 0.15
    together = TriMesh.concat([mesh for _, mesh in tiles])
    assert boundary(together).sum() == pytest.approx(boundary(floor).sum(), rel=1e-5)
    assert collider_tiles(TriMesh.empty()) == []


def test_the_same_mesh_gives_the_same_bytes():
    floor = sheet(60, 60, height=lambda xy: 0.1 * np.sin(3 * xy[:, 0]) * np.cos(2 * xy[:, 1]))
    one, two = decimate(floor, 1500), decimate(floor, 1500)
    assert one.vertices.tobytes() == two.vertices.tobytes()
    assert one.faces.tobytes() == two.faces.tobytes()
    assert len(visual_mesh(floor, 1000).faces) <= 1000


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
