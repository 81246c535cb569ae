"""A raw surface -> what physics and viewers want: no floaters, few triangles, small tiles."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from worldloom.scene.mesh import TriMesh

FLOATER_SHARE = 0.0005  # Components below this share of the area are dust (spec 4.2).
FLOATER_FACES = 200  # Components with fewer faces are dust (spec 4.2).
TILE_M = 10.0  # Side of a collider tile [m] (spec 4.2).
TILE_FACES = 50_000  # Most faces of a collider tile (spec 4.2).
AREA_MIN = 1e-8  # Faces smaller than this are degenerate [m^2].


def remove_floaters(mesh: TriMesh) -> TriMesh:
    """Drop connected components that are too small to be anything."""
    if len(mesh.faces) == 0:
        return mesh
    label = face_components(mesh)
    area = np.bincount(label, mesh.areas())
    faces = np.bincount(label)
    keep = (area >= FLOATER_SHARE * area.sum()) & (faces >= FLOATER_FACES)
    if not keep.any():
        keep[area.argmax()] = True
    return mesh.select_faces(keep[label])


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
    return compact.astype(np.int32)


def decimate(mesh: TriMesh, target: int) -> TriMesh:
    """At most `target` faces by quadric edge collapse; flat parts lose most.

    Vertex colours are taken from the nearest original vertex.
    """
    if len(mesh.faces) <= target:
        return _clean(mesh)
    import fast_simplification

    points, faces = fast_simplification.simplify(
        np.ascontiguousarray(mesh.vertices, np.float32),
        np.ascontiguousarray(mesh.faces, np.int32),
        target_count=target,
        agg=3.0,
    )
    colors = None
    if mesh.colors is not None:
        from scipy.spatial import cKDTree

        _, nearest = cKDTree(mesh.vertices).query(points)
        colors = mesh.colors[nearest]
    return _clean(TriMesh(points.astype(np.float32), faces.astype(np.int32), colors))


def visual_mesh(mesh: TriMesh, target: int) -> TriMesh:
    """The coloured preview mesh with at most `target` faces."""
    return decimate(mesh, target)


def collider_tiles(
    mesh: TriMesh, *, tile_m: float = TILE_M, max_faces: int = TILE_FACES
) -> list[tuple[tuple[int, int], TriMesh]]:
    """Cut a collider into square columns; neighbours share the very same border vertices.

    Returns:
        Place (i, j) of each tile on the grid of its side, and its faces. The side is halved until
        no tile has more than `max_faces`.
    """
    if len(mesh.faces) == 0:
        return []
    centre = mesh.corners()[:, :, :2].mean(1)
    side = tile_m
    while True:
        place = np.floor(centre / side).astype(np.int64)
        tiles, label = np.unique(place, axis=0, return_inverse=True)
        label = label.reshape(-1)
        if np.bincount(label).max() <= max_faces or side < 0.25:
            break
        side /= 2
    return [
        ((int(i), int(j)), mesh.select_faces(label == number))
        for number, (i, j) in enumerate(tiles)
    ]


def _clean(mesh: TriMesh) -> TriMesh:
    """Drop degenerate, repeated and non-finite faces."""
    finite = np.isfinite(mesh.vertices).all(1)[mesh.faces].all(1)
    ordered = np.sort(mesh.faces, axis=1)
    _, first = np.unique(ordered, axis=0, return_index=True)
    once = np.zeros(len(mesh.faces), bool)
    once[first] = True
    with np.errstate(invalid="ignore"):
        return mesh.select_faces(finite & once & (mesh.areas() > AREA_MIN))
