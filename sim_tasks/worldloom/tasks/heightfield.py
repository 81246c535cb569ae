"""A collider -> heights on a grid: the floor at each cell, and what stands above it (numba)."""

from __future__ import annotations

import numba as nb
import numpy as np
from numpy.typing import NDArray

from worldloom.scene.mesh import TriMesh

NOTHING = -1e9
"""Height of a cell where no surface is."""


def floor_heights(
    mesh: TriMesh, origin: NDArray[np.float64], cell: float, shape: tuple[int, int],
    band: tuple[float, float],
) -> NDArray[np.float32]:  # fmt: skip
    """Highest upward surface within `band` at every cell centre, shape [ny nx]; NaN = none.

    Args:
        mesh: Collider, world metres.
        origin: World x, y of the lower left corner of cell (0, 0) [m].
        cell: Side of a cell [m].
        shape: Rows (y) and columns (x).
        band: Lowest and highest z that belongs to this floor [m].
    """
    upward = mesh.cross()[:, 2] > 0
    heights = _drape(mesh.corners()[upward], origin, cell, shape[0], shape[1], *band)
    return np.where(heights > NOTHING / 2, heights, np.nan).astype(np.float32)


def obstacles_above(
    mesh: TriMesh, floor: NDArray[np.float32], origin: NDArray[np.float64], cell: float,
    low: float, high: float,
) -> NDArray[np.bool_]:  # fmt: skip
    """Cells [ny nx] in which some surface lies between `low` and `high` above the floor [m]."""
    heights = np.where(np.isnan(floor), NOTHING, floor).astype(np.float64)
    return _occupy(mesh.corners(), heights, origin, cell, low, high)


@nb.njit(cache=True)
def _drape(corners, origin, cell, rows, columns, low, high):
    """Rasterise triangles seen from above, keeping the highest z in the band."""
    out = np.full((rows, columns), NOTHING, np.float64)
    for f in range(corners.shape[0]):
        ax, ay, az = corners[f, 0, 0], corners[f, 0, 1], corners[f, 0, 2]
        bx, by, bz = corners[f, 1, 0], corners[f, 1, 1], corners[f, 1, 2]
        cx, cy, cz = corners[f, 2, 0], corners[f, 2, 1], corners[f, 2, 2]
        if min(az, bz, cz) > high or max(az, bz, cz) < low:
            continue
        area = (bx - ax) * (cy - ay) - (by - ay) * (cx - ax)
        if area == 0:
            continue
        i0 = max(0, int(np.floor((min(ax, bx, cx) - origin[0]) / cell - 0.5)))
        i1 = min(columns - 1, int(np.floor((max(ax, bx, cx) - origin[0]) / cell + 0.5)))
        j0 = max(0, int(np.floor((min(ay, by, cy) - origin[1]) / cell - 0.5)))
        j1 = min(rows - 1, int(np.floor((max(ay, by, cy) - origin[1]) / cell + 0.5)))
        for j in range(j0, j1 + 1):
            y = origin[1] + (j + 0.5) * cell
            for i in range(i0, i1 + 1):
                x = origin[0] + (i + 0.5) * cell
                wa = ((bx - x) * (cy - y) - (by - y) * (cx - x)) / area
                wb = ((cx - x) * (ay - y) - (cy - y) * (ax - x)) / area
                wc = 1 - wa - wb
                # A hair of slack: a cell centre on the edge of two triangles must hit one.
                if wa < -1e-9 or wb < -1e-9 or wc < -1e-9:
                    continue
                z = wa * az + wb * bz + wc * cz
                if low <= z <= high:
                    out[j, i] = max(out[j, i], z)
    return out


@nb.njit(cache=True)
def _occupy(corners, floor, origin, cell, low, high):
    """Mark cells that a triangle passes through above the floor, by sampling it finely."""
    rows, columns = floor.shape
    out = np.zeros((rows, columns), np.bool_)
    for f in range(corners.shape[0]):
        a, b, c = corners[f, 0], corners[f, 1], corners[f, 2]
        longest = max(
            np.sqrt(np.sum((b - a) ** 2)), np.sqrt(np.sum((c - b) ** 2)),
            np.sqrt(np.sum((a - c) ** 2)),
        )  # fmt: skip
        steps = max(1, int(np.ceil(longest / (0.5 * cell))))
        for s in range(steps + 1):
            for t in range(steps + 1 - s):
                u, v = s / steps, t / steps
                x = a[0] + u * (b[0] - a[0]) + v * (c[0] - a[0])
                y = a[1] + u * (b[1] - a[1]) + v * (c[1] - a[1])
                z = a[2] + u * (b[2] - a[2]) + v * (c[2] - a[2])
                i, j = int(np.floor((x - origin[0]) / cell)), int(np.floor((y - origin[1]) / cell))
                if i < 0 or j < 0 or i >= columns or j >= rows or out[j, i]:
                    continue
                ground = floor[j, i]
                if ground <= NOTHING / 2:
                    continue
                out[j, i] = low < z - ground < high
    return out
