"""Which points of a world a generation camera saw, and whether the photo itself showed them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from worldloom.scene.cameras import project
from worldloom.scene.frame import invert_rigid
from worldloom.tasks.world import Keyframes

NEAR_M, NEAR_SHARE = 0.03, 0.02
"""Depth difference within which a pixel shows the point: metres, or share of the depth."""
ORIGIN_SEEN = 1  # Code of `origin` for pixels seen in the photo.


class Observer:
    """Answers what the keyframes of a world saw."""

    def __init__(self, keyframes: Keyframes) -> None:
        self._keyframes = keyframes

    def look(self, points: NDArray[np.floating]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Whether any camera saw each world point [n 3], and whether the photo showed it."""
        frames = self._keyframes
        observed = np.zeros(len(points), bool)
        seen = np.zeros(len(points), bool)
        height, width = frames.depth.shape[1:]
        for k in range(len(frames.frame_id)):
            uv, z = project(points, frames.K[k], invert_rigid(frames.c2w[k]))
            ahead = z > 0
            column = np.floor(np.where(ahead, uv[:, 0], -1)).astype(np.int64)
            row = np.floor(np.where(ahead, uv[:, 1], -1)).astype(np.int64)
            inside = (column >= 0) & (row >= 0) & (column < width) & (row < height)
            at = np.nonzero(inside)[0]
            depth = frames.depth[k, row[at], column[at]]
            slanted = _depth_between_pixels(frames.depth[k], uv[at])
            near = np.maximum(NEAR_M, NEAR_SHARE * z[at])
            close = (depth > 0) & (np.abs(depth - z[at]) <= near)
            close |= (slanted > 0) & (np.abs(slanted - z[at]) <= near)
            observed[at[close]] = True
            photo = frames.origin[k, row[at], column[at]] == ORIGIN_SEEN
            seen[at[close & photo]] = True
        return observed, seen


def _depth_between_pixels(
    depth: NDArray[np.float32], uv: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Depth at pixel positions [n 2] from a z-depth image [h w], exact on planes; 0 = none.

    One over depth is linear in the image of a plane. Seen at a grazing angle, a floor changes by
    more within a pixel than the tolerance allows, and the nearest pixel alone would leave stripes.
    """
    height, width = depth.shape
    x = np.clip(uv[:, 0] - 0.5, 0, width - 1)
    y = np.clip(uv[:, 1] - 0.5, 0, height - 1)
    i, j = np.minimum(x.astype(int), width - 2), np.minimum(y.astype(int), height - 2)
    inverse = np.zeros(len(uv))
    whole = np.ones(len(uv), bool)
    for dj in range(2):
        for di in range(2):
            value = depth[j + dj, i + di].astype(np.float64)
            whole &= value > 0
            share = np.abs(1 - di - (x - i)) * np.abs(1 - dj - (y - j))
            inverse += share / np.maximum(value, 1e-6)
    return np.where(whole, 1 / np.maximum(inverse, 1e-9), 0.0)
