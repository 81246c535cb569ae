"""Holes -> smooth values from around them, by a push-pull pyramid."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

FLOOR_TINT_MAX = 0.5  # Largest change of a floor's colour that meets the seen floor (sRGB 0..1).
TINT_MAX = 0.12  # Largest change of a wall's brightness that meets the surroundings.
WALL_TINT_PX = 65  # Window within which a rim tints a wall; farther parts agree between frames.
HUE_SHARE = 0.25  # Share of a difference in hue that a wall takes over.


def push_pull(values: NDArray[np.float32], known: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Fill unknown pixels of `values` [h w c] from known ones, near ones first.

    Halves the image until one pixel is left, averaging what is known, and comes back down: every
    hole gets the values of the finest level at which something is known around it.
    """
    if known.all():
        return values
    if not known.any():
        return np.zeros_like(values)
    levels = [(values * known[..., None], known.astype(np.float32))]
    while max(levels[-1][1].shape) > 1:
        levels.append(_halve(*levels[-1]))
    filled = levels[-1][0] / np.maximum(levels[-1][1], 1e-12)[..., None]
    for total, weight in levels[-2::-1]:
        coarse = _double(filled, weight.shape)
        own = total / np.maximum(weight, 1e-12)[..., None]
        share = np.minimum(weight, 1)[..., None]
        filled = share * own + (1 - share) * coarse
    return filled.astype(np.float32)


def membrane(
    known_rgb: NDArray[np.float32],
    synthetic: NDArray[np.float32],
    trusted: NDArray[np.bool_],
    floor: NDArray[np.bool_],
) -> NDArray[np.float32]:
    """`synthetic` [h w 3] shifted smoothly to meet `known_rgb` at trusted pixels [h w].

    A floor [h w] goes on as what it is; what stands at the rim of a wall is mostly a thing before
    it, which must not dye the wall: there only the brightness is met, partly and nearby.
    """
    from scipy.ndimage import uniform_filter

    offset = np.where(trusted[..., None], known_rgb - synthetic, 0)
    grey = offset.mean(-1, keepdims=True)
    wall = np.clip(grey, -TINT_MAX, TINT_MAX) + HUE_SHARE * (offset - grey)
    offset = np.where(floor[..., None], np.clip(offset, -FLOOR_TINT_MAX, FLOOR_TINT_MAX), wall)
    tint = push_pull(offset, trusted)
    near = np.clip(4 * uniform_filter(trusted.astype(np.float32), WALL_TINT_PX), 0, 1)
    return np.clip(synthetic + tint * np.where(floor, 1, near)[..., None], 0, 1)


def _halve(
    total: NDArray[np.float32], weight: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    pad = [(0, size % 2) for size in weight.shape]
    total, weight = np.pad(total, [*pad, (0, 0)]), np.pad(weight, pad)
    total = total[::2, ::2] + total[1::2, ::2] + total[::2, 1::2] + total[1::2, 1::2]
    weight = weight[::2, ::2] + weight[1::2, ::2] + weight[::2, 1::2] + weight[1::2, 1::2]
    # A full weight is 1: a pixel that is known well must not be outvoted by its neighbours.
    scale = np.maximum(weight, 1)
    return total / scale[..., None], np.minimum(weight, 1)


def _double(image: NDArray[np.float32], shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Twice the size with linear interpolation, cut to `shape`."""
    for axis in range(2):
        size = image.shape[axis]
        at = (np.arange(shape[axis], dtype=np.float32) + 0.5) / 2 - 0.5
        low = np.clip(np.floor(at).astype(np.int64), 0, size - 1)
        high = np.minimum(low + 1, size - 1)
        share = np.clip(at - low, 0, 1).astype(np.float32)
        share = share.reshape((-1, 1, 1) if axis == 0 else (1, -1, 1))
        image = np.take(image, low, axis) * (1 - share) + np.take(image, high, axis) * share
    return image
