"""Generated frames and their commanded cameras -> depth in units of the run: Lyra's depth seam.

The network is conditioned on the cameras and may correct them; its answer is brought back by one
similarity (spec reconstruction 1.3 and 1.7).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from worldloom.generator.depth.da3.align import Aligned, align
from worldloom.generator.depth.da3.nested import Network
from worldloom.generator.depth.da3.network import Prediction
from worldloom.generator.depth.da3.preprocess import prepare
from worldloom.generator.video.lyra.depth_window import to_uint8
from worldloom.scene.frame import invert_rigid

if TYPE_CHECKING:
    from worldloom.generator.video.lyra.loop import DepthAnswer

SKY_MASK = 0.5
"""Sky score from which on a pixel has no depth (spec 2.9, the reference's interface)."""

Known = Callable[[list[int]], Mapping[int, NDArray[np.float32]]]
"""Numbers of frames -> depth in units of the run of those that are known, each [H W]."""


@dataclass(frozen=True)
class Da3Depth:
    """A Depth Anything 3 model as Lyra's depth model."""

    network: Network
    known: Known = lambda _: {}
    """Depth that the run knows; tells the scale where cameras stand still, and bounds it else."""
    side: int | None = None
    """What the longer side is brought to [px]; None keeps that of the frames, as released."""

    def __call__(
        self,
        frames: list[int],
        pixels: Tensor,
        w2c: NDArray[np.float64],
        K: NDArray[np.float64],
    ) -> DepthAnswer:
        """Depth and corrected cameras of frames; pixels [n 3 H W] in -1..1, see the seam.

        Raises:
            EngineFailed: Pixels or cameras cannot be used, or nothing tells the scale.
        """
        from worldloom.generator.video.lyra.loop import DepthAnswer

        rgb = np.stack([to_uint8(image.float().cpu().numpy()) for image in pixels])
        ready = prepare(rgb, K, side=self.side)
        found = self.network(ready.images.to(self.network.device), w2c=w2c, K=ready.K)
        depth = at_size(found, (pixels.shape[-2], pixels.shape[-1]))
        home = self._align(frames, found, depth, w2c)
        return DepthAnswer((depth / home.scale).astype(np.float32), invert_rigid(home.c2w))

    def _align(
        self,
        frames: list[int],
        found: Prediction,
        depth: NDArray[np.float32],
        w2c: NDArray[np.float64],
    ) -> Aligned:
        known = self.known(frames)
        by_view = {i: known[number] for i, number in enumerate(frames) if number in known}
        predicted = found.views().w2c.double().cpu().numpy()
        metric = 1.0 if found.metric else None
        return align(w2c, predicted, depth, known=by_view, metric=metric)


def at_size(found: Prediction, size: tuple[int, int]) -> NDArray[np.float32]:
    """Depth [v H W] of a prediction at another size (height, width), 0 in the sky."""
    depth = _bilinear(found.depth, size)
    if found.sky is not None:
        depth = torch.where(_bilinear(found.sky, size) >= SKY_MASK, torch.zeros_like(depth), depth)
    return depth.cpu().numpy()


def _bilinear(maps: Tensor, size: tuple[int, int]) -> Tensor:
    sized = functional.interpolate(
        maps.float()[:, None], size=size, mode="bilinear", align_corners=False
    )
    return sized[:, 0]
