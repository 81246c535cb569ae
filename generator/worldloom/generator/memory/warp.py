"""Remembered frames -> how they look from another camera: a soft z-buffered forward warp.

Every source pixel is splatted bilinearly onto the four pixels around its new place. A first pass
finds the nearest surface at each pixel, a second one blends what lies on it; earlier sources in
the list weigh more, so that content is resampled from its first frame and does not blur with
every generation. One serial loop: the result does not depend on threads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numba as nb
import numpy as np
from numpy.typing import ArrayLike, NDArray

from worldloom.scene.frame import invert_rigid

SAME_SURFACE = 0.02  # Relative depth within which two samples belong to one surface.
SAME_SURFACE_M = 0.01  # The same in metres, for near surfaces.
PRIORITY = 0.25  # Weight of each further source against the one before it.
WEIGHT_MIN = 0.02  # Bilinear weight below which a sample does not touch a pixel.
ONE_SHEET = 0.05  # Relative depth within which neighbouring pixels are drawn as one sheet.
SLACK_PX = 0.25  # Distance above one pixel at which two samples still touch.
SAMPLES_MOST = 8  # Most samples per side of a source pixel: it may come eight times nearer.
GRAZED = 0.2  # Bilinear weight from which a sample partly covers a pixel.
COVERED = 0.35  # Sum of weights from which a pixel that no sample is nearest to is covered.
CRACK_NEIGHBOURS = 5  # Of 8 neighbours on one surface that make an empty pixel a crack in it.


class Source(Protocol):
    """What can be warped; `memory.cache.CacheEntry` is one."""

    rgb: NDArray[np.float32]
    depth: NDArray[np.float32]
    origin: NDArray[np.uint8]
    solid: NDArray[np.bool_]
    c2w: NDArray[np.float64]
    K: NDArray[np.float64]


@dataclass(frozen=True)
class Warped:
    """A view composed of warped frames."""

    rgb: NDArray[np.float32]
    """sRGB 0..1, 0 where empty, [h w 3]."""
    depth: NDArray[np.float32]
    """z-depth in metres, 0 where empty, [h w]."""
    seen: NDArray[np.float32]
    """Share of the colour that comes from the photo itself, 0..1, [h w]."""
    filled: NDArray[np.bool_]
    """Pixels that some frame reaches, [h w]."""


def forward_warp(
    sources: Sequence[Source], c2w: ArrayLike, K: ArrayLike, size: tuple[int, int]
) -> Warped:
    """Compose the view of a camera from frames, the most trusted one first.

    Args:
        sources: Frames to draw on, in order of trust.
        c2w: Camera to world of the view, OpenCV axes, [4 4].
        K: Its intrinsics in pixels, [3 3].
        size: Its width and height in pixels.
    """
    width, height = size
    w2c, K = invert_rigid(c2w), np.asarray(K, np.float64)
    nearest = np.full((height, width), np.inf, np.float32)
    grazed = np.full((height, width), np.inf, np.float32)
    moved = []
    for source in sources:
        relative = w2c @ source.c2w
        u, v, z = _move(source.depth, source.solid, relative, source.K, K)
        _nearest(u, v, z, nearest, grazed)
        moved.append((u, v, z))
    between = np.isinf(nearest)
    nearest = np.where(between, grazed, nearest)
    total = np.zeros((height, width, 7), np.float32)
    for rank, (source, (u, v, z)) in enumerate(zip(sources, moved, strict=True)):
        _blend(u, v, z, source.rgb, source.origin, nearest, PRIORITY**rank, total)
    return _compose(total, between)


def _compose(total: NDArray[np.float32], between: NDArray[np.bool_]) -> Warped:
    weight = total[..., 5]
    # Between samples that spread apart all around, a pixel is covered; beyond the last one not.
    filled = (weight > 0) & (~between | (total[..., 6] >= COVERED))
    safe = np.where(filled, weight, 1)
    rgb = np.where(filled[..., None], total[..., :3] / safe[..., None], 0).astype(np.float32)
    depth = np.where(filled, weight / np.maximum(total[..., 3], 1e-12), 0).astype(np.float32)
    seen = np.where(filled, total[..., 4] / safe, 0).astype(np.float32)
    _mend(rgb, depth, seen, filled)
    return Warped(rgb, depth, seen, filled)


@nb.njit(cache=True)
def _move(depth, solid, relative, K_source, K):
    """New positions in pixels and z-depths of all source pixels; depth 0 = not to be used."""
    height, width = depth.shape
    u = np.zeros((height, width), np.float32)
    v = np.zeros((height, width), np.float32)
    z = np.zeros((height, width), np.float32)
    for row in range(height):
        y = (row + 0.5 - K_source[1, 2]) / K_source[1, 1]
        for column in range(width):
            d = depth[row, column]
            if d <= 0 or not solid[row, column]:
                continue
            px, py = (column + 0.5 - K_source[0, 2]) / K_source[0, 0] * d, y * d
            cz = relative[2, 0] * px + relative[2, 1] * py + relative[2, 2] * d + relative[2, 3]
            if cz <= 0.02:
                continue
            cx = relative[0, 0] * px + relative[0, 1] * py + relative[0, 2] * d + relative[0, 3]
            cy = relative[1, 0] * px + relative[1, 1] * py + relative[1, 2] * d + relative[1, 3]
            u[row, column] = K[0, 0] * cx / cz + K[0, 2] - 0.5
            v[row, column] = K[1, 1] * cy / cz + K[1, 2] - 0.5
            z[row, column] = cz
    return u, v, z


@nb.njit(cache=True)
def _samples(u, v, z, row, column):
    """Samples per side that a source pixel is drawn with: more where its neighbours drift apart.

    Without them a surface that is seen from nearer than before would fall apart into dots.
    """
    if row + 1 >= z.shape[0] or column + 1 >= z.shape[1]:
        return 1
    low, high, reach = z[row, column], z[row, column], np.float32(0)
    for r in range(row, row + 2):
        for c in range(column, column + 2):
            low, high = min(low, z[r, c]), max(high, z[r, c])
            reach = max(reach, abs(u[r, c] - u[row, column]), abs(v[r, c] - v[row, column]))
    if low <= 0 or high > low * (1 + ONE_SHEET):
        return 1
    return min(max(int(np.ceil(reach - SLACK_PX)), 1), SAMPLES_MOST)


@nb.njit(cache=True)
def _between(field, row, column, s, t):
    """Value of a field [h w] between a pixel and its neighbours to the right (s) and below (t)."""
    if s == 0 and t == 0:
        return field[row, column]
    upper = field[row, column] * (1 - s) + field[row, column + 1] * s
    lower = field[row + 1, column] * (1 - s) + field[row + 1, column + 1] * s
    return upper * (1 - t) + lower * t


@nb.njit(cache=True)
def _nearest(u, v, z, nearest, grazed):
    """Lower `nearest` where a sample mostly covers a pixel, and `grazed` where it partly does."""
    height, width = nearest.shape
    for row in range(z.shape[0]):
        for column in range(z.shape[1]):
            if z[row, column] <= 0:
                continue
            n = _samples(u, v, z, row, column)
            for k in range(n * n):
                s, t = np.float32(k % n / n), np.float32(k // n / n)
                uk, vk = _between(u, row, column, s, t), _between(v, row, column, s, t)
                d = _between(z, row, column, s, t)
                x, y = int(np.floor(uk + 0.5)), int(np.floor(vk + 0.5))
                if 0 <= x < width and 0 <= y < height:
                    nearest[y, x] = min(nearest[y, x], d)
                x0, y0 = int(np.floor(uk)), int(np.floor(vk))
                for y in range(max(y0, 0), min(y0 + 2, height)):
                    wy = 1 - abs(vk - y)
                    for x in range(max(x0, 0), min(x0 + 2, width)):
                        if wy * (1 - abs(uk - x)) >= GRAZED:
                            grazed[y, x] = min(grazed[y, x], d)


@nb.njit(cache=True)
def _blend(u, v, z, rgb, origin, nearest, priority, total):
    """Add the samples that lie on the nearest surface: colour, inverse depth, seen, weights."""
    colour = np.zeros(3, np.float32)
    for row in range(z.shape[0]):
        for column in range(z.shape[1]):
            if z[row, column] <= 0:
                continue
            seen = np.float32(1.0 if origin[row, column] == 1 else 0.0)
            n = _samples(u, v, z, row, column)
            for k in range(n * n):
                s, t = np.float32(k % n / n), np.float32(k // n / n)
                uk, vk = _between(u, row, column, s, t), _between(v, row, column, s, t)
                for c in range(3):
                    if k == 0:
                        colour[c] = rgb[row, column, c]
                    else:
                        colour[c] = _between(rgb[:, :, c], row, column, s, t)
                d = _between(z, row, column, s, t)
                _add(total, nearest, uk, vk, d, colour, seen, np.float32(priority))


@nb.njit(cache=True)
def _add(total, nearest, u, v, d, colour, seen, priority):
    """Add one sample to the four pixels around it, where it lies on their surface."""
    height, width = nearest.shape
    x0, y0 = int(np.floor(u)), int(np.floor(v))
    for y in range(max(y0, 0), min(y0 + 2, height)):
        wy = 1 - abs(v - y)
        for x in range(max(x0, 0), min(x0 + 2, width)):
            weight = wy * (1 - abs(u - x))
            limit = nearest[y, x]
            if weight < WEIGHT_MIN or d > limit * (1 + SAME_SURFACE) + SAME_SURFACE_M:
                continue
            # A sample much nearer than this pixel's surface belongs to a neighbour.
            if d < limit * (1 - SAME_SURFACE) - SAME_SURFACE_M:
                continue
            total[y, x, 6] += weight
            weight *= priority
            for channel in range(3):
                total[y, x, channel] += weight * colour[channel]
            total[y, x, 3] += weight / d
            total[y, x, 4] += weight * seen
            total[y, x, 5] += weight


@nb.njit(cache=True)
def _mend(rgb, depth, seen, filled):
    """Close cracks of a pixel's width: empty, or showing what lies far behind its neighbours."""
    height, width = depth.shape
    before, known = depth.copy(), filled.copy()
    colour = np.zeros(3, np.float32)
    for row in range(height):
        for column in range(width):
            own = before[row, column] if known[row, column] else np.inf
            near = np.inf
            for r in range(max(0, row - 1), min(height, row + 2)):
                for c in range(max(0, column - 1), min(width, column + 2)):
                    if known[r, c] and (r != row or c != column):
                        near = min(near, before[r, c])
            if not near < 0.95 * own:
                continue
            count, inverse, share = 0, 0.0, 0.0
            colour[:] = 0
            for r in range(max(0, row - 1), min(height, row + 2)):
                for c in range(max(0, column - 1), min(width, column + 2)):
                    if not known[r, c] or before[r, c] > 1.05 * near or (r == row and c == column):
                        continue
                    count += 1
                    inverse += 1 / before[r, c]
                    share += seen[r, c]
                    for channel in range(3):
                        colour[channel] += rgb[r, c, channel]
            if count < CRACK_NEIGHBOURS:
                continue
            for channel in range(3):
                rgb[row, column, channel] = colour[channel] / count
            depth[row, column] = count / inverse
            seen[row, column] = share / count
            filled[row, column] = True
