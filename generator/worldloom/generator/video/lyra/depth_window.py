"""History of a run -> the frames and pictures that the depth network sees after a chunk.

Spec generation 3.2 and 3.3, with our guards against its hazards (11.1): a window shares frames with
earlier chunks, and frames that only pad a chunk never become history. Arrays are numpy, or float32
torch tensors on the CPU. `depth_align` brings the network's answer into the run's units.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from worldloom.scene.path import CHUNK_FRAMES

CACHE_STRIDE = 8
"""Only frames at multiples of this enter the 3D cache (spec generation 0)."""
OVERLAP_FRAMES = 2
"""Frames that a window shares with what is already cached, where such frames exist."""
NETWORK_PATCH = 14
"""The depth network takes pictures whose sides are multiples of this [px]."""
FAR = 1e4
"""Largest depth that is kept, and what the released code makes of NaN [units]."""
VALID_DEPTH = 999.9
"""Depth below which the first frame's depth counts as valid."""


@dataclass(frozen=True)
class DepthWindow:
    """Which frames go to the depth network after a chunk."""

    interval: int = CACHE_STRIDE
    """Every so many frames, counted back from the last one."""
    most: int = 10
    """Most frames counted so."""
    chunk_ends: bool = False
    """Add frame 0 and the last frame of every chunk."""
    chunk: int = CHUNK_FRAMES
    """New frames in a chunk."""

    def frames(self, last: int) -> list[int]:
        """Frames up to `last` as released, ascending."""
        chosen = set(range(last, -1, -self.interval)[: self.most])
        if self.chunk_ends:
            chosen |= set(range(0, last + 1, self.chunk))
        return sorted(chosen)


SCRIPT_WINDOW = DepthWindow()
"""Window of Lyra's scripts."""
GUI_WINDOW = DepthWindow(interval=4, most=40, chunk_ends=True)
"""Window of Lyra's interactive server."""


def depth_frames(
    window: DepthWindow,
    last: int,
    *,
    cached: Collection[int] = (),
    real_frames: int | None = None,
    reference_quirks: bool = False,
) -> list[int]:
    """Frames that go to the depth network, ascending, with the guards unless quirks are wanted.

    Args:
        window: Interval, length and chunk ends.
        last: Last frame that was generated.
        cached: Frames whose depth is in the 3D cache.
        real_frames: Frames of the path before it was padded to whole chunks; None = no padding.
        reference_quirks: Leave both guards out.
    """
    if reference_quirks:
        return window.frames(last)
    return with_overlap(window.frames(last_real_frame(last, real_frames)), cached)


def last_real_frame(last: int, real_frames: int | None) -> int:
    """Guard: the newest frame that may become history when the end of a chunk is padding.

    Args:
        last: Last frame that was generated.
        real_frames: Frames of the path before padding; None = no padding.
    """
    return last if real_frames is None else min(last, max(real_frames, 1) - 1)


def with_overlap(
    frames: Sequence[int], cached: Collection[int], *, count: int = OVERLAP_FRAMES
) -> list[int]:
    """Guard: give a window at least `count` frames whose depth is known, the newest first.

    The released script window holds new frames only, so that scale and geometry may jump from
    chunk to chunk (spec generation 11.1, 2). Fewer are added when the cache has fewer.

    Args:
        frames: Frames of the window.
        cached: Frames whose depth is in the 3D cache; negative ids (extra views) do not count.
        count: Frames to share.
    """
    shared = len(set(frames) & set(cached))
    spare = sorted(f for f in set(cached) - set(frames) if 0 <= f < max(frames))
    return sorted({*frames, *spare[len(spare) - max(0, count - shared) :]})


def new_entries(
    frames: Sequence[int],
    cached: Collection[int],
    *,
    stride: int = CACHE_STRIDE,
    real_frames: int | None = None,
) -> list[int]:
    """Frames of a window that enter the 3D cache: at the stride, not in it yet, not padding.

    Args:
        frames: Frames of the window, ascending.
        cached: Frames that are in the cache; the first writing stays.
        stride: Temporal stride of the cache.
        real_frames: Frames of the path before padding; None = no padding, as released.
    """
    known = set(cached)
    limit = last_real_frame(max(frames), real_frames)
    return [f for f in frames if f % stride == 0 and f not in known and f <= limit]


def to_uint8(pixels: ArrayLike) -> NDArray[np.uint8]:
    """A frame [3 h w] in -1..1 (unclamped) -> the picture [h w 3] for the depth network."""
    half = np.asarray(pixels, np.float32) * np.float32(0.5) + np.float32(0.5)
    scaled = np.clip(np.nan_to_num(half), 0.0, 1.0) * np.float32(255.0) + np.float32(0.5)
    return np.moveaxis(scaled.astype(np.uint8), 0, -1)


def usable_depth(
    depth: ArrayLike, *, reference_quirks: bool = False
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Depth with its holes named: (depth, valid), both of the shape that was given.

    Guard: NaN, infinity, zero, negative and unbelievably far depth becomes 0 = a hole. As released
    NaN becomes FAR instead and everything is clamped to 0..FAR.

    Args:
        depth: Depth along z, any shape, any unit.
        reference_quirks: Treat it as released.
    """
    depth = np.asarray(depth, float)
    if reference_quirks:
        kept = np.clip(np.nan_to_num(depth, nan=FAR, posinf=FAR), 0.0, FAR)
        return kept, kept < VALID_DEPTH
    with np.errstate(invalid="ignore"):
        valid = np.isfinite(depth) & (depth > 0) & (depth < FAR)
    return np.where(valid, depth, 0.0), valid


def seed_scale(network: ArrayLike, other: ArrayLike) -> float:
    """What the first frame's depth is divided by to agree with a second network's.

    Least squares between inverse depths over pixels valid in both (spec generation 3.2, 2); 1 when
    there are too few or they do not agree at all.

    Args:
        network: Depth of the main network, shape [h w].
        other: Depth of the second network, shape [h w].
    """
    first, valid = usable_depth(network)
    second, also = usable_depth(other)
    both = valid & also & (first < VALID_DEPTH) & (second < VALID_DEPTH)
    a, b = 1 / (first[both] + 1e-6), 1 / (second[both] + 1e-6)
    squares = float(a @ a)
    if both.sum() <= 10 or squares <= 1e-8:
        return 1.0
    scale = float(a @ b) / squares
    return scale if scale > 1e-6 else 1.0


def network_size(height: int, width: int) -> tuple[int, int]:
    """Height and width [px] of the depth network's input: the nearest multiples of its patch."""
    return _nearest(height), _nearest(width)


def fallback_intrinsics(height: int, width: int) -> NDArray[np.float64]:
    """Intrinsics [3 3] in pixels when none are known: f = 1.5 x the longer side (spec 3.2)."""
    focal = 1.5 * max(height, width)
    return np.array([[focal, 0.0, width / 2], [0.0, focal, height / 2], [0.0, 0.0, 1.0]])


def _nearest(length: int) -> int:
    return max(NETWORK_PATCH, NETWORK_PATCH * round(length / NETWORK_PATCH))
