"""Frames -> how they look from other cameras, by the soft splat that Lyra 2.0 was trained with.

Every source point is spread bilinearly over four pixels, with a weight that falls steeply with
log depth: near surfaces win softly (spec generation 4.2). The quirks of the released code are
kept, each behind a named argument or constant, because the weights have learnt them. Loops run in
the order of the pixels: the result does not depend on threads.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba as nb
import numpy as np
from numpy.typing import ArrayLike, NDArray

SHARPNESS = 50.0  # Log-depth factor of the weights (spec generation 4.2, step 3).
EXPONENT_MOST = 80.0  # Cap of the exponent (same place).
EPS = 1e-7  # Added to divisors by the released code (same place).


@dataclass(frozen=True)
class SoftWarp:
    """Views made by splatting, for b cameras."""

    values: NDArray[np.float32]
    """Blended channels, `fill` where nothing landed, [b h w c]."""
    depth: NDArray[np.float32]
    """Blended z-depth in each view, 0 where nothing landed, [b h w]."""
    known: NDArray[np.bool_]
    """Pixels on which something landed, [b h w]."""


def depth_weights(depth: ArrayLike, log_most: float) -> NDArray[np.float32]:
    """Soft z-buffer weights of depths whose log(1 + depth) reaches `log_most` in this call."""
    z = np.maximum(np.asarray(depth, np.float64), 0)
    exponent = np.minimum(SHARPNESS * np.log1p(z) / (log_most + EPS), EXPONENT_MOST)
    return (1 / (np.exp(exponent) + EPS)).astype(np.float32)


def log_depth_most(depth: ArrayLike) -> float:
    """Largest log(1 + depth) of a whole call: the weights of all its views hang on it."""
    return float(np.log1p(np.maximum(np.asarray(depth, np.float64), 0)).max(initial=0))


def splat(
    values: NDArray[np.float32],
    position: NDArray[np.float32],
    weight: NDArray[np.float32],
    size: tuple[int, int],
    *,
    groups: NDArray[np.int64] | None = None,
    fill: float = 0.0,
    clamp: bool = False,
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Spread samples over images: blended channels [b h w c] and the pixels that were hit [b h w].

    Args:
        values: Channels of the samples, [n p c].
        position: Target column and row, integer centres, [n p 2].
        weight: Weight of each sample, 0 to leave it out, [n p].
        size: Width and height of the images.
        groups: Image that each of the n lists goes to; one image for each by default, [n].
        fill: Value of pixels that nothing hit.
        clamp: Whether values are clamped to -1..1, as colours are.
    """
    groups = np.arange(len(values)) if groups is None else np.asarray(groups)
    count = int(groups.max(initial=-1)) + 1
    canvas = np.zeros((count, size[1] + 2, size[0] + 2, values.shape[-1] + 1), np.float32)
    for i, group in enumerate(groups):
        _spread(values[i], position[i], weight[i], canvas[group])
    return _resolve(canvas[:, 1:-1, 1:-1], fill, clamp)


def soft_warp(
    values: NDArray[np.float32],
    points: NDArray[np.float32],
    valid: NDArray[np.bool_],
    w2c: ArrayLike,
    K: ArrayLike,
    size: tuple[int, int],
    *,
    sources: NDArray[np.int64] | None = None,
    log_most: float | None = None,
    fill: float = -1.0,
    clamp: bool = True,
) -> SoftWarp:
    """Views of b cameras out of v of s source frames each.

    Args:
        values: Channels of the source frames, [s h w c].
        points: Their world points; invalid ones at the origin, as they take part in the depth
            maximum (quirk of the released code), [s h w 3].
        valid: Points that may be seen, [s h w].
        w2c: World to camera of the views, [b 4 4].
        K: Intrinsics of the views, integer pixel centres, [b 3 3].
        size: Width and height of the views.
        sources: Source frames of each view, [b v]; all frames for each view by default.
        log_most: Largest log(1 + depth) to weigh with; by default that of this call. The released
            code takes that of `warp_chunk_size` views together.
        fill: Value of pixels that nothing reaches.
        clamp: Whether values are clamped to -1..1.
    """
    w2c, K = np.asarray(w2c, np.float64), np.asarray(K, np.float64)
    if sources is None:
        sources = np.tile(np.arange(len(values)), (len(w2c), 1))
    sources = np.asarray(sources, np.int64)
    flat = np.ascontiguousarray(points, np.float32).reshape(len(points), -1, 3)
    if log_most is None:
        log_most = farthest_log(flat, w2c, sources)
    canvas = np.zeros((len(w2c), size[1] + 2, size[0] + 2, values.shape[-1] + 2), np.float32)
    channels = np.ascontiguousarray(values, np.float32).reshape(len(flat), flat.shape[1], -1)
    _project_and_spread(
        channels, flat, valid.reshape(len(flat), -1), w2c, K, sources, np.float64(log_most), canvas
    )
    out, known = _resolve(canvas[:, 1:-1, 1:-1], 0.0, clamp=False)
    blended, depth = out[..., :-1], np.ascontiguousarray(out[..., -1])
    blended = np.clip(blended, -1, 1) if clamp else blended
    return SoftWarp(np.where(known[..., None], blended, np.float32(fill)), depth, known)


