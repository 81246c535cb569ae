"""Engine `preview`: frames by reprojection from the memory, the rest from the backdrop.

The loop is Lyra's: for each keyframe retrieve what sees it, generate, remember. The keyframes of
a chunk come first and are remembered at once, so that the frames between them, and every later
visit, show the same content.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from worldloom.generator.memory.cache import FrameCache
from worldloom.generator.memory.warp import Warped, forward_warp
from worldloom.generator.seed import Seed
from worldloom.generator.video.backdrop import Backdrop, make_backdrop
from worldloom.generator.video.fill import membrane
from worldloom.generator.video.frame import ORIGIN_MADE_UP, ORIGIN_NONE, ORIGIN_SEEN, Frame
from worldloom.scene.cameras import Cameras, pixel_rays
from worldloom.scene.errors import JobCancelled

KEYFRAME_STRIDE = 8  # Every 8th frame enters the memory (spec generation 0).
BETWEEN_SOURCES = 3  # Frames that an in-between draws on: its neighbours cover nearly all of it.
SNAP_M = 0.015  # Height below which a warped pixel of the floor is put back onto the plane [m].
RIM_PX = 16  # Width of the known rim of a hole that tints what fills it.
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
        cancelled: Callable[[], bool] | None = None,
    ) -> list[Frame]:
        """Frames at `cameras`; keyframes are remembered in `cache` and returned.

        Raises:
            JobCancelled: `cancelled` became true.
        """
        keyframes: dict[int, Frame] = {}
        for i in np.nonzero(cameras.frame_id % KEYFRAME_STRIDE == 0)[0]:
            _stop_if(cancelled, int(cameras.frame_id[i]))
            frame = self._frame(cameras, int(i), cache, None)
            keyframes[frame.frame_id] = frame
            cache.add(frame.frame_id, frame.rgb, frame.depth, frame.origin, frame.c2w, frame.K)
        if on_frame is not None:
            for i in range(cameras.n):
                _stop_if(cancelled, int(cameras.frame_id[i]))
                known = keyframes.get(int(cameras.frame_id[i]))
                on_frame(known or self._frame(cameras, i, cache, BETWEEN_SOURCES))
        return list(keyframes.values())

    def _frame(
        self, cameras: Cameras, i: int, cache: FrameCache, count: int | None
    ) -> Frame:
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
        """Fill what no frame reached from the backdrop, tinted to meet what is around it."""
        empty = ~warped.filled
        wanted = _grow(empty, RIM_PX)
        synthetic, behind = self._backdrop.view(c2w, K, size, wanted)
        close = np.abs(warped.depth - behind) < TRUST * behind
        tinted = membrane(warped.rgb, synthetic, warped.filled & close & wanted)
        rgb = np.where(empty[..., None], tinted, warped.rgb)
        depth = np.where(empty, behind, snap_to_floor(warped.depth, c2w, K))
        made_up = np.where(depth > 0, ORIGIN_MADE_UP, ORIGIN_NONE)
        origin = np.where(warped.filled & (warped.seen > 0.5), ORIGIN_SEEN, made_up)
        return rgb.astype(np.float32), depth.astype(np.float32), origin.astype(np.uint8)


def snap_to_floor(
    depth: NDArray[np.float32], c2w: NDArray[np.float64], K: NDArray[np.float64]
) -> NDArray[np.float32]:
    """Depth [h w] with every pixel that lies on the floor put exactly onto the plane z = 0.

    Resampling moves a floor pixel by a fraction of a pixel, which at a grazing angle is some
    millimetres of height; a robot's wheels would feel it.
    """
    height, width = depth.shape
    rise = pixel_rays(K, width, height) @ c2w[2, :3]
    with np.errstate(divide="ignore", invalid="ignore"):
        plane = np.where(rise < -1e-9, -c2w[2, 3] / rise, np.inf)
        world_z = c2w[2, 3] + depth * rise
    on_floor = (depth > 0) & np.isfinite(plane) & (np.abs(world_z) < SNAP_M)
    return np.where(on_floor, plane, depth).astype(np.float32)


def _grow(mask: NDArray[np.bool_], pixels: int) -> NDArray[np.bool_]:
    from scipy.ndimage import maximum_filter

    return maximum_filter(mask.view(np.uint8), 2 * pixels + 1).astype(bool)


def _stop_if(cancelled: Callable[[], bool] | None, frame_id: int) -> None:
    if cancelled is not None and cancelled():
        raise JobCancelled(f"cancelled at frame {frame_id}; finished chunks are kept")
