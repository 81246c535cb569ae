"""Pictures -> 2,048 features of Inception-v3, in the flavour that FID is computed with.

Szegedy et al., "Rethinking the Inception architecture for computer vision", CVPR 2016, as the
TensorFlow graph of 2015-12-05 has it: 1,008 classes, average pools that leave their padding out,
and a max pool in the last block. Layers bear the public names of
`pt_inception-2015-12-05-6726825d.pth`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

SIDE = 299  # Pictures are resized to this, whatever their shape [px].
FEATURES, CLASSES = 2048, 1008
EPSILON = 1e-3  # Of the batch normalisations.
SEVEN_ACROSS = {"kernel_size": (1, 7), "padding": (0, 3)}
SEVEN_DOWN = {"kernel_size": (7, 1), "padding": (3, 0)}
THREE_ACROSS = {"kernel_size": (1, 3), "padding": (0, 1)}
THREE_DOWN = {"kernel_size": (3, 1), "padding": (1, 0)}


class Unit(nn.Module):
    """Convolution without bias, batch normalisation, ReLU."""

    def __init__(self, inputs: int, outputs: int, **convolution: int | tuple[int, int]) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, bias=False, **convolution)
        self.bn = nn.BatchNorm2d(outputs, eps=EPSILON)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Features [n outputs h w]."""
        return F.relu(self.bn(self.conv(x)))


def mean_pool(x: torch.Tensor) -> torch.Tensor:
    """Average of 3 x 3 that does not count what lies outside the picture."""
    return F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)


