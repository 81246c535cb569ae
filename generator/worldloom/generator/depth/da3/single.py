"""One photo -> relative inverse depth, or depth in metres with its sky: DA3 before any video.

The free models (DA3-SMALL, DA3-BASE and DA3METRIC-LARGE, Apache-2.0) serve the seed of a world.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from worldloom.generator.depth.da3.load import load_file
from worldloom.generator.depth.da3.nested import Network, metres
from worldloom.generator.depth.da3.preprocess import PROCESS_SIDE, prepare
from worldloom.generator.depth.model import WeightsRecord
from worldloom.generator.depth.resample import resize
from worldloom.scene.errors import CorruptData, EngineFailed

PUBLISHED = {
    "da3-small": "small", "da3-base": "base", "da3-metric-large": "metric-large",
    "da3-giant": "giant", "da3-nested": "nested", "lyra2-recon": "nested",
}  # fmt: skip
"""Catalogue name of the weights and the variant that they are."""
LEAST_DEPTH = 1e-6  # Keeps inverse depth finite.


def read_network(name: str, file: Path) -> Network:
    """The model of converted weights.

    Raises:
        CorruptData: The file is damaged, or its tensors are not the model's.
    """
    try:
        return load_file(PUBLISHED[name], file)
    except EngineFailed as error:
        raise CorruptData(str(error)) from error


class Da3Photo:
    """A multi-view or mono network as the depth model of one photo."""

    def __init__(
        self, name: str, network: Network, weights: tuple[WeightsRecord, ...] = ()
    ) -> None:
        self.name = name
        self.weights = weights
        self._network = network

    def inverse_depth(
        self, rgb: NDArray[np.float32], *, side: int = PROCESS_SIDE
    ) -> NDArray[np.float32]:
        """Relative inverse depth [h w] of sRGB colours in 0..1 [h w 3].

        Args:
            rgb: Colours.
            side: Longer side at which it is read [px].

        Raises:
            EngineFailed: The picture cannot be used.
        """
        height, width = rgb.shape[:2]
        found = self._network(prepare(rgb[None], side=side).images.to(self._network.device))
        inverse = 1 / found.depth[0].clamp(min=LEAST_DEPTH)
        return resize(inverse.cpu().numpy(), width, height)


@dataclass(frozen=True)
class MetricView:
    """What the metric network says of one photo."""

    depth: NDArray[np.float32]
    """z-depth in metres [h w]."""
    sky: NDArray[np.float32]
    """Sky score [h w]; 0.3 and more is sky."""


class Da3Metric:
    """The metric network; it must be told the focal length."""

    def __init__(
        self, name: str, network: Network, weights: tuple[WeightsRecord, ...] = ()
    ) -> None:
        self.name = name
        self.weights = weights
        self._network = network

    def view(
        self, rgb: NDArray[np.float32], K: ArrayLike, *, side: int = PROCESS_SIDE
    ) -> MetricView:
        """Depth in metres of sRGB colours in 0..1 [h w 3], by intrinsics [3 3] in their pixels.

        Raises:
            EngineFailed: The picture cannot be used, or the model has no sky.
        """
        height, width = rgb.shape[:2]
        ready = prepare(rgb[None], K, side=side)
        found = self._network(ready.images.to(self._network.device))
        if found.sky is None or ready.K is None:
            raise EngineFailed(f"{self.name} is no metric model; use da3-metric-large")
        depth = metres(found.depth, torch.from_numpy(ready.K).to(found.depth.device))
        maps = (resize(m[0].cpu().numpy(), width, height) for m in (depth, found.sky))
        return MetricView(*maps)
