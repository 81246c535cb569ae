"""Depth maps -> the pixels where a surface ends and something farther begins."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

JUMP = 0.02
"""Relative step of inverse depth, beyond what the slopes on both sides explain, that is a jump."""


def front_edges(depth: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Pixels [h w] of the nearer surface at a jump of depth; a crease between walls is none.

    Across a crease the step from pixel to pixel lies between the slopes of the two surfaces; at a
    silhouette it lies beyond both. Next to a pixel without depth every surface ends.

    Args:
        depth: z-depth [m], 0 = none, [h w].
    """
    inverse = np.where(depth > 0, 1 / np.maximum(depth, 1e-6), 0).astype(np.float32)
    return _along_rows(inverse) | _along_rows(inverse.T).T


def _along_rows(inverse: NDArray[np.float32]) -> NDArray[np.bool_]:
    """The same along the second axis only; 0 = no depth."""
    known = inverse > 0
    step = np.diff(inverse, axis=1)
    both = known[:, 1:] & known[:, :-1]
    # Slopes left and right of each step; where there is none the step has to explain itself.
    left = np.pad(np.where(both, step, np.nan)[:, :-1], ((0, 0), (1, 0)), constant_values=np.nan)
    right = np.pad(np.where(both, step, np.nan)[:, 1:], ((0, 0), (0, 1)), constant_values=np.nan)
    low, high = np.fmin(left, right), np.fmax(left, right)
    beyond = np.maximum(step - high, low - step)
    near = np.maximum(inverse[:, 1:], inverse[:, :-1])
    jump = both & ~(beyond <= JUMP * near)
    out = np.zeros(inverse.shape, bool)
    out[:, :-1] |= (jump & (step < 0)) | (known[:, :-1] & ~known[:, 1:])
    out[:, 1:] |= (jump & (step > 0)) | (known[:, 1:] & ~known[:, :-1])
    return out
