"""Where blocks are: a hash from (level, i, j, k) to the number of a block (numba).

Open addressing with linear probing; the table is a pair of arrays whose length is a power of two.
What it holds depends on the numbers alone, never on the order in which they were put in.
"""

from __future__ import annotations

import numba as nb
import numpy as np
from numpy.typing import NDArray

BLOCK = 8  # Voxels of a block's side, a NanoVDB leaf.
SPAN = 2**19  # Block coordinates lie within +- this: 80 km for voxels of 2 cm.
EMPTY = np.int64(-1)
LOAD = 0.5  # Most of the table that may be in use.


@nb.njit(cache=True, inline="always")
def pack(level, i, j, k):
    """One number for the coordinates of a block."""
    return (
        (np.int64(level) << 60)
        | (np.int64(i + SPAN) << 40)
        | (np.int64(j + SPAN) << 20)
        | np.int64(k + SPAN)
    )


@nb.njit(cache=True, inline="always")
def _slot(key, mask):
    h = np.uint64(key) * np.uint64(0x9E3779B97F4A7C15)
    return np.int64((h ^ (h >> np.uint64(29))) & np.uint64(mask))


@nb.njit(cache=True)
def find(keys, values, key):
    """Number of the block with this key, -1 for none."""
    mask = keys.shape[0] - 1
    at = _slot(key, mask)
    while keys[at] != EMPTY:
        if keys[at] == key:
            return values[at]
        at = (at + 1) & mask
    return np.int32(-1)


@nb.njit(cache=True)
def put(keys, values, key, value):
    """Enter a key that is not there yet."""
    mask = keys.shape[0] - 1
    at = _slot(key, mask)
    while keys[at] != EMPTY:
        at = (at + 1) & mask
    keys[at] = key
    values[at] = value


@nb.njit(cache=True)
def find_or_put(keys, values, key, value):
    """Number under this key; a new key is entered with `value`."""
    mask = keys.shape[0] - 1
    at = _slot(key, mask)
    while keys[at] != EMPTY:
        if keys[at] == key:
            return values[at]
        at = (at + 1) & mask
    keys[at] = key
    values[at] = value
    return value


@nb.njit(cache=True)
def _fill(keys, values, coords):
    for n in range(coords.shape[0]):
        key = pack(coords[n, 0], coords[n, 1], coords[n, 2], coords[n, 3])
        put(keys, values, key, np.int32(n))


def new_table(capacity: int) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """An empty table with room for `capacity` blocks."""
    size = 1 << max(10, int(np.ceil(np.log2(max(capacity, 1) / LOAD))))
    return np.full(size, EMPTY), np.zeros(size, np.int32)


def table_of(
    coords: NDArray[np.int32], *, capacity: int = 0
) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """The table of blocks with coordinates (level, i, j, k), shape [n 4]."""
    keys, values = new_table(max(capacity, len(coords)))
    _fill(keys, values, np.ascontiguousarray(coords, np.int32))
    return keys, values
