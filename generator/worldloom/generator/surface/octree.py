"""Blocks of several levels -> the leaves of one balanced octree, and one distance per corner.

A cell of level l is a leaf where no finer block covers it. Neighbouring leaves differ by at most
one level (the volume keeps that). The distance at a corner is a function of its position alone:
the finest sample measured there, else the coarser field interpolated. Every cell that has the
corner reads the same number, so that no crack can open between levels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba as nb
import numpy as np
from numpy.typing import NDArray

from worldloom.generator.surface.keys import BLOCK, find, pack, table_of
from worldloom.generator.surface.levels import OPEN, LevelVolume

ZERO_BAND = 1e-4
"""Distances this near to zero (in truncations) count as just outside: a surface that runs through
corners would take its signs from rounding."""
CORNERS = BLOCK + 1
NONE, MEASURED, CUT = 0, 1, 2


@dataclass(frozen=True)
class Octree:
    """The leaves of a volume, in an order that depends on their places alone."""

    coords: NDArray[np.int32]
    """Level and coordinates of each block, [b 4]."""
    source: NDArray[np.int64]
    """Number of each block in the volume, [b]."""
    children: NDArray[np.uint8]
    """Bit 4i + 2j + k says that a finer block covers that eighth, [b]."""
    neighbours: NDArray[np.int32]
    """Block at offset (n // 9 - 1, n // 3 % 3 - 1, n % 3 - 1); -1 none, -2 - p for the coarser
    block p that covers the place, [b 27]."""
    distance: NDArray[np.float32]
    """Signed distance [m] at the 9^3 corners of each block's cells, NaN where unknown, [b 729]."""


def build_octree(volume: LevelVolume) -> Octree:
    """The octree of a volume."""
    n = volume.blocks
    source = np.lexsort(volume.coords[:n].T[::-1])
    coords = volume.coords[:n][source]
    keys, values = table_of(coords)
    truncation = np.array([volume.plan.truncation_at(k) for k in range(volume.plan.levels)])
    children, neighbours = _relations(coords, keys, values)
    distance = _corners(
        coords, source, volume.tsdf, volume.measured(), children, keys, values, truncation
    )
    return Octree(coords, source, children, neighbours, distance)


@nb.njit(cache=True, parallel=True)
def _relations(coords, keys, values):
    """Which eighths of each block are finer, and who its neighbours are."""
    count = coords.shape[0]
    children = np.zeros(count, np.uint8)
    neighbours = np.full((count, 27), -1, np.int32)
    for b in nb.prange(count):
        level, bi, bj, bk = coords[b, 0], coords[b, 1], coords[b, 2], coords[b, 3]
        if level > 0:
            for octant in range(8):
                key = pack(
                    level - 1,
                    2 * bi + (octant >> 2),
                    2 * bj + ((octant >> 1) & 1),
                    2 * bk + (octant & 1),
                )
                if find(keys, values, key) >= 0:
                    children[b] |= np.uint8(1 << octant)
        for n in range(27):
            i, j, k = bi + n // 9 - 1, bj + n // 3 % 3 - 1, bk + n % 3 - 1
            other = find(keys, values, pack(level, i, j, k))
            if other < 0:
                parent = find(keys, values, pack(level + 1, i >> 1, j >> 1, k >> 1))
                if parent >= 0:
                    other = np.int32(-2 - parent)
            neighbours[b, n] = other
    return children, neighbours


@nb.njit(cache=True)
def _finest(level, i, j, k, top, source, tsdf, weight, keys, values, truncation):
    """State and distance [m] of the finest sample at a lattice point of `level`.

    The point is one of the lattices of all levels up to `top`.
    """
    for at in range(top + 1):
        if at < level:
            shift = level - at
            x, y, z = i << shift, j << shift, k << shift
        else:
            shift = at - level
            x, y, z = i >> shift, j >> shift, k >> shift
        b = find(keys, values, pack(at, x >> 3, y >> 3, z >> 3))
        if b < 0:
            continue
        n = ((x & 7) << 6) | ((y & 7) << 3) | (z & 7)
        w = weight[source[b], n]
        if w == 0:
            continue
        if w == OPEN:
            return MEASURED, truncation[at]
        if w < 0:
            return CUT, 0.0
        share = tsdf[source[b], n]
        if abs(share) < ZERO_BAND:
            share = np.float32(ZERO_BAND)
        return MEASURED, share * truncation[at]
    return NONE, 0.0


@nb.njit(cache=True)
def _top_level(level, i, j, k, levels):
    """The coarsest level whose lattice has this point of `level`."""
    top = level
    mixed = i | j | k
    while top + 1 < levels and not (mixed >> (top - level)) & 1:
        top += 1
    return top


@nb.njit(cache=True)
def _interpolated(level, i, j, k, source, tsdf, weight, keys, values, truncation):
    """Distance at a lattice point of `level` (not one of the next) from the next level, or NaN."""
    levels = truncation.shape[0]
    if level + 1 >= levels:
        return np.nan
    total, parts = 0.0, 0
    for corner in range(8):
        if (corner & 4 and not i & 1) or (corner & 2 and not j & 1) or (corner & 1 and not k & 1):
            continue
        x, y, z = (i >> 1) + (corner >> 2), (j >> 1) + ((corner >> 1) & 1), (k >> 1) + (corner & 1)
        top = _top_level(level + 1, x, y, z, levels)
        state, value = _finest(
            level + 1, x, y, z, top, source, tsdf, weight, keys, values, truncation
        )
        if state != MEASURED:
            return np.nan
        total += value
        parts += 1
    value = total / parts
    least = ZERO_BAND * truncation[level]
    return value if abs(value) >= least else least


@nb.njit(cache=True, parallel=True)
def _corners(coords, source, tsdf, weight, children, keys, values, truncation):
    """Distances at the corners of all cells [b 729]."""
    count, levels = coords.shape[0], truncation.shape[0]
    out = np.full((count, CORNERS**3), np.nan, np.float32)
    for b in nb.prange(count):
        if children[b] == 255:
            continue
        level = coords[b, 0]
        own = source[b]
        for n in range(CORNERS**3):
            x, y, z = n // (CORNERS * CORNERS), n // CORNERS % CORNERS, n % CORNERS
            i, j, k = coords[b, 1] * BLOCK + x, coords[b, 2] * BLOCK + y, coords[b, 3] * BLOCK + z
            top = _top_level(level, i, j, k, levels)
            if level == 0 and x < BLOCK and y < BLOCK and z < BLOCK:
                # The finest sample is the block's own: no need to search for it.
                m = (x << 6) | (y << 3) | z
                w = weight[own, m]
                if w == OPEN:
                    out[b, n] = truncation[0]
                if w < 0:
                    continue
                if w > 0:
                    share = tsdf[own, m]
                    if abs(share) < ZERO_BAND:
                        share = np.float32(ZERO_BAND)
                    out[b, n] = share * truncation[0]
                    continue
            state, value = _finest(
                level, i, j, k, top, source, tsdf, weight, keys, values, truncation
            )
            if state == MEASURED:
                out[b, n] = value
            elif state == NONE:
                shift = top - level
                out[b, n] = _interpolated(
                    top, i >> shift, j >> shift, k >> shift,
                    source, tsdf, weight, keys, values, truncation,
                )  # fmt: skip
    return out
