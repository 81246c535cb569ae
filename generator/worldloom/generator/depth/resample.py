"""Images at another size: exact area averages when they shrink, bilinear when they grow.

Depth networks are sensitive to this (spec tcmonodepth_small): area averaging is what the small
network was measured with.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def resize(image: NDArray[np.floating], width: int, height: int) -> NDArray[np.float32]:
    """Resize an image [h w] or [h w c] to `height` x `width`, each axis by its own rule."""
    rows = axis_weights(image.shape[0], height)
    columns = axis_weights(image.shape[1], width)
    flat = np.asarray(image, np.float32)
    out = np.tensordot(rows, flat, (1, 0))
    out = np.moveaxis(np.tensordot(columns, out, (1, 1)), 0, 1)
    return np.ascontiguousarray(out)


def nearest(image: NDArray, width: int, height: int) -> NDArray:
    """The nearest pixels of an image [h w ...] at `height` x `width`; for masks and depth edges."""
    rows = ((np.arange(height) + 0.5) * image.shape[0] / height).astype(int)
    columns = ((np.arange(width) + 0.5) * image.shape[1] / width).astype(int)
    return image[rows[:, None], columns[None, :]]


def axis_weights(old: int, new: int) -> NDArray[np.float32]:
    """Weights [new old] that map one axis of `old` pixels to `new`; every row sums to 1."""
    if new < old:
        edges = np.linspace(0, old, new + 1)
        cells = np.arange(old)
        overlap = np.minimum(edges[1:, None], cells + 1) - np.maximum(edges[:-1, None], cells)
        weights = np.maximum(overlap, 0)
        return (weights / weights.sum(1, keepdims=True)).astype(np.float32)
    centres = np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, old - 1)
    weights = np.maximum(0, 1 - np.abs(centres[:, None] - np.arange(old)))
    return weights.astype(np.float32)
