"""Generated frames -> depth by Depth Anything 3, in metres and in the world's memory.

The network sees the frames of a window with their commanded cameras. Depth that the memory holds
already tells the scale where the cameras hardly move and bounds it elsewhere; known frames keep
theirs, so that the world does not change under what was made of it.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from worldloom.generator.depth.da3.depth_model import Da3Depth
from worldloom.generator.depth.da3.nested import Network
from worldloom.generator.memory.cache import FrameCache
from worldloom.generator.video.frame import ORIGIN_MADE_UP, ORIGIN_NONE, Frame
from worldloom.generator.video.lyra.loop import DepthAnswer
from worldloom.generator.video.lyra.reprojected import to_rgb
from worldloom.generator.video.preview import PreviewModel
from worldloom.scene.cameras import Cameras

SAME_SURFACE = 0.1
"""Relative difference up to which estimated depth shows the surface that was carried there."""


@dataclass
class EstimatedDepth:
    """Depth of the keyframes of one chunk; the frames it makes are remembered in `cache`."""

    network: Network
    geometry: PreviewModel
    cameras: Cameras
    """Of the chunk, level world frame."""
    cache: FrameCache
    stage: Callable[[str], AbstractContextManager[None]]
    """Brings the network to where it computes."""
    made: list[Frame] = field(default_factory=list)
    """Keyframes of the chunk with depth, in order."""

    def __call__(
        self,
        frames: list[int],
        pixels: Tensor,
        w2c: NDArray[np.float64],
        K: NDArray[np.float64],
    ) -> DepthAnswer:
        """Depth in metres, the unit of the run; known frames keep theirs.

        Raises:
            EngineFailed: The network's answer cannot be used.
        """
        with self.stage("depth"):
            answer = Da3Depth(self.network, self._known)(frames, pixels, w2c, K)
        for number, colours, depth in zip(frames, pixels, answer.depth, strict=True):
            if number not in self.cache:
                self._add(number, to_rgb(colours), depth)
        return DepthAnswer(np.stack([self.cache.get(number).depth for number in frames]))

    def _known(self, frames: list[int]) -> dict[int, NDArray[np.float32]]:
        return {n: self.cache.get(n).depth for n in frames if n in self.cache}

    def _add(self, number: int, rgb: NDArray[np.float32], depth: NDArray[np.float32]) -> None:
        i = int(np.nonzero(self.cameras.frame_id == number)[0][0])
        carried = self.geometry.view(self.cameras, i, self.cache)
        same = np.abs(carried.depth - depth) <= SAME_SURFACE * depth
        origin = np.where(same & (carried.origin != ORIGIN_NONE), carried.origin, ORIGIN_MADE_UP)
        origin = np.where(depth > 0, origin, ORIGIN_NONE).astype(np.uint8)
        frame = Frame(number, rgb, depth, origin, carried.c2w, carried.K).on_byte_levels()
        self.cache.add(number, frame.rgb, frame.depth, frame.origin, frame.c2w, frame.K)
        self.made.append(frame)
