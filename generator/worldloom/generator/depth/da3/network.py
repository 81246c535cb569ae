"""One whole network: normalised pictures, with or without cameras -> depth, cameras, raw Gaussians.

In two halves: `features` runs the backbone and keeps the projected maps alone (in bfloat16 where
asked, 8.7 times less than the tokens, spec 1.8); `predict` runs the heads on them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from worldloom.generator.depth.da3.cameras import (
    CameraDecoder,
    CameraEncoder,
    cameras_of,
    normalise_poses,
    pose_vector,
)
from worldloom.generator.depth.da3.dpt import Trunk, by_views
from worldloom.generator.depth.da3.dual_dpt import DepthMaps, DualDPT
from worldloom.generator.depth.da3.gs_head import GaussianHead, RawGaussians
from worldloom.generator.depth.da3.metric_head import MetricHead
from worldloom.generator.depth.da3.ray_poses import cameras_from_rays
from worldloom.generator.depth.da3.sky import farthen_sky
from worldloom.generator.depth.da3.variants import PATCH, Da3Config
from worldloom.generator.depth.da3.vit import Backbone
from worldloom.scene.errors import EngineFailed


@dataclass(frozen=True)
class Features:
    """What is kept of v views between backbone and heads."""

    size: tuple[int, int]
    """Height and width of the pictures [px]."""
    head: tuple[Tensor, ...]
    """Projected maps of the depth head, four of [v c h w]."""
    splats: tuple[Tensor, ...]
    """Projected maps of the Gaussian head; empty where they were not wanted."""
    camera: Tensor
    """Camera feature [v c]."""

    @property
    def bytes(self) -> int:
        """Size of all of it."""
        return sum(t.nbytes for t in (*self.head, *self.splats, self.camera))


@dataclass(frozen=True)
class Views:
    """What a multi-view network always says of v views."""

    depth: Tensor
    """Depth [v H W]."""
    confidence: Tensor
    """Above 1, bigger is surer [v H W]."""
    w2c: Tensor
    """Predicted world to camera [v 4 4]."""
    K: Tensor
    """Predicted intrinsics in pixels [v 3 3]."""


@dataclass(frozen=True)
class Prediction:
    """What a network says of v views; one frame and unit for all of them."""

    depth: Tensor
    """Depth [v H W] in units of the network, or metres where `metric`."""
    confidence: Tensor | None = None
    """Above 1, bigger is surer [v H W]."""
    w2c: Tensor | None = None
    """Predicted world to camera [v 4 4], same unit."""
    K: Tensor | None = None
    """Predicted intrinsics in pixels [v 3 3]."""
    rays: Tensor | None = None
    """Direction (any length) and centre of coarse pixels [v 8h 8w 6]."""
    ray_confidence: Tensor | None = None
    sky: Tensor | None = None
    """Sky score [v H W]; 0.3 and more is sky."""
    gaussians: RawGaussians | None = None
    metric: bool = False
    """Whether depth is in metres."""
    scale: float = 1.0
    """What depth and centres were multiplied by to become metres."""

    def views(self) -> Views:
        """Depth with confidence and cameras.

        Raises:
            EngineFailed: The network sees one picture at a time and has no cameras.
        """
        if self.confidence is None or self.w2c is None or self.K is None:
            raise EngineFailed(
                "this Depth Anything 3 network sees one picture at a time and gives no cameras; "
                "take a multi-view one: da3-small, da3-base, da3-giant or da3-nested"
            )
        return Views(self.depth, self.confidence, self.w2c, self.K)

    def raw_gaussians(self) -> RawGaussians:
        """What the Gaussian head said.

        Raises:
            EngineFailed: It was not asked.
        """
        if self.gaussians is None:
            raise EngineFailed(
                "the Gaussian head was not run; ask for features and predictions with splats"
            )
        return self.gaussians


class Da3Network(nn.Module):
    """Backbone and heads of one configuration."""

    def __init__(self, config: Da3Config) -> None:
        super().__init__()
        self.config = config
        self.backbone = Backbone(config)
        self.head: DualDPT | MetricHead = (
            DualDPT(config) if config.multi_view else MetricHead(config)
        )
        if config.multi_view:
            self.cam_enc = CameraEncoder(config.dim)
            self.cam_dec = CameraDecoder(2 * config.dim)
        if config.splats:
            self.gs_head = GaussianHead(config)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.backbone.pretrained.pos_embed.device

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
        """Depth and cameras of some views.

        Args:
            images: Normalised colours [v 3 H W].
            w2c: World to camera [v 4 4] in any frame and unit, to condition the network.
            K: Intrinsics [v 3 3] in pixels of `images`; needed with `w2c`.
            rays: Whether the ray maps are wanted too.
            ray_poses: Take cameras from the ray maps instead of the decoder.
            splats: Whether raw Gaussians are wanted too.
            down_ratio: Pixels per Gaussian, each side.
            pool_features: See `GaussianHead`.

        Raises:
            EngineFailed: Pictures or cameras cannot be used.
        """
        kept = self.features(images, w2c=w2c, K=K, splats=splats)
        return self.predict(
            kept, images, rays=rays, ray_poses=ray_poses, down_ratio=down_ratio,
            pool_features=pool_features,
        )  # fmt: skip

    @torch.no_grad()
    def features(
        self,
        images: Tensor,
        *,
        w2c: ArrayLike | None = None,
        K: ArrayLike | None = None,
        splats: bool = False,
        keep: torch.dtype = torch.float32,
    ) -> Features:
        """Run the backbone; arguments as `forward`, `keep` is the type of the kept maps.

        Raises:
            EngineFailed: Pictures or cameras cannot be used.
        """
        size = check_images(images)
        if splats and not self.config.splats:
            raise EngineFailed(
                "this Depth Anything 3 network has no Gaussian head; only giant and nested have "
                "one. Load one of them, or place splats from depth"
            )
        grid = (size[0] // PATCH, size[1] // PATCH)
        heads: list[Trunk] = [self.head, *([self.gs_head] if splats else [])]

        def tap(level: int, tokens: Tensor) -> tuple[Tensor, ...]:
            def run(views: slice) -> tuple[Tensor, ...]:
                with full_precision(tokens.device):
                    return tuple(h.project(level, tokens[views], grid).to(keep) for h in heads)

            return by_views(run, len(tokens))

        cameras = self._camera_tokens(w2c, K, size, len(images))
        with half_precision(images.device):
            tokens = self.backbone(images, cameras, tap=tap)
        maps = tuple(zip(*tokens.levels, strict=True))
        return Features(size, maps[0], maps[1] if splats else (), tokens.camera.float())

    @torch.no_grad()
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
        """Run the heads on features; arguments as `forward`.

        Raises:
            EngineFailed: What came out is not finite.
        """
        if isinstance(self.head, MetricHead):
            alone = self.head(kept.head, kept.size)
            check_finite(alone.depth)
            return Prediction(farthen_sky(alone.depth, alone.sky), sky=alone.sky)
        maps = self.head(kept.head, kept.size, rays=rays or ray_poses)
        w2c, K = cameras_of(self.cam_dec(kept.camera), kept.size)
        if ray_poses:
            w2c, K = _from_rays(maps, kept.size)
        check_finite(maps.depth, w2c)
        gaussians = None
        if kept.splats:
            gaussians = self.gs_head(
                kept.splats, images.float(), down_ratio=down_ratio, pool_features=pool_features
            )
        return Prediction(
            maps.depth, maps.confidence, w2c, K, maps.rays, maps.ray_confidence,
            gaussians=gaussians,
        )  # fmt: skip

    def _camera_tokens(
        self, w2c: ArrayLike | None, K: ArrayLike | None, size: tuple[int, int], views: int
    ) -> Tensor | None:
        if w2c is None or not self.config.multi_view:
            return None
        if K is None or len(w2c) != views or len(K) != views:  # type: ignore[arg-type]
            raise EngineFailed(
                f"{views} pictures are conditioned on {len(w2c)} cameras and "  # type: ignore[arg-type]
                f"{'no' if K is None else len(K)} intrinsics; give one of each per picture"  # type: ignore[arg-type]
            )
        numbers = torch.from_numpy(pose_vector(normalise_poses(w2c), K, size))
        return self.cam_enc(numbers.to(self.device))


def _from_rays(maps: DepthMaps, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    if maps.rays is None or maps.ray_confidence is None:
        raise EngineFailed("the head gave no rays, so it has no cameras; ask it for rays")
    found = cameras_from_rays(maps.rays.cpu().numpy(), maps.ray_confidence.cpu().numpy(), size)
    w2c, K = (torch.from_numpy(part).to(maps.depth) for part in found)
    return w2c, K


def check_images(images: Tensor) -> tuple[int, int]:
    """Height and width of pictures that the network can take [px].

    Raises:
        EngineFailed: There is none, a side is no multiple of 14, or a number is not finite.
    """
    shape = list(images.shape)
    if images.ndim != 4 or shape[1] != 3 or 0 in shape or shape[2] % PATCH or shape[3] % PATCH:
        raise EngineFailed(
            f"the depth network got pictures of shape {shape}; give [views, 3, height, width] with "
            f"at least one view and sides that are multiples of {PATCH}"
        )
    if not bool(torch.isfinite(images).all()):
        bad = [i for i, image in enumerate(images) if not bool(torch.isfinite(image).all())]
        raise EngineFailed(
            f"{len(bad)} of {len(images)} pictures hold numbers that are not finite (first: view "
            f"{bad[0]}); leave these views out or mend them before depth is estimated"
        )
    return shape[2], shape[3]


def check_finite(*tensors: Tensor) -> None:
    """Refuse depth or cameras that are not finite.

    Raises:
        EngineFailed: They are not.
    """
    if not all(bool(torch.isfinite(tensor).all()) for tensor in tensors):
        raise EngineFailed(
            "the depth network answered numbers that are not finite; verify its weights with: "
            "worldloom weights verify"
        )


@contextmanager
def half_precision(device: torch.device) -> Iterator[None]:
    """Mixed precision for the backbone on a GPU, as the weights were trained (spec 1.2)."""
    if device.type != "cuda":
        yield
        return
    kind = torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    with torch.autocast(device.type, dtype=kind):
        yield


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Heads and camera encoder in float32, within `half_precision` too."""
    with torch.autocast(device.type, enabled=False):
        yield
