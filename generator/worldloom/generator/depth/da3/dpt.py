"""Tokens of four layers -> one map at eight times the patch grid: the trunk of every head (2.4).

Only the 1x1 projections read the wide tokens. What they give is a fraction of the size, so it can
be kept for many views, and the rest is computed for eight views at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from worldloom.generator.depth.da3.variants import HIDDEN, Da3Config

VIEWS_AT_ONCE = 8
"""Views that a head takes at a time: memory, not results."""
UV_BASE, UV_WEIGHT = 100.0, 0.1

Maps = Sequence[Tensor]
"""Four projected maps [v c h w], one a level."""


class ResidualUnit(nn.Module):
    """x + conv(ReLU(conv(ReLU x)))."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(features, features, 3, padding=1)
        self.conv2 = nn.Conv2d(features, features, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map [v f h w] -> [v f h w]."""
        return x + self.conv2(functional.relu(self.conv1(functional.relu(x))))


class Fusion(nn.Module):
    """Joins a coarser map with the lateral of its level and brings both to the next size."""

    def __init__(self, features: int, *, lateral: bool) -> None:
        super().__init__()
        if lateral:
            self.resConfUnit1 = ResidualUnit(features)
        self.resConfUnit2 = ResidualUnit(features)
        self.out_conv = nn.Conv2d(features, features, 1)

    def forward(self, x: Tensor, lateral: Tensor | None, size: Sequence[int]) -> Tensor:
        """Map [v f h w] and lateral [v f h w] -> [v f size]."""
        if lateral is not None:
            x = x + self.resConfUnit1(lateral)
        return self.out_conv(enlarged(self.resConfUnit2(x), size))


class Trunk(nn.Module):
    """Projections, resizing and the main fusion chain; heads add what they need to `scratch`."""

    def __init__(self, config: Da3Config, *, normed: bool, uv: bool) -> None:
        super().__init__()
        channels, features = config.out_channels, config.features
        self.uv = uv
        self.norm = nn.LayerNorm(config.head_width) if normed else nn.Identity()
        self.projects = nn.ModuleList(nn.Conv2d(config.head_width, c, 1) for c in channels)
        self.resize_layers = nn.ModuleList(
            [
                nn.ConvTranspose2d(channels[0], channels[0], 4, 4),
                nn.ConvTranspose2d(channels[1], channels[1], 2, 2),
                nn.Identity(),
                nn.Conv2d(channels[3], channels[3], 3, 2, 1),
            ]
        )
        self.scratch = nn.Module()
        for level, c in enumerate(channels, 1):
            layer = nn.Conv2d(c, features, 3, padding=1, bias=False)
            self.scratch.add_module(f"layer{level}_rn", layer)
        add_chain(self.scratch, features)
        self.scratch.output_conv1 = nn.Conv2d(features, features // 2, 3, padding=1)

    def project(self, level: int, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """Tokens [v n c] of one level -> its projected map [v c' h w]."""
        x = self.norm(tokens.float()).transpose(1, 2).unflatten(2, grid)
        return self.projects[level](x)

    def laterals(self, maps: Maps, aspect: float) -> list[Tensor]:
        """Projected maps -> four maps of `features` channels, finest first."""
        out = []
        for level, kept in enumerate(maps):
            x = self.with_uv(kept.float(), aspect)
            layer = getattr(self.scratch, f"layer{level + 1}_rn")
            out.append(layer(self.resize_layers[level](x)))
        return out

    def fuse(self, laterals: Sequence[Tensor], suffix: str = "") -> Tensor:
        """Laterals, finest first -> one map [v f 8h 8w]."""
        blocks = [getattr(self.scratch, f"refinenet{level}{suffix}") for level in (1, 2, 3, 4)]
        x = blocks[3](laterals[3], None, laterals[2].shape[-2:])
        for level in (2, 1):
            x = blocks[level](x, laterals[level], laterals[level - 1].shape[-2:])
        twice = [2 * side for side in laterals[0].shape[-2:]]
        return blocks[0](x, laterals[0], twice)

    def with_uv(self, x: Tensor, aspect: float) -> Tensor:
        """A map with its position embedding added, where this head has one."""
        return x + uv_embedding(x, aspect) if self.uv else x


def add_chain(scratch: nn.Module, features: int, suffix: str = "") -> None:
    """Give `scratch` the four fusion blocks of one chain; the coarsest has no lateral."""
    for level in (1, 2, 3, 4):
        block = Fusion(features, lateral=level < 4)
        scratch.add_module(f"refinenet{level}{suffix}", block)


def output_layers(features: int, outputs: int) -> nn.Sequential:
    """The last two convolutions of a head, on half of the pyramid's channels."""
    return nn.Sequential(
        nn.Conv2d(features // 2, HIDDEN, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(HIDDEN, outputs, 1),
    )


def enlarged(x: Tensor, size: Sequence[int]) -> Tensor:
    """A map [v c h w] at another size, bilinear with corners on corners."""
    return functional.interpolate(x, size=tuple(size), mode="bilinear", align_corners=True)


def uv_embedding(x: Tensor, aspect: float) -> Tensor:
    """Position embedding [1 c h w] of a map [v c h w].

    The picture's half diagonal is one unit, whatever the map's size; half of the channels tell x,
    half y, each as sines and then cosines of falling frequencies.

    Args:
        x: Gives size, type and device.
        aspect: Width of the picture over its height.
    """
    channels, height, width = x.shape[-3:]
    diagonal = (aspect**2 + 1) ** 0.5
    columns = _axis(width, aspect / diagonal, channels // 2, x)
    rows = _axis(height, 1 / diagonal, channels // 2, x)
    both = torch.cat(
        [
            columns[:, None, :].expand(-1, height, -1),
            rows[:, :, None].expand(-1, -1, width),
        ]
    )
    return UV_WEIGHT * both[None]


def _axis(side: int, span: float, channels: int, like: Tensor) -> Tensor:
    """Sines and cosines [channels side] of pixel centres within -span..span."""
    end = span * (side - 1) / side
    places = torch.linspace(-end, end, side, dtype=torch.float32, device=like.device)
    steps = torch.arange(channels // 2, dtype=torch.float32, device=like.device)
    angles = UV_BASE ** -(steps / (channels / 2))[:, None] * places[None]
    return torch.cat([angles.sin(), angles.cos()]).to(like.dtype)


def by_views(
    run: Callable[[slice], tuple[Tensor, ...]], views: int, *, at_once: int = VIEWS_AT_ONCE
) -> tuple[Tensor, ...]:
    """Run a head on slices of the views and join what it gives.

    Args:
        run: Answers some tensors [v ...] for a slice of the views.
        views: Their number.
        at_once: Views in one slice.
    """
    parts = [run(slice(start, start + at_once)) for start in range(0, views, at_once)]
    return tuple(torch.cat(part) for part in zip(*parts, strict=True))
