"""Lyra's spatial memory: frames with depth and camera, as a value that is never changed in place.

Adding a frame gives a new memory that shares the old frames, so a step can be undone completely.
Depths and cameras are in units of the scene, pixel centres at integers (spec generation 3).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from worldloom.generator.memory.retrieval import PointStore, lyra_retrieve
from worldloom.generator.memory.unproject import strided_points

VISIBLE_WITHIN = 0.1
"""Units of the scene that a point may lie behind the nearest and still count as seen. The released
weights were trained with this absolute number: scenes should be a few units across (spec 11.1)."""


@dataclass(frozen=True)
class Remembered:
    """One frame of the memory."""

    frame_id: int
    """Absolute frame; negative for further input views."""
    depth: NDArray[np.float32]
    """z-depth, <= 0 where there is none, [h w]."""
    w2c: NDArray[np.float64]
    K: NDArray[np.float64]
    points: NDArray[np.float32]
    """World points of the coarse grid; invalid ones at the origin, as released, [n 3]."""
    pixels: NDArray[np.float32] | None = None
    """Colours of a further input view in -1..1, [3 h w]; those of the video are kept there."""


@dataclass(frozen=True)
class LyraMemory:
    """The frames that may be retrieved, in the order in which they came."""

    frames: tuple[Remembered, ...] = ()
    stride: int = 4
    """Pixels per point and per cell of the retrieval grid (spec generation 3.1)."""
    visible_within: float = VISIBLE_WITHIN

    def __contains__(self, frame_id: int) -> bool:
        return any(frame.frame_id == frame_id for frame in self.frames)

    @property
    def ids(self) -> list[int]:
        """Numbers of all frames."""
        return [frame.frame_id for frame in self.frames]

    def get(self, frame_id: int) -> Remembered:
        """The newest frame with this number; KeyError when there is none."""
        for frame in reversed(self.frames):
            if frame.frame_id == frame_id:
                return frame
        raise KeyError(frame_id)

    @cached_property
    def store(self) -> PointStore:
        """The points of all frames end to end, joined once."""
        return PointStore.of([frame.points for frame in self.frames])

    def remember(
        self,
        frame_id: int,
        depth: NDArray[np.float32],
        w2c: NDArray[np.float64],
        K: NDArray[np.float64],
        *,
        pixels: NDArray[np.float32] | None = None,
    ) -> LyraMemory:
        """This memory with one more frame, its last."""
        frame = self._frame(frame_id, depth, w2c, K, pixels)
        return LyraMemory((*self.frames, frame), self.stride, self.visible_within)

    def replace_first(self, depth: NDArray[np.float32], w2c: NDArray[np.float64]) -> LyraMemory:
        """This memory with other depth and pose of its first frame (predicted poses, spec 3.3)."""
        first = self.frames[0]
        frame = self._frame(first.frame_id, depth, w2c, first.K, first.pixels)
        return LyraMemory((frame, *self.frames[1:]), self.stride, self.visible_within)

    def _frame(
        self,
        frame_id: int,
        depth: NDArray[np.float32],
        w2c: NDArray[np.float64],
        K: NDArray[np.float64],
        pixels: NDArray[np.float32] | None,
    ) -> Remembered:
        depth = np.ascontiguousarray(depth, np.float32)
        w2c, K = np.asarray(w2c, np.float64), np.asarray(K, np.float64)
        points = strided_points(depth, K, w2c, stride=self.stride).reshape(-1, 3)
        return Remembered(frame_id, depth, w2c, K, points, pixels)

    def retrieve(
        self,
        w2c: NDArray[np.float64],
        K: NDArray[np.float64],
        size: tuple[int, int],
        count: int,
    ) -> list[int]:
        """Numbers of up to `count` frames that together see most of the views, BEST LAST.

        Args:
            w2c: World to camera of the views, [v 4 4].
            K: Their intrinsics in pixels, [v 3 3].
            size: Width and height.
            count: Most frames to choose.
        """
        chosen, _ = lyra_retrieve(
            self.store, self.ids, w2c, K, size, count=count, stride=self.stride,
            visible_within=self.visible_within,
        )  # fmt: skip
        return [self.frames[i].frame_id for i in chosen]
