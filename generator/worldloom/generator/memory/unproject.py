"""Depth maps -> world points and the mask of depths that can be trusted, as Lyra 2.0 does it.

Lyra's pixel centres are at integer coordinates; ours are at +0.5. `to_integer_centres` and its
inverse convert intrinsics at the border, and everything in this module, `splat` and the Lyra part
of `retrieval` takes integer centres.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

RELIABLE_WINDOW, RELIABLE_RATIO = 5, 0.05  # Spec generation 4.2, step 1.
DEPTH_MOST = 1e4  # Depths are clamped to this; NaN becomes this (spec generation 4.2).


def to_integer_centres(K: ArrayLike) -> NDArray[np.float64]:
    """Intrinsics [... 3 3] of pixel centres at +0.5 as those of centres at integers."""
    K = np.array(K, np.float64)
    K[..., :2, 2] -= 0.5
    return K


def to_half_centres(K: ArrayLike) -> NDArray[np.float64]:
    """Intrinsics [... 3 3] of pixel centres at integers as those of centres at +0.5."""
    K = np.array(K, np.float64)
    K[..., :2, 2] += 0.5
    return K


def clean_depth(depth: ArrayLike) -> NDArray[np.float32]:
    """Depth with NaN taken as very far and everything clamped to 0..DEPTH_MOST."""
    depth = np.asarray(depth, np.float32)
    return np.clip(np.where(np.isnan(depth), np.float32(DEPTH_MOST), depth), 0, DEPTH_MOST)


def reliable_depth(
    depth: NDArray[np.float32], *, window: int = RELIABLE_WINDOW, ratio: float = RELIABLE_RATIO
) -> NDArray[np.bool_]:
    """Pixels of a depth map [h w] whose neighbourhood is one surface (spec generation 4.2).

    The mean counts zeros beyond the border, so the test is stricter there; the released weights
    were trained with that.
    """
    from scipy.ndimage import maximum_filter, minimum_filter, uniform_filter

    depth = np.asarray(depth, np.float32)
    spread = maximum_filter(depth, window, mode="nearest") - minimum_filter(
        depth, window, mode="nearest"
    )
    mean = uniform_filter(depth.astype(np.float64), window, mode="constant")
    return (spread / (mean + 1e-6) < ratio) & (depth > 0)


def pixel_directions(K: ArrayLike, height: int, width: int) -> NDArray[np.float64]:
    """Camera-frame directions with z = 1 of pixels with integer centres, [h w 3]."""
    K = np.asarray(K, np.float64)
    out = np.ones((height, width, 3))
    out[..., 0] = (np.arange(width) - K[0, 2]) / K[0, 0]
    out[..., 1] = ((np.arange(height) - K[1, 2]) / K[1, 1])[:, None]
    return out


def ftheta_directions(lens: ArrayLike, height: int, width: int) -> NDArray[np.float64]:
    """Unit camera-frame directions of an f-theta lens with integer centres, [h w 3].

    Args:
        lens: cx, cy, w, h, and c0..c3 of the angle as a cubic of the pixel radius; more is ignored.
        height: Rows.
        width: Columns.
    """
    cx, cy, _, _, *poly = np.asarray(lens, np.float64)[:8]
    dx, dy = np.meshgrid(np.arange(width) - cx, np.arange(height) - cy)
    radius = np.hypot(dx, dy)
    angle = np.polyval(poly[::-1], radius)
    ring = np.sin(angle) / np.maximum(radius, 1e-12)
    return np.stack([ring * dx, ring * dy, np.cos(angle)], -1)


def world_points(
    depth: ArrayLike,
    directions: NDArray[np.float64],
    w2c: ArrayLike,
    *,
    mask: NDArray[np.bool_] | None = None,
    along_ray: bool = False,
) -> NDArray[np.float32]:
    """World points [h w 3] of a depth map [h w]; pixels outside the mask lie at the origin.

    Args:
        depth: z-depth, or distance along the ray.
        directions: Camera-frame direction of each pixel, [h w 3].
        w2c: World to camera, [4 4].
        mask: Pixels to use; those with positive depth by default.
        along_ray: Whether `depth` is the distance along the ray.
    """
    depth, w2c = np.asarray(depth, np.float64), np.asarray(w2c, np.float64)
    unit = np.linalg.norm(directions, axis=-1) if along_ray else directions[..., 2]
    local = directions * (depth / unit)[..., None]
    # The inverse of a rigid motion without inverting: R^T (x - t).
    points = (local - w2c[:3, 3]) @ w2c[:3, :3]
    keep = depth > 0 if mask is None else mask
    return np.where(keep[..., None], points, 0).astype(np.float32)


def strided_points(
    depth: NDArray[np.float32], K: ArrayLike, w2c: ArrayLike, *, stride: int
) -> NDArray[np.float32]:
    """World points of every `stride`-th pixel, on a grid with its own intrinsics K / stride.

    Invalid pixels lie at the world origin and count as points (spec generation 3.1).
    """
    small = np.asarray(depth, np.float32)[::stride, ::stride]
    K = np.array(K, np.float64)
    K[:2] /= stride
    return world_points(small, pixel_directions(K, *small.shape), w2c)
