"""Pictures [v h w 3] with intrinsics -> the network's input [v 3 H W] with its own (spec 1.2).

The longer side is brought to a bound, then each side to the nearest multiple of 14; nothing is cut.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.nn import functional

from worldloom.generator.depth.da3.variants import PATCH
from worldloom.generator.depth.resample import resize
from worldloom.scene.errors import EngineFailed

PROCESS_SIDE = 504
"""Side that pictures are brought to when nobody says otherwise [px]; Lyra keeps the video's."""
COLOUR_MEAN = (0.485, 0.456, 0.406)
COLOUR_STD = (0.229, 0.224, 0.225)
"""Mean and deviation of colours in 0..1 that the weights were trained with."""
SIDES_MIN = PATCH  # Smallest side of the network's input [px].


@dataclass(frozen=True)
class Prepared:
    """Pictures as the network takes them."""

    images: Tensor
    """Normalised colours [v 3 H W]."""
    K: NDArray[np.float64] | None
    """Intrinsics in pixels of `images`, [v 3 3]."""

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the input [px]."""
        return self.images.shape[-2], self.images.shape[-1]


def prepare(
    rgb: ArrayLike,
    K: ArrayLike | None = None,
    *,
    side: int | None = PROCESS_SIDE,
    shorter: bool = False,
) -> Prepared:
    """Bring pictures to the network's input.

    Args:
        rgb: sRGB 0..1 [v h w 3], or of 8 bits.
        K: Intrinsics in pixels of `rgb`, [3 3] or [v 3 3].
        side: What the longer side is brought to [px]; None keeps the pictures' own.
        shorter: Whether `side` is meant for the shorter side instead.

    Raises:
        EngineFailed: There is no picture, it is no RGB picture, or a number is not finite.
    """
    colours = _colours(rgb)
    views, height, width = colours.shape[:3]
    sizes = steps(height, width, side, shorter=shorter)
    for size in sizes:
        colours = resized(colours, size)
    out_height, out_width = sizes[-1] if sizes else (height, width)
    factors = np.array([[out_width / width], [out_height / height], [1.0]])
    cameras = None
    if K is not None:
        cameras = np.broadcast_to(np.asarray(K, float), (views, 3, 3)) * factors
    mean, std = np.float32(COLOUR_MEAN), np.float32(COLOUR_STD)
    images = torch.from_numpy(np.ascontiguousarray((colours - mean) / std))
    return Prepared(images.permute(0, 3, 1, 2).contiguous(), cameras)


def steps(
    height: int, width: int, side: int | None, *, shorter: bool = False
) -> list[tuple[int, int]]:
    """Sizes (height, width) through which a picture goes; without those that change nothing."""
    sizes, now = [], (height, width)
    bound = (min if shorter else max)(height, width)
    if side is not None and side != bound:
        scale = side / bound
        now = (max(1, round(height * scale)), max(1, round(width * scale)))
        sizes.append(now)
    multiple = (_nearest(now[0]), _nearest(now[1]))
    return [*sizes, multiple] if multiple != now else sizes


def _nearest(length: int) -> int:
    """The nearest multiple of a patch, upwards when both are as near."""
    down = length // PATCH * PATCH
    return max(SIDES_MIN, down + PATCH if 2 * (length - down) >= PATCH else down)


def resized(colours: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    """Colours [v h w 3] at another size: cubic where a side grows, area averages else."""
    if size[0] > colours.shape[1] or size[1] > colours.shape[2]:
        stacked = torch.from_numpy(colours).permute(0, 3, 1, 2)
        cubic = functional.interpolate(stacked, size=size, mode="bicubic", align_corners=False)
        return cubic.clamp(0, 1).permute(0, 2, 3, 1).numpy()
    return np.stack([resize(image, size[1], size[0]) for image in colours])


def _colours(rgb: ArrayLike) -> NDArray[np.float32]:
    array = np.asarray(rgb)
    if array.ndim != 4 or array.shape[-1] != 3 or 0 in array.shape:
        raise EngineFailed(
            f"the depth network got pictures of shape {list(array.shape)}; give at least one as "
            "[views, height, width, 3]"
        )
    if array.dtype == np.uint8:
        return array.astype(np.float32) / np.float32(255)
    array = array.astype(np.float32)
    finite = np.isfinite(array).all((1, 2, 3))
    if not finite.all():
        first = int(np.argmin(finite))
        bad = int((~np.isfinite(array[first])).any(-1).sum())
        raise EngineFailed(
            f"{int((~finite).sum())} of {len(array)} pictures hold pixels that are not finite "
            f"(view {first}: {bad}); leave these views out or mend them before depth is estimated"
        )
    return array
