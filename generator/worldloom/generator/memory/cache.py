"""Frames with depth and camera, kept for being seen again from elsewhere."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from worldloom.generator.memory.retrieval import coverage, greedy_cover
from worldloom.generator.surface.depthmaps import depth_geometry
from worldloom.scene.cameras import unproject

POINT_STRIDE = 4  # World points are kept at every 4th pixel (spec generation 0).
VISIBLE_WITHIN_M = 0.1  # A point this far behind the nearest still counts as seen (spec 3.4).
RETRIEVED = 5  # Frames that a view may draw on (spec generation 3.4).


@dataclass(frozen=True)
class CacheEntry:
    """One remembered frame."""

    frame_id: int
    rgb: NDArray[np.float32]
    """sRGB 0..1, [h w 3]."""
    depth: NDArray[np.float32]
    """z-depth in metres, 0 = none, [h w]."""
    origin: NDArray[np.uint8]
    """0 none, 1 seen in the photo, 2 made up, [h w]."""
    c2w: NDArray[np.float64]
    K: NDArray[np.float64]
    solid: NDArray[np.bool_]
    """Pixels that lie on a surface and not on a depth edge, [h w]."""
    points: NDArray[np.float32]
    """World points of every 4th solid pixel [m], shape [n 3]."""


class FrameCache:
    """The memory of one world, in the order in which frames were added."""

    def __init__(self) -> None:
        self.entries: list[CacheEntry] = []

    def __len__(self) -> int:
        return len(self.entries)

    def __contains__(self, frame_id: int) -> bool:
        return any(entry.frame_id == frame_id for entry in self.entries)

    def add(
        self,
        frame_id: int,
        rgb: NDArray[np.float32],
        depth: NDArray[np.float32],
        origin: NDArray[np.uint8],
        c2w: ArrayLike,
        K: ArrayLike,
    ) -> None:
        """Remember a frame; a number that is known already keeps its first frame (spec 3.1)."""
        if frame_id in self:
            return
        c2w, K = np.asarray(c2w, np.float64), np.asarray(K, np.float64)
        solid = depth_geometry(depth, K).valid
        s = POINT_STRIDE
        points = unproject(depth, K, c2w)[::s, ::s][solid[::s, ::s]].astype(np.float32)
        self.entries.append(CacheEntry(frame_id, rgb, depth, origin, c2w, K, solid, points))

    def get(self, frame_id: int) -> CacheEntry:
        """The frame with this number; KeyError when there is none."""
        for entry in self.entries:
            if entry.frame_id == frame_id:
                return entry
        raise KeyError(frame_id)

    def retrieve(
        self,
        c2w: ArrayLike,
        K: ArrayLike,
        size: tuple[int, int],
        *,
        count: int = RETRIEVED,
        already: tuple[int, ...] = (),
    ) -> list[int]:
        """Numbers of up to `count` frames that together see most of a view, best first.

        Args:
            c2w: Camera to world of the view, OpenCV axes, [4 4].
            K: Its intrinsics in pixels, [3 3].
            size: Its width and height in pixels.
            count: Most frames to choose.
            already: Frames that are used anyway: their pixels count as covered.
        """
        if not self.entries:
            return []
        seen = coverage(
            [entry.points for entry in self.entries], c2w, K, size,
            stride=POINT_STRIDE, visible_within=VISIBLE_WITHIN_M,
        )  # fmt: skip
        taken = [i for i, entry in enumerate(self.entries) if entry.frame_id in already]
        chosen = greedy_cover(seen, count, taken=taken)
        return [self.entries[i].frame_id for i in chosen]
