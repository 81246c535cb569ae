"""The frame model of engine `truth`: every frame is rendered, none is generated."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from worldloom.generator.memory.cache import FrameCache
from worldloom.generator.truth.noise import Preset, frame_noise
from worldloom.generator.truth.render import SUPERSAMPLE, render_view
from worldloom.generator.truth.scene import TruthScene
from worldloom.generator.truth.walk import photo_camera
from worldloom.generator.video.frame import ORIGIN_NONE, ORIGIN_SEEN, Frame
from worldloom.scene.cameras import Cameras
from worldloom.scene.errors import JobCancelled

KEYFRAME_STRIDE = 8  # Every 8th frame enters the memory (spec generation 0).
BETWEEN_SAMPLES = 1  # Frames between keyframes go to the video alone, which halves the time.


class TruthModel:
    """Renders a scene along any cameras, exactly or with the errors of a noise preset."""

    def __init__(
        self, scene: TruthScene, size: tuple[int, int], *, noise: Preset = "exact", seed: int = 0
    ) -> None:
        self._scene = scene
        self._photo = photo_camera(scene, size)
        self._noise = noise
        self._seed = seed

    def first(self) -> Frame:
        """Frame 0: the photo with its depth; its camera has no error, the world hangs on it."""
        frame = self._frame(self._photo, 0, SUPERSAMPLE)
        return replace(frame, c2w=self._photo.c2w[0])

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
        keyframes = []
        for i in range(cameras.n):
            if cancelled is not None and cancelled():
                raise JobCancelled(
                    f"cancelled at frame {cameras.frame_id[i]}; finished chunks are kept"
                )
            if cameras.frame_id[i] % KEYFRAME_STRIDE == 0:
                frame = self._frame(cameras, i, SUPERSAMPLE)
                keyframes.append(frame)
                cache.add(frame.frame_id, frame.rgb, frame.depth, frame.origin, frame.c2w, frame.K)
            elif on_frame is not None:
                frame = self._frame(cameras, i, BETWEEN_SAMPLES)
            else:
                continue
            if on_frame is not None:
                on_frame(frame)
        return keyframes

    def keep(self, folder: Path) -> None:
        """Nothing: the memory is all that this model carries."""

    def recall(self, folder: Path) -> None:
        """Nothing: the memory is all that this model carries."""

    def _frame(self, cameras: Cameras, i: int, supersample: int) -> Frame:
        c2w, K = cameras.c2w[i], cameras.K[i]
        size = (int(cameras.size[i, 0]), int(cameras.size[i, 1]))
        view = render_view(self._scene, c2w, K, size, supersample=supersample)
        rgb, depth, number = view.rgb, view.depth, int(cameras.frame_id[i])
        error = frame_noise(self._noise, self._seed, number, size)
        if error is not None:
            rgb, depth, c2w = error.rgb(rgb), error.depth(depth), error.pose(c2w)
        origin = np.where(depth > 0, ORIGIN_SEEN, ORIGIN_NONE).astype(np.uint8)
        return Frame(number, rgb, depth, origin, c2w, K).on_byte_levels()
