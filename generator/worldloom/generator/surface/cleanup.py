"""A raw surface -> a clean one: no dust, no slivers, a flat floor."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from worldloom.generator.surface.extract import Surface
from worldloom.scene.mesh import TriMesh

DUST_SHARE = 0.0005  # Components below this share of the area are dust (spec 4.2),
DUST_VOXELS2 = 500.0  # if they are also smaller than so many squared voxels;
DUST_FACES = 200  # and components with fewer faces than this are (spec 4.2).
AREA_MIN = 1e-8  # Faces smaller than this are degenerate [m^2].
SLIVER_EDGE_M = 2e-3  # A degenerate face with an edge below this is closed by merging its ends.
SLIVER_ROUNDS = 4  # Merging may make new slivers; few are left after two rounds.
FLOOR_NORMAL = 0.5  # z of a unit normal above which a face is floor and no riser (60 degrees).


def drop_dust(surface: Surface) -> Surface:
    """Drop connected components that are too small to be anything; the largest always stays."""
    mesh = surface.mesh
    if len(mesh.faces) == 0:
        return surface
    label = face_components(mesh)
    area, faces = np.bincount(label, mesh.areas()), np.bincount(label)
    voxel = np.zeros(len(area))
    np.maximum.at(voxel, label, surface.voxel * 2.0**surface.level)
    small = (area < DUST_SHARE * area.sum()) & (area < DUST_VOXELS2 * voxel**2)
    keep = ~small & (faces >= DUST_FACES)
    if not keep.any():
        keep[area.argmax()] = True
    return surface if keep.all() else surface.select(keep[label])


def face_components(mesh: TriMesh) -> NDArray[np.int32]:
    """Number of the connected component of each face, shape [f]."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    rows = mesh.faces[:, [0, 1]].ravel()
    columns = mesh.faces[:, [1, 2]].ravel()
    count = len(mesh.vertices)
    graph = coo_matrix((np.ones(len(rows), np.int8), (rows, columns)), shape=(count, count))
    _, label = connected_components(graph, directed=False)
    _, compact = np.unique(label[mesh.faces[:, 0]], return_inverse=True)
    return compact.reshape(-1).astype(np.int32)


def flatten_floor(surface: Surface, within_m: float) -> Surface:
    """Put the vertices of level faces near z = 0 onto it (spec reconstruction 4.2, Ground).

    For worlds whose floor is the plane z = 0 by construction: fusion rounds the edge where a wall
    meets the floor by a fraction of a voxel, and a wheel or a ball would feel the groove.

    Args:
        surface: World frame.
        within_m: Largest height that is moved [m]; 0 leaves the surface as it is.
    """
    mesh = surface.mesh
    if within_m <= 0 or len(mesh.faces) == 0:
        return surface
    cross = mesh.cross()
    level = cross[:, 2] > FLOOR_NORMAL * np.linalg.norm(cross, axis=1)
    touched = np.zeros(len(mesh.vertices), bool)
    touched[mesh.faces[level].ravel()] = True
    touched &= np.abs(mesh.vertices[:, 2]) <= within_m
    vertices = mesh.vertices.copy()
    vertices[touched, 2] = 0
    return replace(surface, mesh=TriMesh(vertices, mesh.faces, mesh.colors))


def without_slivers(surface: Surface) -> Surface:
    """Merge slivers away, then drop degenerate, repeated and non-finite faces.

    Dropping a sliver alone would leave a crack: its neighbours meet only through it.
    """
    mesh = surface.mesh
    if len(mesh.faces) == 0:
        return surface
    surface = surface.select(np.isfinite(mesh.corners()).all((1, 2)))
    for _ in range(SLIVER_ROUNDS):
        mesh = surface.mesh
        target = _sliver_targets(mesh)
        if target is None:
            break
        faces = target[mesh.faces].astype(np.int32)
        distinct = (faces != np.roll(faces, -1, axis=1)).all(1)
        merged = replace(surface, mesh=TriMesh(mesh.vertices, faces, mesh.colors))
        surface = merged.select(distinct)
    keep = _first_of_equals(surface.mesh.faces) & (surface.mesh.areas() > AREA_MIN)
    return surface if keep.all() else surface.select(keep)


def _first_of_equals(faces: NDArray[np.int32]) -> NDArray[np.bool_]:
    """Faces [f 3] that name no set of corners that an earlier one named, [f]."""
    ordered = np.sort(faces, axis=1)
    order = np.lexsort(ordered.T[::-1])
    same = (ordered[order[1:]] == ordered[order[:-1]]).all(1)
    out = np.ones(len(faces), bool)
    # The sort is stable: of equal rows the first keeps its lower number.
    out[order[1:][same]] = False
    return out


def _sliver_targets(mesh: TriMesh) -> NDArray[np.int64] | None:
    """Which vertex each one is merged into to close the faces without area, [v]; None for none."""
    bad = mesh.faces[mesh.areas() <= AREA_MIN]
    if len(bad) == 0:
        return None
    ends = np.stack([bad, np.roll(bad, -1, axis=1)], -1)
    length = np.linalg.norm(np.diff(mesh.vertices[ends], axis=2)[:, :, 0], axis=-1)
    side, row = length.argmin(1), np.arange(len(bad))
    pairs = np.sort(ends[row, side][length[row, side] < SLIVER_EDGE_M], axis=1)
    pairs = pairs[pairs[:, 0] < pairs[:, 1]]
    if len(pairs) == 0:
        return None
    target = np.arange(len(mesh.vertices))
    np.minimum.at(target, pairs[:, 1], pairs[:, 0])
    return target
