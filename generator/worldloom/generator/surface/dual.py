"""Corner distances of an octree -> one crack-free surface, by dual contouring (numba).

One vertex for each leaf that the surface crosses, where the tangent planes at the crossings of its
edges meet best; one polygon for each minimal edge (an edge of a leaf that no finer leaf divides)
whose ends differ in sign, joining the vertices of the three or four leaves around it. Neighbours
share vertices across levels, so there are no cracks. A leaf with an unknown corner has no vertex,
and what would need it is left out: unseen space gets no surface.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba as nb
import numpy as np
from numpy.typing import NDArray

from worldloom.generator.surface.keys import BLOCK
from worldloom.generator.surface.octree import CORNERS, Octree

PULL_TO_MEAN = 0.05  # Weight of the mean of the crossings in the error (spec 4.2).
INSIDE = 0.4999  # Vertices stay so near to the middle of their leaf: no two coincide.
JUMP_VOXELS = 5.2
"""Distances that differ more along the edge of a cell show no surface, but the rim of what was
seen: behind it lies unseen space, in front free space. At convex edges, where free space begins
less than 1.2 voxels beside what was measured, the surface is closed."""
CELLS = BLOCK**3
SUMS = 13  # Normal matrix (6), right side (3), sum of the crossings (3), their number.
NOWHERE, SAME, COARSER, DIVIDED = 0, 1, 2, 3
"""What covers a place beside a leaf: nothing, a leaf as large, one twice as large, smaller ones."""


@dataclass(frozen=True)
class DualMesh:
    """The surface in units of level-0 voxels."""

    points: NDArray[np.float64]
    """Vertices in voxels of level 0 from sample 0, [v 3]."""
    home: NDArray[np.int32]
    """Block of the octree, and cell in it, of each vertex, [v 2]."""
    faces: NDArray[np.int32]
    """Counter-clockwise from free space, [f 3]."""
    level: NDArray[np.int8]
    """Coarsest level of the leaves that each face joins, [f]."""


def contour(tree: Octree, *, voxel: float) -> DualMesh:
    """The zero level of an octree; faces point to positive distances.

    Args:
        tree: Leaves and corner distances.
        voxel: Voxel of level 0 [m].
    """
    active = np.flatnonzero(_crossed(tree.distance))
    polygons, sums, home = _polygons(
        active, tree.coords, tree.children, tree.neighbours, tree.distance, JUMP_VOXELS * voxel
    )
    points = _vertices(sums, home, tree.coords)
    faces, level = _split(polygons, points, home, tree.coords)
    return DualMesh(points, home, faces, level)


@nb.njit(cache=True, parallel=True)
def _crossed(distance):
    """Blocks whose corners have both signs."""
    out = np.zeros(distance.shape[0], np.bool_)
    for b in nb.prange(distance.shape[0]):
        below, above = False, False
        for n in range(distance.shape[1]):
            below |= distance[b, n] < 0
            above |= distance[b, n] > 0
        out[b] = below and above
    return out


@nb.njit(cache=True, inline="always")
def _corner(distance, b, i, j, k):
    return distance[b, (i * CORNERS + j) * CORNERS + k]


@nb.njit(cache=True)
def _known(distance, b, cell):
    """Whether all corners of a cell are known."""
    i, j, k = cell >> 6, (cell >> 3) & 7, cell & 7
    for corner in range(8):
        value = _corner(distance, b, i + (corner >> 2), j + ((corner >> 1) & 1), k + (corner & 1))
        if np.isnan(value):
            return False
    return True


@nb.njit(cache=True)
def _place(b, i, j, k, coords, children, neighbours):
    """What covers cell (i, j, k) of block b, each -1..8: kind, block and cell."""
    n = 9 * ((i + 8) >> 3) + 3 * ((j + 8) >> 3) + ((k + 8) >> 3)
    other = neighbours[b, n]
    if other >= 0:
        x, y, z = i & 7, j & 7, k & 7
        octant = ((x >> 2) << 2) | ((y >> 2) << 1) | (z >> 2)
        if (children[other] >> octant) & 1:
            return DIVIDED, other, 0
        return SAME, other, (x << 6) | (y << 3) | z
    if other == -1:
        return NOWHERE, -1, 0
    p = -2 - other
    x = ((coords[b, 1] * BLOCK + i) >> 1) - coords[p, 1] * BLOCK
    y = ((coords[b, 2] * BLOCK + j) >> 1) - coords[p, 2] * BLOCK
    z = ((coords[b, 3] * BLOCK + k) >> 1) - coords[p, 3] * BLOCK
    return COARSER, p, (x << 6) | (y << 3) | z


@nb.njit(cache=True)
def _around(b, at, axis, coords, children, neighbours, ring):
    """The four cells around the edge from corner `at` along `axis`, into `ring` [4 3].

    They go counter-clockwise seen against the axis. Returns whether the edge is minimal, and the
    first place in the ring with a leaf as large as those of block b.
    """
    first = -1
    for q in range(4):
        s = -1 if q in (1, 2) else 0
        t = -1 if q in (2, 3) else 0
        i, j, k = at[0], at[1], at[2]
        if axis == 0:
            j, k = j + s, k + t
        elif axis == 1:
            i, k = i + t, k + s
        else:
            i, j = i + s, j + t
        kind, block, cell = _place(b, i, j, k, coords, children, neighbours)
        if kind == DIVIDED:
            return False, first
        if kind == SAME and first < 0:
            first = q
        ring[q, 0], ring[q, 1], ring[q, 2] = kind, block, cell
    return True, first


@nb.njit(cache=True)
def _add_crossing(sums, point, b, cell, coords, distance):
    """Add a crossing [3] (in level-0 voxels) and its tangent plane to the sums of a leaf."""
    size = float(1 << coords[b, 0])
    ijk = (cell >> 6, (cell >> 3) & 7, cell & 7)
    x = point[0] / size - coords[b, 1] * BLOCK - ijk[0]
    y = point[1] / size - coords[b, 2] * BLOCK - ijk[1]
    z = point[2] / size - coords[b, 3] * BLOCK - ijk[2]
    gx, gy, gz = 0.0, 0.0, 0.0
    for corner in range(8):
        di, dj, dk = corner >> 2, (corner >> 1) & 1, corner & 1
        value = _corner(distance, b, ijk[0] + di, ijk[1] + dj, ijk[2] + dk)
        wx, wy, wz = x if di else 1 - x, y if dj else 1 - y, z if dk else 1 - z
        gx += value * (1 if di else -1) * wy * wz
        gy += value * wx * (1 if dj else -1) * wz
        gz += value * wx * wy * (1 if dk else -1)
    x, y, z = x - 0.5, y - 0.5, z - 0.5
    sums[9] += x
    sums[10] += y
    sums[11] += z
    sums[12] += 1
    length = np.sqrt(gx * gx + gy * gy + gz * gz)
    if length < 1e-12:
        return
    gx, gy, gz = gx / length, gy / length, gz / length
    along = gx * x + gy * y + gz * z
    sums[0] += gx * gx
    sums[1] += gx * gy
    sums[2] += gx * gz
    sums[3] += gy * gy
    sums[4] += gy * gz
    sums[5] += gz * gz
    sums[6] += gx * along
    sums[7] += gy * along
    sums[8] += gz * along


@nb.njit(cache=True)
def _doubled(array):
    """The rows of `array`, and room for as many more."""
    larger = np.zeros((2 * array.shape[0], array.shape[1]), array.dtype)
    larger[: array.shape[0]] = array
    return larger


@nb.njit(cache=True)
def _polygons(active, coords, children, neighbours, distance, jump):
    """All polygons [p 5], and of their vertices the sums [v 13] and homes [v 2].

    A polygon has its vertices counter-clockwise seen against the axis (the last is -1 for a
    triangle), then 2 axis + (1 when the surface faces along it).
    """
    count = coords.shape[0]
    number = np.full((count, CELLS), -1, np.int32)
    polygons, made = np.zeros((4096, 5), np.int32), 0
    sums, home, vertices = np.zeros((4096, SUMS)), np.zeros((4096, 2), np.int32), 0
    ring = np.zeros((4, 3), np.int64)
    point = np.zeros(3)
    for b in active:
        size = float(1 << coords[b, 0])
        for cell in range(CELLS):
            i, j, k = cell >> 6, (cell >> 3) & 7, cell & 7
            octant = ((i >> 2) << 2) | ((j >> 2) << 1) | (k >> 2)
            if (children[b] >> octant) & 1 or not _known(distance, b, cell):
                continue
            for edge in range(12):
                axis, os, ot = edge >> 2, (edge >> 1) & 1, edge & 1
                if axis == 0:
                    at = (i, j + os, k + ot)
                elif axis == 1:
                    at = (i + ot, j, k + os)
                else:
                    at = (i + os, j + ot, k)
                low = _corner(distance, b, at[0], at[1], at[2])
                high = _corner(
                    distance, b, at[0] + (axis == 0), at[1] + (axis == 1), at[2] + (axis == 2)
                )
                if (low < 0) == (high < 0) or abs(high - low) > jump * size:
                    continue
                minimal, first = _around(b, at, axis, coords, children, neighbours, ring)
                # Of the leaves that share the edge the first in the ring does the work.
                if not minimal or ring[first, 1] != b or ring[first, 2] != cell:
                    continue
                whole = True
                for q in range(4):
                    if ring[q, 0] == NOWHERE or not _known(distance, ring[q, 1], ring[q, 2]):
                        whole = False
                        break
                if not whole:
                    continue
                for r in range(3):
                    point[r] = size * (coords[b, 1 + r] * BLOCK + at[r])
                point[axis] += size * low / (low - high)
                if made == polygons.shape[0]:
                    polygons = _doubled(polygons)
                corners, last = 0, -1
                for q in range(4):
                    block, place = ring[q, 1], ring[q, 2]
                    v = number[block, place]
                    if v < 0:
                        if vertices == sums.shape[0]:
                            sums, home = _doubled(sums), _doubled(home)
                        v = np.int32(vertices)
                        number[block, place] = v
                        home[v, 0], home[v, 1] = block, place
                        vertices += 1
                    # A larger leaf may fill two neighbouring places of the ring.
                    if v == last or (q == 3 and v == polygons[made, 0]):
                        continue
                    _add_crossing(sums[v], point, block, place, coords, distance)
                    polygons[made, corners] = v
                    corners += 1
                    last = v
                if corners == 3:
                    polygons[made, 3] = -1
                polygons[made, 4] = 2 * axis + (low < 0)
                made += 1
    return polygons[:made], sums[:vertices], home[:vertices]


@nb.njit(cache=True, parallel=True)
def _vertices(sums, home, coords):
    """Where the tangent planes of each leaf meet, within the leaf [v 3] (level-0 voxels)."""
    out = np.zeros((sums.shape[0], 3))
    for v in nb.prange(sums.shape[0]):
        s = sums[v]
        mean = s[9:12] / s[12]
        a, b, c = s[0] + PULL_TO_MEAN, s[1], s[2]
        d, e, f = s[3] + PULL_TO_MEAN, s[4], s[5] + PULL_TO_MEAN
        pulled = s[6:9] + PULL_TO_MEAN * mean
        x, y, z = pulled[0], pulled[1], pulled[2]
        # Cramer's rule; the pull makes the matrix positive.
        ca, cb, cc = d * f - e * e, c * e - b * f, b * e - c * d
        cd, ce, cf = a * f - c * c, b * c - a * e, a * d - b * b
        det = a * ca + b * cb + c * cc
        at = ((ca * x + cb * y + cc * z) / det, (cb * x + cd * y + ce * z) / det,
              (cc * x + ce * y + cf * z) / det)  # fmt: skip
        # Beyond its leaf a vertex comes back towards the mean, which keeps it on a plane.
        share = 1.0
        for r in range(3):
            if abs(at[r]) > INSIDE:
                limit = INSIDE if at[r] > 0 else -INSIDE
                share = min(share, max(0.0, (limit - mean[r]) / (at[r] - mean[r])))
        block, cell = home[v, 0], home[v, 1]
        size = float(1 << coords[block, 0])
        ijk = (cell >> 6, (cell >> 3) & 7, cell & 7)
        for r in range(3):
            inside = min(max(mean[r] + share * (at[r] - mean[r]), -INSIDE), INSIDE)
            out[v, r] = size * (coords[block, 1 + r] * BLOCK + ijk[r] + 0.5 + inside)
    return out


@nb.njit(cache=True)
def _turned(points, a, b, c, axis):
    """Component along `axis` of the normal of a triangle (not unit)."""
    u, v = (axis + 1) % 3, (axis + 2) % 3
    return (points[b, u] - points[a, u]) * (points[c, v] - points[a, v]) - (
        points[b, v] - points[a, v]
    ) * (points[c, u] - points[a, u])


@nb.njit(cache=True)
def _split(polygons, points, home, coords):
    """Triangles [f 3] and their levels [f].

    A quad is cut along its shorter diagonal, or the other one where that turns a triangle over.
    """
    faces = np.zeros((2 * polygons.shape[0], 3), np.int32)
    level = np.zeros(2 * polygons.shape[0], np.int8)
    made = 0
    for p in range(polygons.shape[0]):
        quad = polygons[p]
        axis, along = quad[4] >> 1, quad[4] & 1
        coarsest = 0
        for q in range(4):
            if quad[q] >= 0:
                coarsest = max(coarsest, coords[home[quad[q], 0], 0])
        start = 0
        if quad[3] >= 0:
            even = np.sum((points[quad[0]] - points[quad[2]]) ** 2)
            odd = np.sum((points[quad[1]] - points[quad[3]]) ** 2)
            start = 0 if even <= odd else 1
            worst = np.zeros(2)
            for way in range(2):
                a, b = quad[way], quad[way + 1]
                c, d = quad[(way + 2) % 4], quad[(way + 3) % 4]
                worst[way] = min(_turned(points, a, b, c, axis), _turned(points, a, c, d, axis))
            if worst[start] <= 0 < worst[1 - start]:
                start = 1 - start
        for half in range(1 if quad[3] < 0 else 2):
            a = quad[start]
            b, c = quad[(start + 1 + half) % 4], quad[(start + 2 + half) % 4]
            faces[made, 0] = a
            faces[made, 1], faces[made, 2] = (b, c) if along else (c, b)
            level[made] = coarsest
            made += 1
    return faces[:made], level[:made]
