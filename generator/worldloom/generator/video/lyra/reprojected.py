"""Generated frames -> depth by reprojection of what is known, where no depth network is there.

The photo's depth (supplied, or of a network or the prior) is carried along by the memory, and what
it does not reach lies on the backdrop of the view: floor and walls continued, as in `preview`.
With a depth network `estimated` stands at the same seam.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from worldloom.generator.memory.cache import FrameCache
from worldloom.generator.video.frame import Frame
from worldloom.generator.video.lyra.loop import DepthAnswer
from worldloom.generator.video.preview import PreviewModel
from worldloom.scene.cameras import Cameras


@dataclass
class ReprojectedDepth:
    """Depth of the keyframes of one chunk; the frames it makes are remembered in `cache`."""

    geometry: PreviewModel
    cameras: Cameras
    """Of the chunk, level world frame."""
    cache: FrameCache
    made: list[Frame] = field(default_factory=list)
    """Keyframes of the chunk with depth, in order."""

    def __call__(
        self,
        frames: list[int],
        pixels: Tensor,
        w2c: NDArray[np.float64],
        K: NDArray[np.float64],
    ) -> DepthAnswer:
        """Depth in metres, the unit of the run; known frames keep theirs."""
        for number, colours in zip(frames, pixels, strict=True):
            if number not in self.cache:
                self._add(number, to_rgb(colours))
        return DepthAnswer(np.stack([self.cache.get(number).depth for number in frames]))

    def _add(self, number: int, rgb: NDArray[np.float32]) -> None:
        i = int(np.nonzero(self.cameras.frame_id == number)[0][0])
        seen = self.geometry.view(self.cameras, i, self.cache)
        frame = Frame(number, rgb, seen.depth, seen.origin, seen.c2w, seen.K).on_byte_levels()
        self.cache.add(number, frame.rgb, frame.depth, frame.origin, frame.c2w, frame.K)
        self.made.append(frame)


def to_rgb(pixels: Tensor) -> NDArray[np.float32]:
    """SRGB 0..1 [h w 3] of a decoded frame [3 h w] in about -1..1."""
    rgb = (pixels.detach().float().cpu().permute(1, 2, 0).numpy() + 1) / 2
    return np.clip(np.nan_to_num(rgb), 0, 1)
