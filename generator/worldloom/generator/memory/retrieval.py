"""Which remembered frames see a view: projection, z-buffer, greedy coverage (spec 3.4)."""

from __future__ import annotations

import numba as nb
import numpy as np
from numpy.typing import ArrayLike, NDArray

from worldloom.scene.frame import invert_rigid


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
    points = np.concatenate(clouds) if clouds else np.zeros((0, 3), np.float32)
    owner = np.repeat(np.arange(len(clouds)), [len(c) for c in clouds]).astype(np.int32)
    scaled = np.asarray(K, np.float64).copy()
    scaled[:2] /= stride
    return _coverage(
        points, owner, len(clouds), invert_rigid(c2w), scaled, width, height, visible_within
    )


def greedy_cover(
    seen: NDArray[np.bool_], count: int, taken: list[int] | None = None
) -> list[int]:
    """Indices of up to `count` rows of `seen` [n h w], each adding most new pixels, best first.

    Ties go to the lowest index; rows in `taken` are covered beforehand and not chosen again.
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
        best = int(gain.argmax())
        if gain[best] <= 0:
            break
        chosen.append(best)
        covered |= flat[best]
        banned[best] = True
    return chosen


@nb.njit(cache=True)
def _coverage(points, owner, clouds, w2c, K, width, height, within):  # noqa: ANN001, ANN202
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
        u = int(np.floor(K[0, 0] * cx / cz + K[0, 2]))
        v = int(np.floor(K[1, 1] * cy / cz + K[1, 2]))
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
