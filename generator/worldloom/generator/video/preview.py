"""Engine `preview`: frames by reprojection from the memory, the rest from the backdrop.

The loop is Lyra's: for each keyframe retrieve what sees it, generate, remember. The keyframes of
a chunk come first and are remembered at once, so that the frames between them, and every later
visit, show the same content.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from worldloom.generator.memory.cache import FrameCache
from worldloom.generator.memory.warp import Warped, forward_warp
from worldloom.generator.seed import Seed
from worldloom.generator.video.backdrop import Backdrop
from worldloom.generator.video.backdrop_fit import make_backdrop
from worldloom.generator.video.fill import membrane, push_pull
from worldloom.generator.video.frame import ORIGIN_MADE_UP, ORIGIN_NONE, ORIGIN_SEEN, Frame
from worldloom.scene.cameras import Cameras
from worldloom.scene.errors import JobCancelled

KEYFRAME_STRIDE = 8  # Every 8th frame enters the memory (spec generation 0).
BETWEEN_SOURCES = 3  # Frames that an in-between draws on: its neighbours cover nearly all of it.
SNAP_M = 0.015  # Height below which a warped pixel of the floor is put back onto the plane [m].
RIM_PX = 16  # Width of the known rim of a hole that tints what fills it.
BACKGROUND = 0.85  # Share of the farthest depth around, from which a rim is background.
BEND_MOST = 0.25  # Relative change of inverse depth by which the backdrop may bend to a rim.
TRUST = 0.10  # Relative depth within which known colour may tint the backdrop beside it.


class PreviewModel:
    """Makes frames without weights; holds nothing but the photo and its backdrop."""

    def __init__(self, seed: Seed, *, seed_number: int) -> None:
        self._seed = seed
        self._backdrop: Backdrop = make_backdrop(seed, seed_number)

    def first(self) -> Frame:
        """Frame 0: the photo with its depth."""
        seed = self._seed
        origin = np.full(seed.depth.shape, ORIGIN_SEEN, np.uint8)
        frame = Frame(0, seed.rgb, seed.depth, origin, seed.c2w, seed.K)
        return frame.on_byte_levels()

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

        Raises:
            JobCancelled: `cancelled` became true.
        """
        keyframes: dict[int, Frame] = {}
        for i in np.nonzero(cameras.frame_id % KEYFRAME_STRIDE == 0)[0]:
            _stop_if(cancelled, int(cameras.frame_id[i]))
            frame = self.view(cameras, int(i), cache)
            keyframes[frame.frame_id] = frame
            cache.add(frame.frame_id, frame.rgb, frame.depth, frame.origin, frame.c2w, frame.K)
        if on_frame is not None:
            for i in range(cameras.n):
                _stop_if(cancelled, int(cameras.frame_id[i]))
                known = keyframes.get(int(cameras.frame_id[i]))
                on_frame(known or self._frame(cameras, i, cache, BETWEEN_SOURCES))
        return list(keyframes.values())

    def keep(self, folder: Path) -> None:
        """Nothing: the memory is all that this model carries."""

    def recall(self, folder: Path) -> None:
        """Nothing: the memory is all that this model carries."""

    def view(self, cameras: Cameras, i: int, cache: FrameCache) -> Frame:
        """One view out of all that the memory holds; the memory stays as it is."""
        return self._frame(cameras, i, cache, None)

    def _frame(self, cameras: Cameras, i: int, cache: FrameCache, count: int | None) -> Frame:
        """Retrieve, warp and fill one view."""
        c2w, K = cameras.c2w[i], cameras.K[i]
        size = (int(cameras.size[i, 0]), int(cameras.size[i, 1]))
        limit = {} if count is None else {"count": count}
        # The oldest frame is the most trusted: its content has been resampled least often.
        sources = [cache.get(n) for n in sorted(cache.retrieve(c2w, K, size, **limit))]
        warped = forward_warp(sources, c2w, K, size)
        rgb, depth, origin = self._complete(warped, c2w, K, size)
        return Frame(int(cameras.frame_id[i]), rgb, depth, origin, c2w, K).on_byte_levels()

    def _complete(
        self,
        warped: Warped,
        c2w: NDArray[np.float64],
        K: NDArray[np.float64],
        size: tuple[int, int],
    ) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.uint8]]:
        """Fill what no frame reached from the backdrop, shifted to meet what is around it."""
        empty = ~warped.filled
        wanted = _grow(empty, RIM_PX)
        synthetic, behind, floor = self._backdrop.view(c2w, K, size, wanted)
        plane = floor_depth(c2w, K, size)
        behind = _meet_rim(warped, behind, plane, wanted & ~floor)
        close = np.abs(warped.depth - behind) < TRUST * behind
        tinted = membrane(warped.rgb, synthetic, warped.filled & close & wanted, floor)
        rgb = np.where(empty[..., None], tinted, warped.rgb)
        depth = np.where(empty, behind, _snap(warped.depth, plane, c2w))
        made_up = np.where(depth > 0, ORIGIN_MADE_UP, ORIGIN_NONE)
        origin = np.where(warped.filled & (warped.seen > 0.5), ORIGIN_SEEN, made_up)
        return rgb.astype(np.float32), depth.astype(np.float32), origin.astype(np.uint8)


