"""Projected maps -> depth and a sky score of each picture alone (spec reconstruction 2.6).

The metric network's depth times focal length over 300 is in metres; the mono network's is relative.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional

from worldloom.generator.depth.da3.dpt import (
    VIEWS_AT_ONCE,
    Maps,
    Trunk,
    by_views,
    enlarged,
    output_layers,
)
from worldloom.generator.depth.da3.variants import Da3Config


@dataclass(frozen=True)
class SkyMaps:
    """What the head says of v pictures."""

    depth: Tensor
    """Depth [v H W], above 0."""
    sky: Tensor
    """Sky score [v H W], 0 and above."""


class MetricHead(Trunk):
    """The head of the networks that see one picture at a time; it has no position embedding."""

    def __init__(self, config: Da3Config) -> None:
        super().__init__(config, normed=False, uv=False)
        self.scratch.output_conv2 = output_layers(config.features, 1)
        self.scratch.sky_output_conv2 = output_layers(config.features, 1)

    def forward(
        self, maps: Maps, size: tuple[int, int], *, at_once: int = VIEWS_AT_ONCE
    ) -> SkyMaps:
        """Depth and sky.

        Args:
            maps: Four projected maps.
            size: Height and width of the picture [px].
            at_once: Views that are computed together.
        """

        def run(views: slice) -> tuple[Tensor, ...]:
            laterals = self.laterals([level[views] for level in maps], size[1] / size[0])
            x = enlarged(self.scratch.output_conv1(self.fuse(laterals)), size)
            sky = functional.relu(self.scratch.sky_output_conv2(x))
            return self.scratch.output_conv2(x).exp()[:, 0], sky[:, 0]

        return SkyMaps(*by_views(run, len(maps[0]), at_once=at_once))
