"""Convolution stacks of AlexNet, VGG-16 and VGG-19, with the public names of their weights.

Layer n of a stack is `features.n`, as in the state dicts that torchvision publishes
(`alexnet-owt-7be5be79.pth`, `vgg16-397923af.pth`, `vgg19-dcbb9e9d.pth`); the classifiers behind
them are not built. AlexNet: Krizhevsky, arXiv 1404.5997; VGG: Simonyan and Zisserman, arXiv
1409.1556, configurations D and E.
"""

from __future__ import annotations

import torch
from torch import nn

VGG16_BLOCKS = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))
VGG19_BLOCKS = ((64, 2), (128, 2), (256, 4), (512, 4), (512, 4))
"""Channels and number of 3 x 3 convolutions of each block; a max pool ends each."""


class Stack(nn.Module):
    """A sequence of layers of which some outputs are wanted."""

    def __init__(self, features: nn.Sequential, taps: tuple[int, ...]) -> None:
        super().__init__()
        self.features = features
        self.taps = taps

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Outputs of the tapped layers, [n c h w] each, for normalised pictures [n 3 h w]."""
        outputs = []
        for number, layer in enumerate(self.features):
            x = layer(x)
            if number in self.taps:
                outputs.append(x)
            if number == self.taps[-1]:
                break
        return outputs


def alexnet(taps: tuple[int, ...]) -> Stack:
    """The five convolutions of AlexNet (one tower)."""
    layers = [
        nn.Conv2d(3, 64, 11, stride=4, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2),
        nn.Conv2d(64, 192, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2),
        nn.Conv2d(192, 384, 3, padding=1), nn.ReLU(),
        nn.Conv2d(384, 256, 3, padding=1), nn.ReLU(),
        nn.Conv2d(256, 256, 3, padding=1), nn.ReLU(), nn.MaxPool2d(3, 2),
    ]  # fmt: skip
    return Stack(nn.Sequential(*layers), taps)


def vgg(blocks: tuple[tuple[int, int], ...], taps: tuple[int, ...]) -> Stack:
    """The convolutions of a VGG network: `VGG16_BLOCKS` or `VGG19_BLOCKS`."""
    layers: list[nn.Module] = []
    channels = 3
    for width, count in blocks:
        for _ in range(count):
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
            channels = width
        layers.append(nn.MaxPool2d(2, 2))
    return Stack(nn.Sequential(*layers), taps)