def farthest_log(points: NDArray[np.float32], w2c: ArrayLike, sources: NDArray[np.int64]) -> float:
    """Largest log(1 + z) of all points [s n 3] over all views, invalid points included."""
    return _farthest_log(points.reshape(len(points), -1, 3), np.asarray(w2c, np.float64), sources)


def _resolve(
    canvas: NDArray[np.float32], fill: float, clamp: bool
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    weight = canvas[..., -1:]
    known = weight[..., 0] > 0
    with np.errstate(invalid="ignore", divide="ignore"):
        out = canvas[..., :-1] / weight
    out = np.clip(out, -1, 1) if clamp else out
    return np.where(known[..., None], out, np.float32(fill)).astype(np.float32), known


@nb.njit(cache=True)
def _farthest_log(points, w2c, sources):
    most = 0.0
    for b in range(len(w2c)):
        for k in range(sources.shape[1]):
            for p in points[sources[b, k]]:
                z = w2c[b, 2, 0] * p[0] + w2c[b, 2, 1] * p[1] + w2c[b, 2, 2] * p[2] + w2c[b, 2, 3]
                most = max(most, z)
    return np.log1p(most)


@nb.njit(cache=True, inline="always")
def _add(canvas, u, v, values, weight, extra):
    """Spread one sample onto a canvas with a border of one pixel; `extra` is one more channel.

    Floor and ceiling are both visited even where they are the same pixel: a sample exactly on a
    pixel counts twice for each axis, as in the released code.
    """
    right, bottom = canvas.shape[1] - 1, canvas.shape[0] - 1
    u = min(max(u + np.float32(1), np.float32(0)), np.float32(right))
    v = min(max(v + np.float32(1), np.float32(0)), np.float32(bottom))
    x0, y0 = int(np.floor(u)), int(np.floor(v))
    x1, y1 = int(np.ceil(u)), int(np.ceil(v))
    channels = len(values)
    for j in range(2):
        y = y1 if j else y0
        wy = weight * (1 - abs(v - y))
        for i in range(2):
            x = x1 if i else x0
            w = wy * (1 - abs(u - x))
            for c in range(channels):
                canvas[y, x, c] += w * values[c]
            if canvas.shape[2] > channels + 1:
                canvas[y, x, channels] += w * extra
            canvas[y, x, canvas.shape[2] - 1] += w


@nb.njit(cache=True)
def _spread(values, position, weight, canvas):
    for i in range(len(weight)):
        if weight[i] != 0:
            _add(canvas, position[i, 0], position[i, 1], values[i], weight[i], np.float32(0))


@nb.njit(cache=True, parallel=True)
def _project_and_spread(values, points, valid, w2c, K, sources, log_most, canvas):
    # Views are independent, so sharing them among threads changes no sum.
    for b in nb.prange(len(w2c)):
        P = K[b] @ w2c[b, :3]
        most = np.exp(EXPONENT_MOST)
        for k in range(sources.shape[1]):
            s = sources[b, k]
            for i in range(points.shape[1]):
                if not valid[s, i]:
                    continue
                x, y, w = points[s, i, 0], points[s, i, 1], points[s, i, 2]
                z = P[2, 0] * x + P[2, 1] * y + P[2, 2] * w + P[2, 3]
                if z <= 0:
                    continue
                u = np.float32((P[0, 0] * x + P[0, 1] * y + P[0, 2] * w + P[0, 3]) / (z + EPS))
                v = np.float32((P[1, 0] * x + P[1, 1] * y + P[1, 2] * w + P[1, 3]) / (z + EPS))
                # exp(s log(1 + z)) is a power of 1 + z: one call instead of two.
                grown = min((1 + z) ** (SHARPNESS / (log_most + EPS)), most)
                weight = np.float32(1 / (grown + EPS))
                _add(canvas[b], u, v, values[s, i], weight, np.float32(z))
