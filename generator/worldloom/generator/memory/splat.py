"""Frames -> how they look from other cameras, by the soft splat that Lyra 2.0 was trained with.

Every source point is spread bilinearly over four pixels, with a weight that falls steeply with
log depth: near surfaces win softly (spec generation 4.2). The quirks of the released code are
kept, each behind a named argument or constant, because the weights have learnt them. The loops are
in `splat_kernels`; the result does not depend on threads.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from worldloom.generator.memory import splat_kernels
from worldloom.generator.memory.splat_kernels import EPS, EXPONENT_MOST, SHARPNESS


@dataclass(frozen=True)
class SoftWarp:
    """Views made by splatting, for b cameras."""

    values: NDArray[np.float32]
    """Blended channels, `fill` where nothing landed, [b h w c]."""
    depth: NDArray[np.float32]
    """Blended z-depth in each view, 0 where nothing landed, [b h w]."""
    known: NDArray[np.bool_]
    """Pixels on which something landed, [b h w]."""


def depth_weights(
    depth: ArrayLike, log_most: float, *, sharpness: float = SHARPNESS
) -> NDArray[np.float32]:
    """Soft z-buffer weights of depths whose log(1 + depth) reaches `log_most` in this call."""
    z = np.maximum(np.asarray(depth, np.float64), 0)
    exponent = np.minimum(sharpness * np.log1p(z) / (log_most + EPS), EXPONENT_MOST)
    return (1 / (np.exp(exponent) + EPS)).astype(np.float32)


def log_depth_most(depth: ArrayLike) -> float:
    """Largest log(1 + depth) of a whole call: the weights of all its views hang on it."""
    return float(np.log1p(np.maximum(np.asarray(depth, np.float64), 0)).max(initial=0))


def weight_power(log_most: ArrayLike) -> NDArray[np.float32]:
    """Exponent p of the weights (1 + z)^-p of calls whose largest log(1 + z) is `log_most`."""
    return (SHARPNESS / (np.asarray(log_most, np.float64) + EPS)).astype(np.float32)


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
    groups = np.arange(len(values)) if groups is None else np.asarray(groups, np.int64)
    channels, count = values.shape[-1], int(groups.max(initial=-1)) + 1
    out = np.empty((count, size[1], size[0], channels), np.float32)
    known = splat_kernels.splat_samples(
        np.ascontiguousarray(values, np.float32), np.asarray(position, np.float32),
        np.asarray(weight, np.float32), groups, np.float32(fill), *_range(clamp), (0,) * channels,
        out,
    )  # fmt: skip
    return out, known


def soft_warp(
    values: NDArray[np.float32],
    points: NDArray[np.float32],
    valid: NDArray[np.bool_],
    w2c: ArrayLike,
    K: ArrayLike,
    size: tuple[int, int],
    *,
    sources: NDArray[np.int64] | None = None,
    log_most: ArrayLike | None = None,
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
        log_most: Largest log(1 + depth) to weigh with, for all views or for each, [b]; by default
            that of this call. The released code takes that of `warp_chunk_size` views together.
        fill: Value of pixels that nothing reaches.
        clamp: Whether values are clamped to -1..1.
    """
    w2c, K = np.asarray(w2c, np.float64), np.asarray(K, np.float64)
    if sources is None:
        sources = np.tile(np.arange(len(points)), (len(w2c), 1))
    sources = np.asarray(sources, np.int64)
    flat = np.ascontiguousarray(points, np.float32).reshape(len(points), -1, 3)
    if log_most is None:
        log_most = farthest_log(flat, w2c, sources)
    power = np.broadcast_to(weight_power(log_most), len(w2c)).astype(np.float32)
    channels = values.shape[-1]
    out = np.empty((len(w2c), size[1], size[0], channels), np.float32)
    depth = np.empty(out.shape[:3], np.float32)
    known = splat_kernels.warp_views(
        np.ascontiguousarray(values, np.float32).reshape(len(flat), -1, channels), flat,
        np.ascontiguousarray(valid).reshape(len(flat), -1), K @ w2c[:, :3], power, sources,
        np.float32(fill), *_range(clamp), (0,) * channels, (0,), out, depth,
    )  # fmt: skip
    return SoftWarp(out, depth, known)


def farthest_log(points: NDArray[np.float32], w2c: ArrayLike, sources: NDArray[np.int64]) -> float:
    """Largest log(1 + z) of all points [s n 3] over all views, invalid points included."""
    w2c, sources = np.asarray(w2c, np.float64), np.asarray(sources)
    flat = points.reshape(len(points), -1, 3)
    nothing = np.zeros(flat.shape[1], bool)
    most = 0.0
    for s in np.unique(sources):
        views = w2c[(sources == s).any(1)]
        most = max(most, splat_kernels.farthest(flat[s], nothing, views)[:, 0].max(initial=0))
    return float(np.log1p(most))


def _range(clamp: bool) -> tuple[np.float32, np.float32]:
    limit = np.float32(1 if clamp else np.inf)
    return -limit, limit
