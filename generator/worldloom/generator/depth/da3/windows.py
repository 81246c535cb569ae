"""Frames as they are generated -> Gaussians window by window (spec reconstruction 8, rows 2 and 3).

Attention costs the square of the views, so windows of 32 to 48 are several times cheaper a frame
than all frames at once. Windows overlap: later ones see the end of those before, but of frames seen
twice the earlier window's Gaussians stay.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from worldloom.generator.depth.da3.lifter import Da3Lifter, Lifted
from worldloom.scene.errors import InvalidRequest

WINDOW, OVERLAP = 40, 8
"""Views of a window, and how many of them the window before has seen."""


@dataclass(frozen=True)
class Window:
    """Frames of one window, numbered from the first of the video."""

    start: int
    stop: int
    new: int
    """First frame that no window before has seen."""


def plan_windows(frames: int, *, size: int = WINDOW, overlap: int = OVERLAP) -> list[Window]:
    """Windows that see all frames.

    The last one starts early enough to be whole, where there are that many frames.

    Raises:
        InvalidRequest: The overlap is not smaller than the window.
    """
    if not 0 <= overlap < size:
        raise InvalidRequest(
            f"windows of {size} views cannot overlap by {overlap}; the overlap must be 0 or more "
            "and below the window's size",
            field="overlap",
        )
    out, new = [], 0
    while new < frames:
        start = max(0, new - overlap)
        stop = min(frames, start + size)
        out.append(Window(max(0, min(start, stop - size)), stop, new))
        new = stop
    return out


@dataclass
class StreamLifter:
    """Takes frames as they come and gives Gaussians as soon as a window is full."""

    lifter: Da3Lifter
    size: int = WINDOW
    overlap: int = OVERLAP
    _rgb: list[NDArray] = field(default_factory=list)
    _c2w: list[NDArray[np.float64]] = field(default_factory=list)
    _K: list[NDArray[np.float64]] = field(default_factory=list)
    _depth: list[NDArray | None] = field(default_factory=list)
    _seen: int = 0
    """Frames that the last window had."""
    _new: int = 0
    """Frames that came after it; they are the last of the lists."""

    def __post_init__(self) -> None:
        """Refuse sizes that make no windows."""
        plan_windows(1, size=self.size, overlap=self.overlap)

    @property
    def waiting(self) -> int:
        """Frames that no window has seen yet."""
        return self._new

    def push(
        self,
        rgb: ArrayLike,
        c2w: ArrayLike,
        K: ArrayLike,
        *,
        depth: Mapping[int, ArrayLike] | None = None,
    ) -> list[Lifted]:
        """Take frames; arguments as `Da3Lifter.lift_window`. Gives the windows that became full.

        Raises:
            EngineFailed: See `Da3Lifter.lift_window`.
        """
        rgb, c2w, K = np.asarray(rgb), np.asarray(c2w, float), np.asarray(K, float)
        out = []
        for number in range(len(rgb)):
            self._new += 1
            self._rgb.append(rgb[number])
            self._c2w.append(c2w[number])
            self._K.append(K[number])
            known = (depth or {}).get(number)
            self._depth.append(None if known is None else np.asarray(known))
            if self.waiting == self.size - min(self._seen, self.overlap):
                out.append(self._lift())
        return out

    def finish(self) -> list[Lifted]:
        """The last window, where frames are left.

        Raises:
            EngineFailed: See `Da3Lifter.lift_window`.
        """
        return [self._lift()] if self.waiting else []

    def _lift(self) -> Lifted:
        """Lift the newest frames, at most a window of them, and keep these for the next one."""
        for kept in (self._rgb, self._c2w, self._K, self._depth):
            del kept[: -self.size]
        count = len(self._rgb)
        seen = max(0, count - self._new)
        depth = {i: d for i, d in enumerate(self._depth) if d is not None}
        made = self.lifter.lift_window(
            np.stack(self._rgb), np.stack(self._c2w), np.stack(self._K), depth=depth
        )
        self._new, self._seen = 0, count
        return made.of_views(slice(seen, count))
