"""Multi-view depth in units of its own, and metres from a second network -> depth in metres (2.9).

The scale is one number for all views: least squares between both depths where the first is sure
and no sky is. Gaussians are not scaled here; they are placed in the given world (spec 1.3).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from worldloom.generator.depth.da3.dpt import VIEWS_AT_ONCE
from worldloom.generator.depth.da3.network import Da3Network, Features, Prediction
from worldloom.generator.depth.da3.sky import FAR_QUANTILE, FEWEST, farthen_sky, is_sky, quantile
from worldloom.generator.depth.da3.variants import Da3Config, Variant
from worldloom.scene.errors import EngineFailed

FOCAL_UNIT = 300.0  # Focal length [px] at which the metric network's depth is in metres (2.6).
LEAST_METRIC, LEAST_DEPTH = 1e-2, 1e-3  # Depths up to these do not count for the scale.
FARTHEST_SKY = 200.0  # Depth of the sky at most [m].
LEAST_SQUARES = 1e-12


@dataclass(frozen=True)
class MetricScale:
    """Metres in one unit of the first network."""

    value: float
    known: bool
    """False where too little is seen that is not sky: then the value is 1."""


def metres(depth: Tensor, K: Tensor) -> Tensor:
    """The metric network's depth [v H W] in metres, by intrinsics [v 3 3] in its pixels."""
    focal = (K[:, 0, 0] + K[:, 1, 1]) / 2
    return depth * (focal / FOCAL_UNIT).to(depth)[:, None, None]


def metric_scale(depth: Tensor, confidence: Tensor, metric: Tensor, sky: Tensor) -> MetricScale:
    """Scale between both depths, all [v H W].

    Args:
        depth: The first network's.
        confidence: Of it.
        metric: The second network's, in metres.
        sky: The second network's score.
    """
    seen = ~is_sky(sky)
    if int(seen.sum()) <= FEWEST:
        return MetricScale(1.0, False)
    sure = confidence >= quantile(confidence[seen], 0.5)
    use = sure & seen & (metric > LEAST_METRIC) & (depth > LEAST_DEPTH)
    a, b = metric[use].double(), depth[use].double()
    squares = float(b @ b)
    value = float(a @ b) / max(squares, LEAST_SQUARES)
    return MetricScale(value, True) if value > 0 else MetricScale(1.0, False)


def in_metres(main: Prediction, metric: Tensor, sky: Tensor) -> Prediction:
    """The first network's prediction in metres, its sky put far away.

    Args:
        main: Of the first network, with confidence and cameras.
        metric: The second network's depth [v H W] in metres.
        sky: Its sky score [v H W].

    Raises:
        EngineFailed: The first network has no cameras or confidence.
    """
    found = main.views()
    scale = metric_scale(found.depth, found.confidence, metric, sky)
    depth, w2c = found.depth * scale.value, found.w2c.clone()
    w2c[:, :3, 3] *= scale.value
    far = is_sky(sky)
    rest = depth[~far] if bool((~far).any()) else depth
    limit = quantile(rest, FAR_QUANTILE).clamp(max=FARTHEST_SKY).to(depth)
    return replace(
        main,
        depth=torch.where(far, limit, depth),
        confidence=found.confidence.masked_fill(far, 1.0),
        w2c=w2c,
        sky=sky,
        metric=scale.known,
        scale=scale.value,
    )


class NestedNetwork(nn.Module):
    """Two networks: `da3` for shape and cameras, `da3_metric` for metres and sky."""

    def __init__(self, variant: Variant) -> None:
        super().__init__()
        if variant.metric is None:
            raise EngineFailed(f"the model {variant.name} is one network alone; it is not nested")
        self.da3 = Da3Network(variant.main)
        self.da3_metric = Da3Network(variant.metric)

    @property
    def config(self) -> Da3Config:
        """Sizes of the first network."""
        return self.da3.config

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.da3.device

    def features(
        self,
        images: Tensor,
        *,
        w2c: ArrayLike | None = None,
        K: ArrayLike | None = None,
        splats: bool = False,
        keep: torch.dtype = torch.float32,
    ) -> Features:
        """See `Da3Network.features`."""
        return self.da3.features(images, w2c=w2c, K=K, splats=splats, keep=keep)

    def predict(
        self,
        kept: Features,
        images: Tensor,
        *,
        rays: bool = False,
        ray_poses: bool = False,
        down_ratio: int = 2,
        pool_features: bool = True,
    ) -> Prediction:
        """See `Da3Network.predict`; the answer is in metres where enough is seen."""
        main = self.da3.predict(
            kept, images, rays=rays, ray_poses=ray_poses, down_ratio=down_ratio,
            pool_features=pool_features,
        )  # fmt: skip
        depth, sky = self.second(images)
        return in_metres(main, metres(depth, main.views().K), sky)

    def forward(
        self,
        images: Tensor,
        *,
        w2c: ArrayLike | None = None,
        K: ArrayLike | None = None,
        rays: bool = False,
        ray_poses: bool = False,
        splats: bool = False,
        down_ratio: int = 2,
        pool_features: bool = True,
    ) -> Prediction:
        """See `Da3Network.forward`; the answer is in metres where enough is seen."""
        kept = self.features(images, w2c=w2c, K=K, splats=splats)
        return self.predict(
            kept, images, rays=rays, ray_poses=ray_poses, down_ratio=down_ratio,
            pool_features=pool_features,
        )  # fmt: skip

    @torch.no_grad()
    def second(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Depth (times 300 / focal length) and sky score of every picture alone, [v H W] each."""
        parts = []
        for start in range(0, len(images), VIEWS_AT_ONCE):
            some = images[start : start + VIEWS_AT_ONCE]
            kept = self.da3_metric.features(some)
            parts.append(self.da3_metric.head(kept.head, kept.size))
        depth = torch.cat([part.depth for part in parts])
        sky = torch.cat([part.sky for part in parts])
        # Its own rule for the sky looks at all pictures at once.
        return farthen_sky(depth, sky), sky


Network = Da3Network | NestedNetwork
"""Either kind; both have `features`, `predict`, `config` and `device`."""
