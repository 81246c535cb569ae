"""Projected maps -> depth with confidence, and rays with confidence (spec reconstruction 2.5)."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor, nn

from worldloom.generator.depth.da3.dpt import (
    VIEWS_AT_ONCE,
    Maps,
    Trunk,
    add_chain,
    by_views,
    enlarged,
    output_layers,
)
from worldloom.generator.depth.da3.variants import HIDDEN, Da3Config

AUX = "_aux"  # Suffix of the second chain, which gives the rays.
AUX_LEVELS = 4  # The second chain has outputs at all levels; only the finest is used.
RAY_NUMBERS = 6  # Direction, not of unit length, and camera centre.


@dataclass(frozen=True)
class DepthMaps:
    """What the head says of v views; units are the network's own."""

    depth: Tensor
    """Depth [v H W], above 0."""
    confidence: Tensor
    """Above 1 [v H W]."""
    rays: Tensor | None = None
    """Direction and centre [v 8h 8w 6] of every pixel of the coarser map."""
    ray_confidence: Tensor | None = None


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of a map."""

    def forward(self, input: Tensor) -> Tensor:
        """Map [v c h w] -> [v c h w]."""
        return super().forward(input.movedim(1, -1)).movedim(-1, 1)


class DualDPT(Trunk):
    """The head of the multi-view networks."""

    def __init__(self, config: Da3Config) -> None:
        super().__init__(config, normed=True, uv=True)
        features = config.features
        self.scratch.output_conv2 = output_layers(features, 2)
        add_chain(self.scratch, features, AUX)
        self.scratch.output_conv1_aux = nn.ModuleList(
            _five_convolutions(features) for _ in range(AUX_LEVELS)
        )
        self.scratch.output_conv2_aux = nn.ModuleList(
            _ray_layers(features) for _ in range(AUX_LEVELS)
        )

    def forward(
        self, maps: Maps, size: tuple[int, int], *, rays: bool = True, at_once: int = VIEWS_AT_ONCE
    ) -> DepthMaps:
        """Depth and rays.

        Args:
            maps: Four projected maps.
            size: Height and width of the picture [px].
            rays: Whether the second chain is run.
            at_once: Views that are computed together.
        """

        def run(views: slice) -> tuple[Tensor, ...]:
            return self._some([level[views] for level in maps], size, rays)

        return DepthMaps(*by_views(run, len(maps[0]), at_once=at_once))

    def _some(self, maps: Maps, size: tuple[int, int], rays: bool) -> tuple[Tensor, ...]:
        aspect = size[1] / size[0]
        laterals = self.laterals(maps, aspect)
        x = enlarged(self.scratch.output_conv1(self.fuse(laterals)), size)
        values = self.scratch.output_conv2(self.with_uv(x, aspect))
        depth, confidence = values[:, 0].exp(), values[:, 1].exp() + 1
        if not rays:
            return depth, confidence
        x = self.scratch.output_conv1_aux[-1](self.fuse(laterals, AUX))
        values = self.scratch.output_conv2_aux[-1](self.with_uv(x, aspect)).movedim(1, -1)
        return depth, confidence, values[..., :RAY_NUMBERS], values[..., RAY_NUMBERS].exp() + 1


def _five_convolutions(features: int) -> nn.Sequential:
    """Five convolutions between f and f/2 channels with nothing between them."""
    half = features // 2
    widths = (features, half, features, half, features, half)
    return nn.Sequential(*(nn.Conv2d(a, b, 3, padding=1) for a, b in pairwise(widths)))


class _Pass(nn.Identity):
    """Keeps the published numbers of the layers around it."""


def _ray_layers(features: int) -> nn.Sequential:
    # The published sequence has axis swaps at places 1 and 3, which the norm does itself here.
    return nn.Sequential(
        nn.Conv2d(features // 2, HIDDEN, 3, padding=1),
        _Pass(),
        ChannelNorm(HIDDEN),
        _Pass(),
        nn.ReLU(),
        nn.Conv2d(HIDDEN, RAY_NUMBERS + 1, 1),
    )
