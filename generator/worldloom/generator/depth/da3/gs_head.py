"""Projected maps and pictures -> 37 raw numbers and an opacity per Gaussian (spec 2.7).

A smaller grid of Gaussians costs the network nothing less: only the fused map is resampled.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn
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

RAW = 37
"""Raw numbers: offset 2, scale 3, quaternion 4, harmonics 27, depth offset 1 (spec 2.8)."""


@dataclass(frozen=True)
class RawGaussians:
    """What the head says of v views, on a grid of hg x wg Gaussians each."""

    raw: Tensor
    """Raw numbers [v hg wg 37]."""
    opacity: Tensor
    """Opacity 0..1 [v hg wg]."""


class GaussianHead(Trunk):
    """The head of the giant network; released weights want `pool_features` and `down_ratio` 2."""

    def __init__(self, config: Da3Config) -> None:
        super().__init__(config, normed=False, uv=True)
        features = config.features
        half = features // 2
        self.scratch.output_conv2 = output_layers(features, RAW + 1)
        layers: list[nn.Module] = []
        for inputs, outputs in ((3, half // 4), (half // 4, half // 2), (half // 2, half)):
            layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.GELU()]
        self.images_merger = nn.Sequential(*layers)

    def forward(
        self,
        maps: Maps,
        images: Tensor,
        *,
        down_ratio: int = 2,
        pool_features: bool = True,
        at_once: int = VIEWS_AT_ONCE,
    ) -> RawGaussians:
        """Raw Gaussians.

        Args:
            maps: Four projected maps.
            images: Normalised colours [v 3 H W], as the backbone got them.
            down_ratio: Pixels of the picture per Gaussian, each side.
            pool_features: Average the features of the whole picture (`ds_feature_mode` of Lyra)
                instead of shrinking the picture before.
            at_once: Views that are computed together.
        """
        grid = (images.shape[-2] // down_ratio, images.shape[-1] // down_ratio)
        aspect = images.shape[-1] / images.shape[-2]

        def run(views: slice) -> tuple[Tensor, ...]:
            laterals = self.laterals([level[views] for level in maps], aspect)
            x = enlarged(self.scratch.output_conv1(self.fuse(laterals)), grid)
            x = x + self._colours(images[views], grid, pool_features)
            values = self.scratch.output_conv2(self.with_uv(x, aspect)).movedim(1, -1)
            return values[..., :RAW], values[..., RAW].sigmoid()

        return RawGaussians(*by_views(run, len(images), at_once=at_once))

    def _colours(self, images: Tensor, grid: tuple[int, int], pool_features: bool) -> Tensor:
        """Features [v f/2 hg wg] of the pictures themselves."""
        if images.shape[-2:] == grid:
            return self.images_merger(images)
        if pool_features:
            return functional.adaptive_avg_pool2d(self.images_merger(images), grid)
        return self.images_merger(enlarged(images, grid))