class Block35(nn.Module):
    """Blocks at 35 x 35: `Mixed_5b` to `Mixed_5d`."""

    def __init__(self, inputs: int, pooled: int) -> None:
        super().__init__()
        self.branch1x1 = Unit(inputs, 64, kernel_size=1)
        self.branch5x5_1 = Unit(inputs, 48, kernel_size=1)
        self.branch5x5_2 = Unit(48, 64, kernel_size=5, padding=2)
        self.branch3x3dbl_1 = Unit(inputs, 64, kernel_size=1)
        self.branch3x3dbl_2 = Unit(64, 96, kernel_size=3, padding=1)
        self.branch3x3dbl_3 = Unit(96, 96, kernel_size=3, padding=1)
        self.branch_pool = Unit(inputs, pooled, kernel_size=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Features [n 224+pooled h w]."""
        five = self.branch5x5_2(self.branch5x5_1(x))
        three = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch1x1(x), five, three, self.branch_pool(mean_pool(x))], 1)


class Reduce35(nn.Module):
    """From 35 x 35 to 17 x 17: `Mixed_6a`."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.branch3x3 = Unit(inputs, 384, kernel_size=3, stride=2)
        self.branch3x3dbl_1 = Unit(inputs, 64, kernel_size=1)
        self.branch3x3dbl_2 = Unit(64, 96, kernel_size=3, padding=1)
        self.branch3x3dbl_3 = Unit(96, 96, kernel_size=3, stride=2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Features [n 768 h/2 w/2]."""
        three = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch3x3(x), three, F.max_pool2d(x, 3, stride=2)], 1)


class Block17(nn.Module):
    """Blocks at 17 x 17: `Mixed_6b` to `Mixed_6e`."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.branch1x1 = Unit(768, 192, kernel_size=1)
        self.branch7x7_1 = Unit(768, width, kernel_size=1)
        self.branch7x7_2 = Unit(width, width, **SEVEN_ACROSS)
        self.branch7x7_3 = Unit(width, 192, **SEVEN_DOWN)
        self.branch7x7dbl_1 = Unit(768, width, kernel_size=1)
        self.branch7x7dbl_2 = Unit(width, width, **SEVEN_DOWN)
        self.branch7x7dbl_3 = Unit(width, width, **SEVEN_ACROSS)
        self.branch7x7dbl_4 = Unit(width, width, **SEVEN_DOWN)
        self.branch7x7dbl_5 = Unit(width, 192, **SEVEN_ACROSS)
        self.branch_pool = Unit(768, 192, kernel_size=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Features [n 768 h w]."""
        seven = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x)))
        double = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        double = self.branch7x7dbl_5(self.branch7x7dbl_4(double))
        return torch.cat([self.branch1x1(x), seven, double, self.branch_pool(mean_pool(x))], 1)


class Reduce17(nn.Module):
    """From 17 x 17 to 8 x 8: `Mixed_7a`."""

    def __init__(self) -> None:
        super().__init__()
        self.branch3x3_1 = Unit(768, 192, kernel_size=1)
        self.branch3x3_2 = Unit(192, 320, kernel_size=3, stride=2)
        self.branch7x7x3_1 = Unit(768, 192, kernel_size=1)
        self.branch7x7x3_2 = Unit(192, 192, **SEVEN_ACROSS)
        self.branch7x7x3_3 = Unit(192, 192, **SEVEN_DOWN)
        self.branch7x7x3_4 = Unit(192, 192, kernel_size=3, stride=2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Features [n 1280 h/2 w/2]."""
        three = self.branch3x3_2(self.branch3x3_1(x))
        seven = self.branch7x7x3_3(self.branch7x7x3_2(self.branch7x7x3_1(x)))
        return torch.cat([three, self.branch7x7x3_4(seven), F.max_pool2d(x, 3, stride=2)], 1)


class Block8(nn.Module):
    """Blocks at 8 x 8: `Mixed_7b` pools by the mean, `Mixed_7c` by the maximum."""

    def __init__(self, inputs: int, *, largest: bool) -> None:
        super().__init__()
        self.largest = largest
        self.branch1x1 = Unit(inputs, 320, kernel_size=1)
        self.branch3x3_1 = Unit(inputs, 384, kernel_size=1)
        self.branch3x3_2a = Unit(384, 384, **THREE_ACROSS)
        self.branch3x3_2b = Unit(384, 384, **THREE_DOWN)
        self.branch3x3dbl_1 = Unit(inputs, 448, kernel_size=1)
        self.branch3x3dbl_2 = Unit(448, 384, kernel_size=3, padding=1)
        self.branch3x3dbl_3a = Unit(384, 384, **THREE_ACROSS)
        self.branch3x3dbl_3b = Unit(384, 384, **THREE_DOWN)
        self.branch_pool = Unit(inputs, 192, kernel_size=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Features [n 2048 h w]."""
        three = self.branch3x3_1(x)
        double = self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        pooled = F.max_pool2d(x, 3, stride=1, padding=1) if self.largest else mean_pool(x)
        parts = [
            self.branch1x1(x), self.branch3x3_2a(three), self.branch3x3_2b(three),
            self.branch3x3dbl_3a(double), self.branch3x3dbl_3b(double), self.branch_pool(pooled),
        ]  # fmt: skip
        return torch.cat(parts, 1)


class FidInception(nn.Module):
    """Inception-v3 up to its last pool; `fc` is there because the public file has it."""

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = Unit(3, 32, kernel_size=3, stride=2)
        self.Conv2d_2a_3x3 = Unit(32, 32, kernel_size=3)
        self.Conv2d_2b_3x3 = Unit(32, 64, kernel_size=3, padding=1)
        self.Conv2d_3b_1x1 = Unit(64, 80, kernel_size=1)
        self.Conv2d_4a_3x3 = Unit(80, 192, kernel_size=3)
        self.Mixed_5b, self.Mixed_5c = Block35(192, 32), Block35(256, 64)
        self.Mixed_5d = Block35(288, 64)
        self.Mixed_6a = Reduce35(288)
        self.Mixed_6b, self.Mixed_6c = Block17(128), Block17(160)
        self.Mixed_6d, self.Mixed_6e = Block17(160), Block17(192)
        self.Mixed_7a = Reduce17()
        self.Mixed_7b = Block8(1280, largest=False)
        self.Mixed_7c = Block8(2048, largest=True)
        self.fc = nn.Linear(FEATURES, CLASSES)
        self.eval()

    @torch.no_grad()
    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        """Features [n 2048] of pictures in 0..1, [n 3 h w]."""
        x = F.interpolate(pictures, (SIDE, SIDE), mode="bilinear", align_corners=False)
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(2 * x - 1)))
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(F.max_pool2d(x, 3, stride=2)))
        x = self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(F.max_pool2d(x, 3, stride=2))))
        x = self.Mixed_6e(self.Mixed_6d(self.Mixed_6c(self.Mixed_6b(self.Mixed_6a(x)))))
        return self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(x))).mean((2, 3))
