"""A raw surface -> what physics and viewers want: no floaters, few triangles, small tiles."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from worldloom.scene.mesh import TriMesh

FLOATER_SHARE = 0.0005  # Components below this share of the area are dust (spec 4.2).
FLOATER_FACES = 200  # Components with fewer faces are dust (spec 4.2).
TILE_M = 10.0  # Side of a collider tile [m] (spec 4.2).
TILE_FACES = 50_000  # Most faces of a collider tile (spec 4.2).
FLOOR_NORMAL = 0.5  # z of a unit normal above which a face is floor and no riser (60 degrees).
AREA_MIN = 1e-8  # Faces smaller than this are degenerate [m^2].
SLIVER_EDGE_M = 2e-3  # A degenerate face with an edge below this is closed by merging its ends.
SLIVER_ROUNDS = 4  # Merging may make new slivers; few are left after two rounds.


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


def flatten_floor(mesh: TriMesh, within_m: float) -> TriMesh:
    """Put the vertices of level faces near z = 0 onto it (spec reconstruction 4.2, Ground).

    For worlds whose floor is the plane z = 0 by construction: fusion rounds the edge where a wall
    meets the floor by a fraction of a voxel, and a wheel or a ball would feel the groove.

    Args:
        mesh: Surface in the world frame.
        within_m: Largest height that is moved [m]; 0 leaves the mesh as it is.
    """
    if within_m <= 0 or len(mesh.faces) == 0:
        return mesh
    cross = mesh.cross()
    level = cross[:, 2] > FLOOR_NORMAL * np.linalg.norm(cross, axis=1)
    touched = np.zeros(len(mesh.vertices), bool)
    touched[mesh.faces[level].ravel()] = True
    touched &= np.abs(mesh.vertices[:, 2]) <= within_m
    vertices = mesh.vertices.copy()
    vertices[touched, 2] = 0
    return TriMesh(vertices, mesh.faces, mesh.colors)


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
    """Merge slivers away, then drop degenerate, repeated and non-finite faces."""
    mesh = _merge_slivers(mesh.select_faces(np.isfinite(mesh.corners()).all((1, 2))))
    ordered = np.sort(mesh.faces, axis=1)
    _, first = np.unique(ordered, axis=0, return_index=True)
    once = np.zeros(len(mesh.faces), bool)
    once[first] = True
    return mesh.select_faces(once & (mesh.areas() > AREA_MIN))


def _merge_slivers(mesh: TriMesh) -> TriMesh:
    """Close faces without area by merging the ends of their shortest edge.

    Dropping them would leave a crack: their neighbours meet only through them.
    """
    for _ in range(SLIVER_ROUNDS):
        bad = mesh.faces[mesh.areas() <= AREA_MIN]
        ends = np.stack([bad, np.roll(bad, -1, axis=1)], -1)
        length = np.linalg.norm(np.diff(mesh.vertices[ends], axis=2)[:, :, 0], axis=-1)
        side = length.argmin(1) if len(bad) else np.zeros(0, np.int64)
        row = np.arange(len(bad))
        pairs = np.sort(ends[row, side][length[row, side] < SLIVER_EDGE_M], axis=1)
        pairs = pairs[pairs[:, 0] < pairs[:, 1]]
        if len(pairs) == 0:
            break
        target = np.arange(len(mesh.vertices))
        np.minimum.at(target, pairs[:, 1], pairs[:, 0])
        faces = target[mesh.faces].astype(np.int32)
        distinct = (faces != np.roll(faces, -1, axis=1)).all(1)
        mesh = TriMesh(mesh.vertices, faces, mesh.colors).select_faces(distinct)
    return mesh