def floor_depth(
    c2w: NDArray[np.float64], K: NDArray[np.float64], size: tuple[int, int]
) -> NDArray[np.float64]:
    """z-depth [h w] of the plane z = 0 in a view; infinite at and above the horizon."""
    x = (np.arange(size[0]) + 0.5 - K[0, 2]) / K[0, 0]
    y = (np.arange(size[1]) + 0.5 - K[1, 2]) / K[1, 1]
    rise = c2w[2, 0] * x[None, :] + (c2w[2, 1] * y + c2w[2, 2])[:, None]
    with np.errstate(divide="ignore"):
        return np.where(rise < -1e-9, -c2w[2, 3] / rise, np.inf)


def snap_to_floor(
    depth: NDArray[np.float32], c2w: NDArray[np.float64], K: NDArray[np.float64]
) -> NDArray[np.float32]:
    """Depth [h w] with every pixel that lies on the floor put exactly onto the plane z = 0.

    Resampling moves a floor pixel by a fraction of a pixel, which at a grazing angle is some
    millimetres of height; a robot's wheels would feel it.
    """
    return _snap(depth, floor_depth(c2w, K, depth.shape[::-1]), c2w)


def _snap(
    depth: NDArray[np.float32], plane: NDArray[np.float64], c2w: NDArray[np.float64]
) -> NDArray[np.float32]:
    # Heights run linearly from the camera's at depth 0 to zero at the plane.
    height = c2w[2, 3] * (1 - depth / plane)
    # The seed has nothing under its floor, so what resampling put there belongs on it.
    on_floor = (depth > 0) & np.isfinite(plane) & (height < SNAP_M)
    return np.where(on_floor, plane, depth).astype(np.float32)


def _meet_rim(
    warped: Warped,
    behind: NDArray[np.float32],
    plane: NDArray[np.float64],
    wanted: NDArray[np.bool_],
) -> NDArray[np.float32]:
    """Backdrop depth [h w] bent to meet the farther side of the rim of each hole.

    The wall of the backdrop runs a little before or behind what was really seen; without this a
    step would stand along every rim. Only the background counts: a hole beside a near thing shows
    what is behind the thing.
    """
    from scipy.ndimage import maximum_filter, uniform_filter

    upright = wanted & (behind > 0)
    far = maximum_filter(np.where(warped.filled, warped.depth, 0), 2 * RIM_PX + 1)
    inverse = np.where(upright, 1 / np.maximum(behind, 1e-3), 0)
    rim = warped.filled & upright & (warped.depth >= BACKGROUND * far)
    off = np.where(rim, 1 / np.maximum(warped.depth, 1e-3) - inverse, 0)
    rim &= np.abs(off) < BEND_MOST * inverse
    if not rim.any():
        return behind
    spread = push_pull(np.where(rim, off, 0)[..., None].astype(np.float32), rim)[..., 0]
    # Far from the rim the backdrop keeps its own depth, so that its walls stay plane.
    near = np.clip(4 * uniform_filter(rim.astype(np.float32), 4 * RIM_PX + 1), 0, 1)
    bent = 1 / np.maximum(inverse + near * spread, 1e-6)
    return np.where(upright, np.minimum(bent, plane), behind).astype(np.float32)


def _grow(mask: NDArray[np.bool_], pixels: int) -> NDArray[np.bool_]:
    from scipy.ndimage import maximum_filter

    return maximum_filter(mask.view(np.uint8), 2 * pixels + 1).astype(bool)


def _stop_if(cancelled: Callable[[], bool] | None, frame_id: int) -> None:
    if cancelled is not None and cancelled():
        raise JobCancelled(f"cancelled at frame {frame_id}; finished chunks are kept")
