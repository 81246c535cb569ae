"""Which remembered frames see a view: projection, z-buffer, greedy coverage (spec 3.4)."""

from __future__ import annotations

import numba as nb
import numpy as np
from numpy.typing import ArrayLike, NDArray

from worldloom.scene.frame import invert_rigid

OWNER_WITHIN = 1e-6  # A point this far behind the nearest still owns a cell (spec 3.5).
EPS = 1e-7  # Added to the depth that pixels are divided by (spec generation 3.4).


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
    clouds: list[NDArray[np.float32]],
    w2c: ArrayLike,
    K: ArrayLike,
    size: tuple[int, int],
    visible_within: float,
) -> NDArray[np.bool_]:
    """Cells of a grid that each cloud sees, [clouds h w]; K is in cells with centres at +0.5."""
    points, owner = _joined(clouds)
    return _coverage(
        points, owner, len(clouds), np.asarray(w2c, np.float64), np.asarray(K, np.float64),
        size[0], size[1], visible_within,
    )  # fmt: skip


def grid_owners(
    clouds: list[NDArray[np.float32]], w2c: ArrayLike, K: ArrayLike, size: tuple[int, int]
) -> NDArray[np.int64]:
    """Cells that each cloud owns, [clouds]: it holds the nearest point, ties to the lowest index.

    The scores that training draws from (spec generation 3.5).
    """
    points, owner = _joined(clouds)
    seen = _coverage(
        points, owner, len(clouds), np.asarray(w2c, np.float64), np.asarray(K, np.float64),
        size[0], size[1], OWNER_WITHIN,
    )  # fmt: skip
    first = np.where(seen.any(0), seen.argmax(0), -1)
    return np.bincount(first[first >= 0], minlength=len(clouds))


def _joined(clouds: list[NDArray[np.float32]]) -> tuple[NDArray, NDArray[np.int32]]:
    points = np.concatenate(clouds) if clouds else np.zeros((0, 3), np.float32)
    owner = np.repeat(np.arange(len(clouds)), [len(c) for c in clouds]).astype(np.int32)
    return points, owner


def lyra_retrieve(
    clouds: list[NDArray[np.float32]],
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
    kept = clouds[: len(clouds) - skip_last]
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
    flat = seen.reshape(len(seen), -1)
    covered = np.zeros(flat.shape[1], bool)
    banned = np.zeros(len(flat), bool)
    for index in taken or []:
        covered |= flat[index]
        banned[index] = True
    chosen: list[int] = []
    while len(chosen) < count:
        gain = (flat & ~covered).sum(1)
        gain[banned] = -1
        if gains is not None:
            gains.append(gain)
        best = int(gain.argmax())
        if gain[best] <= 0:
            break
        chosen.append(best)
        covered |= flat[best]
        banned[best] = True
    return chosen


@nb.njit(cache=True)
def _coverage(points, owner, clouds, w2c, K, width, height, within):
    nearest = np.full((height, width), np.inf, np.float32)
    cell = np.full(points.shape[0], -1, np.int32)
    depth = np.zeros(points.shape[0], np.float32)
    for i in range(points.shape[0]):
        x, y, z = points[i, 0], points[i, 1], points[i, 2]
        cz = w2c[2, 0] * x + w2c[2, 1] * y + w2c[2, 2] * z + w2c[2, 3]
        if cz <= 0:
            continue
        cx = w2c[0, 0] * x + w2c[0, 1] * y + w2c[0, 2] * z + w2c[0, 3]
        cy = w2c[1, 0] * x + w2c[1, 1] * y + w2c[1, 2] * z + w2c[1, 3]
        u = int(np.floor(K[0, 0] * cx / (cz + EPS) + K[0, 2]))
        v = int(np.floor(K[1, 1] * cy / (cz + EPS) + K[1, 2]))
        if u < 0 or v < 0 or u >= width or v >= height:
            continue
        cell[i], depth[i] = v * width + u, cz
        nearest[v, u] = min(nearest[v, u], cz)
    seen = np.zeros((clouds, height, width), np.bool_)
    for i in range(points.shape[0]):
        if cell[i] >= 0:
            v, u = cell[i] // width, cell[i] % width
            if depth[i] <= nearest[v, u] + within:
                seen[owner[i], v, u] = True
    return seen
