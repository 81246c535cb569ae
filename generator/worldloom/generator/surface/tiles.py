"""A clean surface -> collider tiles: near ones fine, far ones coarse, borders that fit exactly.

Each tile is simplified by itself with the vertices that it shares with others locked. So tiles
weld together without a gap, and a tile whose surface did not change keeps its bytes while the
world grows elsewhere.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from worldloom.generator.surface.backs import Look, tiles_without_backs
from worldloom.generator.surface.extract import Surface
from worldloom.generator.surface.simplify import compacted, simplify
from worldloom.scene.mesh import TriMesh

TILE_M = 10.0  # Side of a tile near the cameras [m] (spec 4.2).
FAR_TILE_M = 40.0  # Side of a tile of the far field [m].
TILE_FACES = 50_000  # Most faces of a tile (spec 4.2).
BOUND_VOXELS = 0.4  # Bound of the simplification in voxels; the spec allows 0.5.
PLACES = 2**20  # Tiles along a side of the world that can be told apart.
SPLITS_MOST = 6  # A tile that is too full is quartered so often at the most.

LOGGER = logging.getLogger(__name__)
Tiles = list[tuple[str, TriMesh]]


def collider_tiles(
    surface: Surface, frames: Sequence[Look], *, budget: int, far_level: int
) -> Tiles:
    """Cut a surface into square columns, simplify each, and verify the winding by rays.

    Args:
        surface: Clean surface.
        frames: Depth maps with cameras; what one of them sees from behind is left out.
        budget: Most triangles altogether; the error bound is kept unless they do not suffice.
        far_level: Faces of this level and above go into tiles of their own.

    Returns:
        Place of each tile, `i,j` or `far:i,j` (a quarter adds `/0` to `/3`), and its triangles.
    """
    if len(surface.mesh.faces) == 0:
        return []
    label, names = _places(surface, far_level)
    locked = _shared_vertices(surface.mesh.faces, label)
    bound = BOUND_VOXELS * surface.voxel * 2.0 ** surface.vertex_level().astype(float)
    tiles = _simplified(surface.mesh, label, bound, locked, budget)
    tiles = tiles_without_backs(tiles, frames, surface.voxel)
    pieces = [
        piece
        for name, tile in zip(names, tiles, strict=True)
        for piece in _quartered(name, tile, SPLITS_MOST)
    ]
    return [(name, tile) for name, tile in pieces if len(tile.faces)]


def _places(surface: Surface, far_level: int) -> tuple[NDArray[np.int64], list[str]]:
    """Number of the tile of each face [f], and the names of the tiles."""
    centre = surface.mesh.corners()[:, :, :2].mean(1)
    far = surface.level >= far_level
    side = np.where(far, FAR_TILE_M, TILE_M)[:, None]
    i, j = np.floor(centre / side).astype(np.int64).T
    key = (far * PLACES + i + PLACES // 2) * PLACES + j + PLACES // 2
    unique, label = np.unique(key, return_inverse=True)
    rest, columns = unique // PLACES, unique % PLACES - PLACES // 2
    rows, distant = rest % PLACES - PLACES // 2, rest // PLACES
    names = [
        f"far:{i},{j}" if away else f"{i},{j}"
        for away, i, j in zip(distant.tolist(), rows.tolist(), columns.tolist(), strict=True)
    ]
    return label.reshape(-1), names


def _shared_vertices(faces: NDArray[np.int32], label: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Vertices that more than one tile uses, [v]."""
    count = int(faces.max()) + 1
    least = np.full(count, np.iinfo(np.int64).max)
    most = np.full(count, -1)
    np.minimum.at(least, faces.ravel(), np.repeat(label, 3))
    np.maximum.at(most, faces.ravel(), np.repeat(label, 3))
    return (most >= 0) & (least != most)


def _simplified(
    mesh: TriMesh,
    label: NDArray[np.int64],
    bound: NDArray[np.float64],
    locked: NDArray[np.bool_],
    budget: int,
) -> list[TriMesh]:
    """Each tile within the error bound; beyond it only as far as the budget of all asks."""
    parts = []
    for number in range(int(label.max()) + 1):
        part = label == number
        used = np.zeros(len(mesh.vertices), bool)
        used[mesh.faces[part].ravel()] = True
        small = simplify(compacted(mesh, part), bound[used], locked=locked[used])
        parts.append((small.mesh, bound[used][small.vertex], locked[used][small.vertex]))
    total = sum(len(tile.faces) for tile, _, _ in parts)
    if total <= budget:
        return [tile for tile, _, _ in parts]
    LOGGER.warning(
        "the collider has %d triangles within its error bound, its budget is %d: made coarser",
        total, budget,
    )  # fmt: skip
    return [
        simplify(tile, limit, locked=held, target=int(budget * len(tile.faces) / total)).mesh
        for tile, limit, held in parts
    ]


def _quartered(name: str, mesh: TriMesh, splits: int) -> Tiles:
    """A tile as it is, or in quarters when it has too many faces."""
    if len(mesh.faces) <= TILE_FACES or splits == 0:
        return [(name, mesh)]
    centre = mesh.corners()[:, :, :2].mean(1)
    middle = np.median(centre, axis=0)
    quarter = (centre >= middle) @ np.array([2, 1])
    mark = "/" if "/" not in name else ""
    return [
        piece
        for q in range(4)
        if (quarter == q).any()
        for piece in _quartered(f"{name}{mark}{q}", mesh.select_faces(quarter == q), splits - 1)
    ]
