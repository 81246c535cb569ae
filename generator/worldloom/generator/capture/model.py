"""The frame model of engine `capture`: hands out what was captured, generates nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from worldloom.generator.capture.archive import Capture, CaptureFrame
from worldloom.generator.capture.plan import Plan
from worldloom.generator.capture.rgb_depth import CaptureDepth
from worldloom.generator.memory.cache import FrameCache
from worldloom.generator.video.frame import ORIGIN_NONE, ORIGIN_SEEN, Frame
from worldloom.scene.cameras import Cameras
from worldloom.scene.errors import JobCancelled

VIEWS, VIEWS_MIN = 16, 8
"""Most and fewest pictures that a depth network sees at a time; fewer tell it too little."""
STATIONS = 40  # A walkthrough has about as many places that differ enough to compare.


@dataclass(frozen=True)
class Source:
    """Frames of a capture with their depth, wherever it comes from."""

    capture: Capture
    size: tuple[int, int]
    """Working width and height [px]."""
    K: NDArray[np.float64]
    """Intrinsics in pixels at `size`, [n 3 3]."""
    network: CaptureDepth | None
    """Makes depth where the capture has none."""

    def read(
        self, numbers: Sequence[int], *, depth: Sequence[bool] | bool = True
    ) -> Iterator[CaptureFrame]:
        """Frames of the capture in the given order; depth in its own unit where it is wanted."""
        wish = [depth] * len(numbers) if isinstance(depth, bool) else list(depth)
        if self.network is None:
            yield from self.capture.read(numbers, self.size, depth=wish)
            return
        maps = self._estimate([i for i, wanted in zip(numbers, wish, strict=True) if wanted])
        for frame in self.capture.read(numbers, self.size, depth=False):
            yield CaptureFrame(frame.number, frame.rgb, maps.get(frame.number))

    def _estimate(self, numbers: Sequence[int]) -> dict[int, NDArray[np.float32]]:
        """Depth of some frames by the network, which sees neighbours on the path together."""
        maps: dict[int, NDArray[np.float32]] = {}
        if self.network is None or not len(numbers):
            return maps
        for window in np.array_split(np.asarray(numbers), -(-len(numbers) // VIEWS)):
            views = np.unique(np.concatenate([window, self._company(window)]))
            rgb = [frame.rgb for frame in self.capture.read(views.tolist(), self.size, depth=False)]
            found = self.network.depth(rgb, self.capture.cameras.c2w[views], self.K[views])
            maps |= {int(i): z for i, z in zip(views, found, strict=True) if i in window}
        return maps

    def _company(self, window: NDArray[np.int64]) -> NDArray[np.int64]:
        """Frames further on, or back, for a network that knows depth by comparing views."""
        lacking = max(0, VIEWS_MIN - len(window))
        step = max(1, self.capture.n // STATIONS)
        ahead = window[-1] + step * np.arange(1, lacking + 1)
        back = window[0] - step * np.arange(1, lacking + 1)
        near = np.concatenate([ahead[ahead < self.capture.n], back[back >= 0]])
        return near[:lacking]


class CaptureModel:
    """Frames of a capture at the cameras of the world."""

    def __init__(self, source: Source, plan: Plan, cameras: Cameras, factor: float) -> None:
        self._source = source
        self._plan = plan
        self._cameras = cameras
        self._factor = factor
        """Metres in one unit of the capture's depth."""

    def first(self) -> Frame:
        """Frame 0: the first captured frame."""
        return next(self._frames(np.zeros(1, np.int64)))

    def chunk(
        self,
        cameras: Cameras,
        cache: FrameCache,
        *,
        on_frame: Callable[[Frame], None] | None = None,
        on_step: Callable[[int, int], None] | None = None,
        cancelled: Callable[[], bool] | None = None,
    ) -> list[Frame]:
        """Frames at `cameras`; keyframes are remembered in `cache` and returned.

        Frames that are no keyframes come without depth: they are for the video alone.

        Raises:
            InvalidCapture: A file of the capture is damaged.
            JobCancelled: `cancelled` became true.
        """
        keyframes = []
        for frame in self._frames(cameras.frame_id):
            if cancelled is not None and cancelled():
                raise JobCancelled(f"cancelled at frame {frame.frame_id}; finished chunks are kept")
            if frame.frame_id in self._plan.keyframes:
                keyframes.append(frame)
                cache.add(frame.frame_id, frame.rgb, frame.depth, frame.origin, frame.c2w, frame.K)
            if on_frame is not None:
                on_frame(frame)
        return keyframes

    def keep(self, folder: Path) -> None:
        """Nothing: the capture is all that this model needs."""

    def recall(self, folder: Path) -> None:
        """Nothing: the capture is all that this model needs."""

    def _frames(self, ids: NDArray[np.int64]) -> Iterator[Frame]:
        """Frames of the world by number; a captured frame that is shown again is read once."""
        numbers = self._plan.shown[ids]
        order, place = np.unique(numbers, return_inverse=True)
        key = np.isin(ids, list(self._plan.keyframes))
        wanted = np.bincount(place[key], minlength=len(order)) > 0
        captured = self._source.read(order.tolist(), depth=wanted.tolist())
        current = next(captured)
        for number, frame_id, is_key in zip(numbers, ids, key, strict=True):
            while current.number != number:
                current = next(captured)
            yield self._frame(int(frame_id), current, with_depth=bool(is_key))

    def _frame(self, frame_id: int, captured: CaptureFrame, *, with_depth: bool) -> Frame:
        depth = captured.depth
        if depth is None or not with_depth:
            depth = np.zeros(captured.rgb.shape[:2], np.float32)
        depth = (self._factor * depth).astype(np.float32)
        origin = np.where(depth > 0, ORIGIN_SEEN, ORIGIN_NONE).astype(np.uint8)
        c2w, K = self._cameras.c2w[frame_id], self._cameras.K[frame_id]
        return Frame(frame_id, captured.rgb, depth, origin, c2w, K)
