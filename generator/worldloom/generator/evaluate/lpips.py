"""Two pictures -> LPIPS: how different they look, by features of AlexNet or VGG-16.

Zhang, Isola, Efros, Shechtman, Wang, "The unreasonable effectiveness of deep features as a
perceptual metric", CVPR 2018, version 0.1: features of five layers, each scaled to unit length
over its channels; squared differences, weighted per channel by a learnt 1 x 1 head, averaged over
the picture and summed over the layers. Needs weights that the user brings (`checkpoints`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
from torch import nn

from worldloom.generator.evaluate.backbones import VGG16_BLOCKS, Stack, alexnet, vgg
from worldloom.generator.evaluate.checkpoints import load_strict, read_tensors, require
from worldloom.generator.evaluate.pixels import Picture, as_batch, as_pair
from worldloom.scene.errors import InvalidRequest

Variant = Literal["alex", "vgg"]
VARIANTS: tuple[Variant, ...] = ("alex", "vgg")
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
"""Normalisation of pictures in -1..1 before the network (LPIPS 0.1)."""
TINY = 1e-10  # Added to the length of feature vectors.
TAPS = {"alex": (1, 4, 7, 9, 11), "vgg": (3, 8, 15, 22, 29)}
"""ReLU layers whose outputs are compared."""
CHANNELS = {"alex": (64, 192, 384, 256, 256), "vgg": (64, 128, 256, 512, 512)}
SIDE_MIN = 32  # AlexNet and VGG-16 need a pixel left in their last layer.


class Head(nn.Module):
    """One weight per channel; the layer before it was dropout in training, so it is number 1."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.model = nn.Sequential(nn.Identity(), nn.Conv2d(channels, 1, 1, bias=False))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Weighted sum over the channels, [n 1 h w]."""
        return self.model(x)


class Heads(nn.Module):
    """The five learnt heads, under the names of the published files: `lin0.model.1.weight` ..."""

    def __init__(self, channels: tuple[int, ...]) -> None:
        super().__init__()
        for number, count in enumerate(channels):
            self.add_module(f"lin{number}", Head(count))

    def forward(self, differences: list[torch.Tensor]) -> torch.Tensor:
        """Sum over the layers of the mean weighted difference, [n]."""
        heads = self.children()
        parts = [head(d).mean((1, 2, 3)) for head, d in zip(heads, differences, strict=True)]
        return torch.stack(parts).sum(0)


class Lpips(nn.Module):
    """The metric with one of its two backbones; weights are random until they are loaded."""

    def __init__(self, variant: Variant) -> None:
        super().__init__()
        self.net = build_backbone(variant)
        self.heads = Heads(CHANNELS[variant])
        self.register_buffer("shift", torch.tensor(SHIFT)[:, None, None], persistent=False)
        self.register_buffer("scale", torch.tensor(SCALE)[:, None, None], persistent=False)
        self.eval()

    @torch.no_grad()
    def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        """LPIPS [n] of pictures in 0..1, [n 3 h w] each."""
        first, second = (self.net((2 * x - 1 - self.shift) / self.scale) for x in (a, b))
        pairs = zip(first, second, strict=True)
        return self.heads([(_unit(x) - _unit(y)) ** 2 for x, y in pairs])

    def distance(self, picture: Picture, reference: Picture) -> float:
        """LPIPS of two pictures [h w 3] of one size.

        Raises:
            InvalidRequest: Unusable pictures, different sizes, or a side below 32 px.
        """
        pair = as_pair(picture, reference)
        height, width = pair[0].shape[:2]
        if min(height, width) < SIDE_MIN:
            raise InvalidRequest(
                f"the pictures are {width} x {height} pixels; LPIPS needs {SIDE_MIN} on each side"
            )
        device = self.shift.device
        a, b = (torch.from_numpy(as_batch([x])).to(device) for x in pair)
        return float(self(a, b)[0])


def build_backbone(variant: Variant) -> Stack:
    """The feature stack of a variant, with random weights."""
    if variant == "alex":
        return alexnet(TAPS["alex"])
    return vgg(VGG16_BLOCKS, TAPS["vgg"])


def load_lpips(variant: Variant, folder: Path | None, *, device: str = "cpu") -> Lpips:
    """LPIPS with the weights that lie in `folder`.

    Raises:
        NotFound: A file is missing; says which, and where it is published.
        CorruptData: A file is not the published one, or its tensors do not fit.
    """
    backbone = {"alex": "alexnet", "vgg": "vgg16"}[variant]
    require((backbone, f"lpips-{variant}"), folder)
    metric = Lpips(variant)
    load_strict(metric.net, read_tensors(backbone, folder), backbone, ignore=("classifier.",))
    load_strict(metric.heads, read_tensors(f"lpips-{variant}", folder), f"lpips-{variant}")
    return metric.to(device)


def _unit(features: torch.Tensor) -> torch.Tensor:
    """Feature vectors [n c h w] of unit length over c."""
    return features / (features.square().sum(1, keepdim=True).sqrt() + TINY)
