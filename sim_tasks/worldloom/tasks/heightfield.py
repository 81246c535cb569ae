"""A collider -> heights on a grid: the floor at each cell, and what stands above it (numba)."""

from __future__ import annotations

import numba as nb
import numpy as np
from numpy.typing import NDArray

from worldloom.scene.mesh import TriMesh

BESIDE = ((0.3, 0.1), (-0.3, -0.1), (-0.1, 0.3), (0.1, -0.3))
"""Where a cell is asked when a ray at its centre falls through a crack, in cells."""
NOTHING = -1e9
"""Height of a cell where no surface is."""


def floor_heights(
    mesh: TriMesh, origin: NDArray[np.float64], cell: float, shape: tuple[int, int],
    band: tuple[float, float],
) -> NDArray[np.float32]:  # fmt: skip
    """Highest upward surface within `band` at every cell, shape [ny nx]; NaN = none.

    Args:
        mesh: Collider, world metres.
        origin: World x, y of the lower left corner of cell (0, 0) [m].
        cell: Side of a cell [m].
        shape: Rows (y) and columns (x).
        band: Lowest and highest z that belongs to this floor [m].
    """
    upward = mesh.corners()[mesh.cross()[:, 2] > 0]
    heights = _drape(upward, origin, cell, shape[0], shape[1], *band)
    # A crack in the mesh that is thinner than a cell is no hole: ask beside the centre too.
    for dx, dy in BESIDE:
        missing = heights <= NOTHING / 2
        if not missing.any():
            break
        moved = origin + np.array([dx, dy]) * cell
        aside = _drape(upward, moved, cell, shape[0], shape[1], *band)
        heights = np.where(missing, aside, heights)
    return np.where(heights > NOTHING / 2, heights, np.nan).astype(np.float32)


def obstacles_above(
    mesh: TriMesh, ground: NDArray[np.float64], origin: NDArray[np.float64], cell: float,
    low: float, high: float,
) -> NDArray[np.bool_]:  # fmt: skip
    """Cells [ny nx] in which some surface lies between `low` and `high` above the ground [m].

    Args:
        mesh: Collider, world metres.
        ground: Height of the ground at every cell, without gaps [m], [ny nx].
        origin: World x, y of the lower left corner of cell (0, 0) [m].
        cell: Side of a cell [m].
        low: What is lower than this above the ground is floor [m].
        high: What is higher than this passes over the robot [m].
    """
    corners = mesh.corners()
    z = corners[..., 2]
    # Most triangles are floor or ceiling; only those that reach into the band are sampled.
    near = (z.max(1) > ground.min() + low) & (z.min(1) < ground.max() + high)
    return _occupy(corners[near], ground, origin, cell, low, high)


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
def _occupy(corners, ground, origin, cell, low, high):
    """Mark cells that a triangle passes through above the ground, by sampling it finely.

    Rows of samples run parallel to the longest side, so that slender triangles cost little.
    """
    rows, columns = ground.shape
    out = np.zeros((rows, columns), np.bool_)
    spacing = 0.5 * cell
    for f in range(corners.shape[0]):
        a, b, c = corners[f, 0], corners[f, 1], corners[f, 2]
        ab, bc, ca = np.sum((b - a) ** 2), np.sum((c - b) ** 2), np.sum((a - c) ** 2)
        if bc >= ab and bc >= ca:
            a, b, c, longest = b, c, a, np.sqrt(bc)
        elif ca >= ab:
            a, b, c, longest = c, a, b, np.sqrt(ca)
        else:
            longest = np.sqrt(ab)
        normal = np.cross(b - a, c - a)
        tall = np.sqrt(np.sum(normal**2)) / max(longest, 1e-12)
        lines = max(1, int(np.ceil(tall / spacing)))
        for t in range(lines + 1):
            v = t / lines
            steps = max(1, int(np.ceil(longest * (1 - v) / spacing)))
            for s in range(steps + 1):
                u = (1 - v) * s / steps
                x = a[0] + u * (b[0] - a[0]) + v * (c[0] - a[0])
                y = a[1] + u * (b[1] - a[1]) + v * (c[1] - a[1])
                i, j = int(np.floor((x - origin[0]) / cell)), int(np.floor((y - origin[1]) / cell))
                if i < 0 or j < 0 or i >= columns or j >= rows or out[j, i]:
                    continue
                z = a[2] + u * (b[2] - a[2]) + v * (c[2] - a[2])
                out[j, i] = low < z - ground[j, i] < high
    return out
