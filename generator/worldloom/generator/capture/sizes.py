"""Captured frames at the working size: how large they become, their intrinsics, their depth."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from worldloom.generator.depth.resample import nearest

SIDE_MULTIPLE = 8  # Frame sides are multiples of this, as video codecs like them.
JUMP_RATIO = 1.1  # Four neighbours whose depths differ by more show an edge: nothing in between.


def working_size(size: tuple[int, int], long_side: int) -> tuple[int, int]:
    """Width and height [px] that frames of `size` are worked on at; never larger than they are."""
    factor = min(1.0, long_side / max(size))
    width, height = (
        max(SIDE_MULTIPLE, int(side * factor) // SIDE_MULTIPLE * SIDE_MULTIPLE) for side in size
    )
    return width, height


def scaled_intrinsics(
    K: NDArray[np.float64], size: tuple[int, int], work: tuple[int, int]
) -> NDArray[np.float64]:
    """Intrinsics [n 3 3] in pixels of `size` as those of the same frames at `work`."""
    out = K.copy()
    out[:, 0] *= work[0] / size[0]
    out[:, 1] *= work[1] / size[1]
    out[:, 0, 1] = 0.0
    return out


def clean_depth(depth: NDArray[np.float32]) -> NDArray[np.float32]:
    """Depth [h w] in metres with 0 for all that is no distance: NaN, infinity, zero and less."""
    good = np.isfinite(depth) & (depth > 0)
    return np.where(good, depth, np.float32(0)).astype(np.float32)


def depth_at(depth: NDArray[np.float32], width: int, height: int) -> NDArray[np.float32]:
    """Depth [h w] (metres, 0 = none) at another size.

    Inverse depth is linear on a plane, so it is interpolated at the exact pixel centres; where
    the four neighbours show an edge or a hole, the nearest one is taken, which invents nothing.
    """
    if depth.shape == (height, width):
        return depth
    rows, row_share = _places(depth.shape[0], height)
    columns, column_share = _places(depth.shape[1], width)
    corners = [depth[np.ix_(r, c)] for r in (rows, rows + 1) for c in (columns, columns + 1)]
    least, most = np.minimum.reduce(corners), np.maximum.reduce(corners)
    smooth = (least > 0) & (most <= JUMP_RATIO * least)
    inverse = [1 / np.where(corner > 0, corner, np.float32(1)) for corner in corners]
    upper = inverse[0] + column_share * (inverse[1] - inverse[0])
    lower = inverse[2] + column_share * (inverse[3] - inverse[2])
    mixed = upper + row_share[:, None] * (lower - upper)
    return np.where(smooth, 1 / mixed, nearest(depth, width, height)).astype(np.float32)


def _places(old: int, new: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Lower neighbour [new] and share of the upper one [new] of each new pixel's centre."""
    at = np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, old - 1)
    lower = np.minimum(at.astype(np.int64), old - 2)
    return lower, (at - lower).astype(np.float32)
