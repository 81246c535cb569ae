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
            close = (depth > 0) & (np.abs(depth - z[at]) <= np.maximum(NEAR_M, NEAR_SHARE * z[at]))
            observed[at[close]] = True
            photo = frames.origin[k, row[at], column[at]] == ORIGIN_SEEN
            seen[at[close & photo]] = True
        return observed, seen
