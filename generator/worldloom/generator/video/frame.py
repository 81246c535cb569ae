"""One frame: colour, depth, where each pixel came from, and its camera."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

ORIGIN_NONE, ORIGIN_SEEN, ORIGIN_MADE_UP = 0, 1, 2
"""Codes of `Frame.origin`: nothing there, seen in the photo, made up by the engine."""


@dataclass(frozen=True)
class Frame:
    """A frame of the video with its geometry."""

    frame_id: int
    rgb: NDArray[np.float32]
    """sRGB 0..1 on 8-bit levels, [h w 3]."""
    depth: NDArray[np.float32]
    """z-depth in metres, 0 = none or sky, [h w]."""
    origin: NDArray[np.uint8]
    """ORIGIN_* code of each pixel, [h w]."""
    c2w: NDArray[np.float64]
    """Camera to world, OpenCV axes, level world frame [m], [4 4]."""
    K: NDArray[np.float64]
    """Intrinsics in pixels, [3 3]."""

    def on_byte_levels(self) -> Frame:
        """The frame with colours rounded to 8 bits, so that files keep it exactly."""
        levels = (np.clip(self.rgb, 0, 1) * 255 + 0.5).astype(np.uint8)
        return replace(self, rgb=levels_to_float(levels))


def known_depth(depth: NDArray[np.floating]) -> NDArray[np.float32]:
    """z-depth [h w] with 0 wherever it is not a positive finite number."""
    depth = np.asarray(depth, np.float32)
    return np.where(np.isfinite(depth) & (depth > 0), depth, np.float32(0))


def levels_to_float(levels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """8-bit colours as sRGB 0..1; the inverse of rounding a frame to byte levels."""
    return levels.astype(np.float32) / np.float32(255)
