"""Pictures -> style consistency: do they keep the colours and textures of the first one?

Definition (WorldScore; spec reconstruction 5.2): Gram matrices of the outputs of the first five
convolutions of VGG-19, divided by n c h w; mean squared difference to those of the input picture,
summed over the five layers, averaged over the anchor frames; 100 (1 - clip(x / 0.0070)). Pictures
are resized to 512 px on their shorter side and normalised as for ImageNet.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from worldloom.generator.evaluate.backbones import VGG19_BLOCKS, Stack, vgg
from worldloom.generator.evaluate.checkpoints import load_strict, read_tensors
from worldloom.generator.evaluate.pixels import Picture, as_batch, as_unit

SIDE = 512  # Shorter side of the pictures [px].
WORST = 0.0070  # Distance that scores 0.
CONVOLUTIONS = (0, 2, 5, 7, 10)
"""Layers `conv_1` to `conv_5` of the stack, before their ReLU."""
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""ImageNet's statistics."""


def build_vgg19() -> Stack:
    """VGG-19 with random weights, tapped at its first five convolutions."""
    return vgg(VGG19_BLOCKS, CONVOLUTIONS).eval()


def load_vgg19(folder: Path | None, *, device: str = "cpu") -> Stack:
    """VGG-19 with the weights that lie in `folder`.

    Raises:
        NotFound: The file is missing; says which, and where it is published.
        CorruptData: The file is not the published one, or its tensors do not fit.
    """
    net = build_vgg19()
    load_strict(net, read_tensors("vgg19", folder), "vgg19", ignore=("classifier.",))
    return net.to(device)


def style_distance(net: Stack, input_picture: Picture, anchors: list[Picture]) -> float:
    """Mean distance of the anchors' Gram matrices from those of the input picture.

    Raises:
        InvalidRequest: A picture is unusable.
    """
    wanted = grams(net, input_picture)
    distances = []
    for anchor in anchors:
        found = grams(net, anchor)
        parts = [float((a - b).square().mean()) for a, b in zip(wanted, found, strict=True)]
        distances.append(sum(parts))
    return float(np.mean(distances))


def style_consistency(distance: float) -> float:
    """Score 0..100 of a style distance."""
    return 100.0 * (1.0 - float(np.clip(distance / WORST, 0.0, 1.0)))


@torch.no_grad()
def grams(net: Stack, picture: Picture) -> list[torch.Tensor]:
    """Gram matrices [c c] of the tapped layers."""
    device = next(net.parameters()).device
    image = torch.from_numpy(as_batch([_resized(as_unit(picture))])).to(device)
    mean, std = (torch.tensor(v, device=device)[:, None, None] for v in (MEAN, STD))
    return [gram(features) for features in net((image - mean) / std)]


def gram(features: torch.Tensor) -> torch.Tensor:
    """Inner products of the channels [n c, n c] of features [n c h w], divided by n c h w."""
    flat = features.flatten(0, 1).flatten(1)
    return flat @ flat.T / features.numel()


def _resized(picture: NDArray[np.float64]) -> NDArray[np.float64]:
    from PIL import Image

    height, width = picture.shape[:2]
    factor = SIDE / min(height, width)
    # Truncated as in the definition's own tooling, so that sizes agree to the pixel.
    size = (int(width * factor), int(height * factor))
    image = Image.fromarray((picture * 255 + 0.5).astype(np.uint8))
    return np.asarray(image.resize(size, Image.Resampling.BILINEAR)) / 255.0
