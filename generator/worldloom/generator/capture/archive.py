"""Capture archive -> checked layout and cameras at once, frames when they are asked for.

Nothing of the archive is decoded in this process: `child.py` does it in children of its own
without torch, under limits of memory and time. What comes back is words and raw arrays.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worldloom.generator.capture.sizes import clean_depth, depth_at
from worldloom.generator.decoder import run_decoder
from worldloom.generator.video.frame import levels_to_float
from worldloom.scene.capture import (
    CaptureCameras,
    CaptureLayout,
    capture_cameras,
    capture_layout,
    check_intrinsics,
)
from worldloom.scene.errors import InvalidCapture
from worldloom.scene.limits import Limits

WALL_SECONDS = 120  # Real time of one child, six times its processor time.
BATCH = 16  # Frames that one child decodes at most,
BATCH_PIXELS = 150_000_000  # and their pixels: about 5 s of its 20 s of processor time.
SIDE_MIN = 32  # Smallest side of frames and depth [px].
SHAPE_TOLERANCE = 0.02  # Largest relative difference in shape between a depth map and its frame.


@dataclass(frozen=True)
class CaptureFrame:
    """One frame as it was captured."""

    number: int
    rgb: NDArray[np.float32]
    """sRGB 0..1 on 8-bit levels, [h w 3]."""
    depth: NDArray[np.float32] | None
    """z-depth [m], 0 = none, [h w]; None where the frame has no depth, or none was asked for."""


@dataclass(frozen=True)
class Capture:
    """A checked archive."""

    file: Path
    layout: CaptureLayout
    cameras: CaptureCameras
    size: tuple[int, int]
    """Width and height of the frames [px]."""
    limits: Limits

    @property
    def n(self) -> int:
        """Number of frames."""
        return len(self.layout.frames)

    def read(
        self, numbers: Sequence[int], size: tuple[int, int], *, depth: Sequence[bool] | bool = True
    ) -> Iterator[CaptureFrame]:
        """Decode frames in the given order, a few at a time.

        Args:
            numbers: Which frames.
            size: Width and height to bring them to [px].
            depth: Whether depth is wanted, for all or for each.

        Raises:
            InvalidCapture: A file is damaged.
        """
        wish = [depth] * len(numbers) if isinstance(depth, bool) else list(depth)
        batch = max(1, min(BATCH, BATCH_PIXELS // math.prod(self.size)))
        for at in range(0, len(numbers), batch):
            yield from self._batch(numbers[at : at + batch], wish[at : at + batch], size)

    def _batch(
        self, numbers: Sequence[int], depth: Sequence[bool], size: tuple[int, int]
    ) -> Iterator[CaptureFrame]:
        wanted = [
            [self.layout.frames[i], self.layout.depth[i] if wish else None]
            for i, wish in zip(numbers, depth, strict=True)
        ]
        caps = _caps(self.limits) | {"wanted": wanted, "size": size}
        head, data = _run(self.file, "frames", caps)
        at = 0
        for number, (picture, plane) in zip(numbers, head["shapes"], strict=True):
            rgb = np.frombuffer(data, np.uint8, math.prod(picture), at).reshape(picture)
            at += rgb.nbytes
            metres = None
            if plane is not None:
                raw = np.frombuffer(data, np.float32, math.prod(plane), at).reshape(plane)
                at += raw.nbytes
                metres = depth_at(clean_depth(raw), *size)
            yield CaptureFrame(number, levels_to_float(rgb), metres)


def open_archive(file: Path, limits: Limits | None = None) -> Capture:
    """Check a capture archive: names, sizes, poses and intrinsics; no frame is decoded.

    Raises:
        InvalidCapture: What is wrong, its value, the limit and the remedy.
    """
    limits = limits or Limits()
    head, data = _run(file, "list", _caps(limits))
    layout = capture_layout(head["names"])
    arrays: dict[str, NDArray[np.float64]] = {}
    at = 0
    for key, shape in head["arrays"].items():
        arrays[key] = np.frombuffer(data, np.float64, math.prod(shape), at).reshape(shape)
        at += arrays[key].nbytes
    cameras = capture_cameras(
        arrays["c2w"], arrays["K"], arrays.get("up"), frames=len(layout.frames)
    )
    size = _common_size(layout, head["sizes"])
    check_intrinsics(cameras.K, size)
    return Capture(file, layout, cameras, size, limits)


def _common_size(layout: CaptureLayout, sizes: dict[str, list[int]]) -> tuple[int, int]:
    """The size of all frames; depth maps may be smaller, but of the same shape."""
    width, height = sizes[layout.frames[0]]
    for name in layout.frames:
        if sizes[name] != [width, height]:
            raise InvalidCapture(
                f"the capture cannot be used: {name} is {sizes[name][0]} x {sizes[name][1]} px and "
                f"{layout.frames[0]} is {width} x {height}; all frames need one size",
                field="capture",
            )
    for name in filter(None, layout.depth):
        w, h = sizes[name]
        slack = max(SHAPE_TOLERANCE, 1.5 / min(w, h))
        if abs(w * height / (h * width) - 1) > slack or min(w, h) < SIDE_MIN:
            raise InvalidCapture(
                f"the capture cannot be used: {name} is {w} x {h} px and the frames are {width} x "
                f"{height}; the same shape within {slack:.0%} and {SIDE_MIN} px or more are needed",
                field="capture",
            )
    if min(width, height) < SIDE_MIN:
        raise InvalidCapture(
            f"the capture cannot be used: its frames are {width} x {height} px; the shorter side "
            f"must have {SIDE_MIN} or more",
            field="capture",
        )
    return width, height


def _caps(limits: Limits) -> dict[str, Any]:
    return {
        "frames": limits.capture_frames,
        "pixels": limits.photo_pixels,
        "depth_pixels": limits.capture_depth_pixels,
    }


def _run(file: Path, work: str, caps: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
    """Run the child on `file`; returns its header and the raw arrays."""
    if not file.is_file() or file.stat().st_size == 0:
        raise InvalidCapture(f"there is no capture archive at {file}, or it is empty")

    def refuse(words: str) -> InvalidCapture:
        return InvalidCapture(f"the capture {words}; make its frames smaller", field="capture")

    child = Path(__file__).with_name("child.py")
    head, data = run_decoder(child, work, caps, file, seconds=WALL_SECONDS, refuse=refuse)
    if "error" in head:
        raise InvalidCapture(f"the capture cannot be used: it {head['error']}", field="capture")
    return head, data
