"""Which remembered frames see a view: projection, z-buffer, greedy coverage (spec 3.4).

Threads share the points in fixed parts, each with a z-buffer of its own, and then whole frames:
the result does not depend on their number.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numba as nb
import numpy as np
from numpy.typing import ArrayLike, NDArray

from worldloom.scene.frame import invert_rigid

PARTS = 8  # Parts of the points that threads share; each has a z-buffer.
OWNER_WITHIN = 1e-6  # A point this far behind the nearest still owns a cell (spec 3.5).
EPS = 1e-7  # Added to the depth that pixels are divided by (spec generation 3.4).


@dataclass(frozen=True)
class PointStore:
    """Points of many frames end to end, so that a query joins nothing."""

    points: NDArray[np.float32]
    """World points, [n 3]."""
    ends: NDArray[np.int64]
    """Where the points of each frame end, [frames]."""

    @classmethod
    def of(cls, clouds: Sequence[NDArray[np.float32]]) -> PointStore:
        """Join clouds [n 3]."""
        points = np.concatenate(clouds) if len(clouds) else np.zeros((0, 3), np.float32)
        return cls(points, np.cumsum([len(c) for c in clouds], dtype=np.int64))

    def __len__(self) -> int:
        return len(self.ends)

    def first(self, count: int) -> PointStore:
        """The first frames only; shares the points."""
        ends = self.ends[:count]
        return PointStore(self.points[: ends[-1] if len(ends) else 0], ends)


def coverage(
    clouds: list[NDArray[np.float32]],
    c2w: ArrayLike,
    K: ArrayLike,
    size: tuple[int, int],
    *,
    stride: int,
    visible_within: float,
) -> NDArray[np.bool_]:
    """Pixels of a coarse grid of the view that each cloud sees, shape [clouds h/s w/s].

    A point is visible when it lies within `visible_within` metres behind the nearest point, of
    any cloud, at its pixel.

    Args:
        clouds: World points [n 3] of each candidate frame.
        c2w: Camera to world of the view, OpenCV axes, [4 4].
        K: Its intrinsics in pixels, [3 3].
        size: Its width and height in pixels.
        stride: Pixels of the view per cell of the grid.
        visible_within: Tolerance of the z-buffer [m].
    """
    width, height = -(-size[0] // stride), -(-size[1] // stride)
    scaled = np.asarray(K, np.float64).copy()
    scaled[:2] /= stride
    return grid_coverage(clouds, invert_rigid(c2w), scaled, (width, height), visible_within)


def grid_coverage(
    clouds: Sequence[NDArray[np.float32]] | PointStore,
    w2c: ArrayLike,
    K: ArrayLike,
    size: tuple[int, int],
    visible_within: float,
) -> NDArray[np.bool_]:
    """Cells of a grid that each cloud sees, [clouds h w]; K is in cells with centres at +0.5."""
    store = clouds if isinstance(clouds, PointStore) else PointStore.of(clouds)
    width, height = size
    count = len(store.points)
    cell, depth = np.empty(count, np.int32), np.empty(count, np.float32)
    buffers = np.full((PARTS, width * height), np.inf, np.float32)
    w2c, K = np.asarray(w2c, np.float64), np.asarray(K, np.float64)
    _fill_buffers(store.points, w2c, K, width, height, cell, depth, buffers)
    seen = np.zeros((len(store), width * height), bool)
    farthest = buffers.min(0).astype(np.float64) + visible_within
    _see(store.ends, cell, depth, farthest, seen)
    return seen.reshape(len(store), height, width)


def grid_owners(
    clouds: list[NDArray[np.float32]], w2c: ArrayLike, K: ArrayLike, size: tuple[int, int]
) -> NDArray[np.int64]:
    """Cells that each cloud owns, [clouds]: it holds the nearest point, ties to the lowest index.

    The scores that training draws from (spec generation 3.5).
    """
    seen = grid_coverage(clouds, w2c, K, size, OWNER_WITHIN)
    first = np.where(seen.any(0), seen.argmax(0), -1)
    return np.bincount(first[first >= 0], minlength=len(clouds))


def lyra_retrieve(
    clouds: Sequence[NDArray[np.float32]] | PointStore,
    frame_ids: ArrayLike,
    w2c: ArrayLike,
    K: ArrayLike,
    size: tuple[int, int],
    *,
    count: int,
    stride: int = 4,
    visible_within: float = 0.1,
    skip_last: int = 0,
) -> tuple[list[int], NDArray[np.int64]]:
    """Indices of the frames that Lyra 2.0 retrieves, BEST LAST, and the gains of every step.

    The newest frame covers its cells beforehand and is not chosen, unless no number is above
    zero. Cells of different target views are separate (spec generation 3.4).

    Args:
        clouds: World points [n 3] of each cached frame, invalid ones at the origin.
        frame_ids: Number of each cached frame, [clouds].
        w2c: World to camera of the target views, [v 4 4].
        K: Their intrinsics in full pixels, integer centres, [v 3 3].
        size: Their width and height.
        count: Most frames to choose.
        stride: Pixels per cell.
        visible_within: Tolerance of the z-buffer, in units of the scene.
        skip_last: Newest entries that are no candidates at all.
    """
    store = clouds if isinstance(clouds, PointStore) else PointStore.of(clouds)
    kept = store.first(len(store) - skip_last)
    ids = np.asarray(frame_ids)[: len(kept)]
    if not len(kept):
        return [], np.zeros((0, 0), np.int64)
    grids = lyra_grids(K, stride)
    cells = (size[0] // stride, size[1] // stride)
    seen = [
        grid_coverage(kept, view, grid, cells, visible_within).reshape(len(kept), -1)
        for view, grid in zip(np.asarray(w2c), grids, strict=True)
    ]
    newest = [int(ids.argmax())] if ids.max() > 0 else []
    gains: list[NDArray[np.int64]] = []
    chosen = greedy_cover(np.concatenate(seen, 1), min(count, len(kept)), newest, gains=gains)
    return chosen[::-1], np.array(gains, np.int64).reshape(len(gains), len(kept))


def lyra_grids(K: ArrayLike, stride: int) -> NDArray[np.float64]:
    """Intrinsics [v 3 3] with integer centres as those of a grid of cells with centres at +0.5."""
    grids = np.array(K, np.float64)
    grids[:, :2] /= stride
    # The released code rounds to the nearest cell; with this shift rounding down does the same.
    grids[:, :2, 2] += 0.5
    return grids


def greedy_cover(
    seen: NDArray[np.bool_],
    count: int,
    taken: list[int] | None = None,
    *,
    gains: list[NDArray[np.int64]] | None = None,
) -> list[int]:
    """Indices of up to `count` rows of `seen` [n h w], each adding most new pixels, best first.

    Ties go to the lowest index; rows in `taken` are covered beforehand and not chosen again.
    The gains of every step, that of the last refusal included, are appended to `gains`.
    """
    packed = _packed(seen.reshape(len(seen), -1))
    covered = np.zeros(packed.shape[1], np.uint64)
    banned = np.zeros(len(packed), bool)
    for index in taken or []:
        covered |= packed[index]
        banned[index] = True
    chosen: list[int] = []
    while len(chosen) < count:
        gain = _uncovered(packed, covered)
        gain[banned] = -1
        if gains is not None:
            gains.append(gain)
        best = int(gain.argmax())
        if gain[best] <= 0:
            break
        chosen.append(best)
        covered |= packed[best]
        banned[best] = True
    return chosen


def _packed(seen: NDArray[np.bool_]) -> NDArray[np.uint64]:
    """Rows of flags [n c] as rows of 64-bit words, filled up with zeros."""
    padded = np.pad(seen, ((0, 0), (0, -seen.shape[1] % 64)))
    return np.packbits(padded, axis=1).view(np.uint64)


@nb.njit(cache=True)
def _uncovered(packed, covered):
    """Flags of each row that are not covered, [n]: bits are counted in parallel within a word."""
    gain = np.zeros(len(packed), np.int64)
    m1, m2 = np.uint64(0x5555555555555555), np.uint64(0x3333333333333333)
    m4, ones = np.uint64(0x0F0F0F0F0F0F0F0F), np.uint64(0x0101010101010101)
    one, two, four, top = np.uint64(1), np.uint64(2), np.uint64(4), np.uint64(56)
    for i in range(len(packed)):
        total = np.uint64(0)
        for k in range(packed.shape[1]):
            v = packed[i, k] & ~covered[k]
            v -= (v >> one) & m1
            v = (v & m2) + ((v >> two) & m2)
            v = (v + (v >> four)) & m4
            total += (v * ones) >> top
        gain[i] = total
    return gain


@nb.njit(cache=True, parallel=True)
def _fill_buffers(points, w2c, K, width, height, cell, depth, buffers):
    """Cell and z of each point, and the nearest z at each cell for each part of the points."""
    count = len(points)
    for part in nb.prange(PARTS):
        start, end = count * part // PARTS, count * (part + 1) // PARTS
        _project(points, w2c, K, width, height, start, end, cell, depth)
        nearest = buffers[part]
        for i in range(start, end):
            if cell[i] >= 0:
                nearest[cell[i]] = min(nearest[cell[i]], depth[i])


@nb.njit(cache=True, parallel=True)
def _see(ends, cell, depth, farthest, seen):
    for c in nb.prange(len(ends)):
        for i in range(ends[c - 1] if c else 0, ends[c]):
            if cell[i] >= 0 and depth[i] <= farthest[cell[i]]:
                seen[c, cell[i]] = True


@nb.njit(cache=True)
def _project(points, w2c, K, width, height, start, end, cell, depth):
    """Cell of each point, -1 where it is out of view, and its z."""
    for i in range(start, end):
        x, y, z = points[i, 0], points[i, 1], points[i, 2]
        cz = w2c[2, 0] * x + w2c[2, 1] * y + w2c[2, 2] * z + w2c[2, 3]
        cx = w2c[0, 0] * x + w2c[0, 1] * y + w2c[0, 2] * z + w2c[0, 3]
        cy = w2c[1, 0] * x + w2c[1, 1] * y + w2c[1, 2] * z + w2c[1, 3]
        u = np.floor(K[0, 0] * cx / (cz + EPS) + K[0, 2])
        v = np.floor(K[1, 1] * cy / (cz + EPS) + K[1, 2])
        inside = cz > 0 and u >= 0 and v >= 0 and u < width and v < height
        cell[i] = np.int32(v * width + u) if inside else np.int32(-1)
        depth[i] = cz
