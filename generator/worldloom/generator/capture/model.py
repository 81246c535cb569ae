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

VIEWS = 16  # Pictures that a depth network sees at a time.


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
        for at in range(0, len(numbers), VIEWS):
            yield from self._estimated(numbers[at : at + VIEWS], wish[at : at + VIEWS])

    def _estimated(self, numbers: Sequence[int], wish: Sequence[bool]) -> Iterator[CaptureFrame]:
        frames = list(self.capture.read(numbers, self.size, depth=False))
        wanted = [frame for frame, wish in zip(frames, wish, strict=True) if wish]
        maps: dict[int, NDArray[np.float32]] = {}
        if wanted and self.network is not None:
            index = np.array([frame.number for frame in wanted])
            found = self.network.depth(
                [frame.rgb for frame in wanted], self.capture.cameras.c2w[index], self.K[index]
            )
            maps = {int(i): z for i, z in zip(index, found, strict=True)}
        for frame in frames:
            yield CaptureFrame(frame.number, frame.rgb, maps.get(frame.number))


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
