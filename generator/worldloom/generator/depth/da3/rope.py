"""Places of tokens in a grid -> the rotation of queries and keys (spec reconstruction 2.2).

Half of a head's channels turns with the row, half with the column.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

BASE = 100.0  # Frequencies fall from 1 to nearly 1 / BASE.


@dataclass(frozen=True)
class Rotation:
    """Cosines and sines of n tokens, [n c] each; c = channels of a head."""

    cos: Tensor
    sin: Tensor

    @staticmethod
    def of(positions: Tensor, width: int, device: torch.device) -> Rotation:
        """Of tokens at positions [n 2] (row, column), for heads of `width` channels."""
        half = width // 2
        steps = torch.arange(0, half, 2, dtype=torch.float32, device=device) / half
        angles = positions.to(device).float()[..., None] / BASE**steps
        # [n 2 half/2] -> row angles twice, then column angles twice.
        angles = torch.cat([angles, angles], -1).flatten(1)
        return Rotation(angles.cos(), angles.sin())


def rotate(x: Tensor, rotation: Rotation) -> Tensor:
    """Queries or keys [... n c] turned by the places of their tokens."""
    cos, sin = rotation.cos.to(x.dtype), rotation.sin.to(x.dtype)
    turned = torch.cat([_quarter(half) for half in x.chunk(2, -1)], -1)
    return x * cos + turned * sin


def _quarter(half: Tensor) -> Tensor:
    first, second = half.chunk(2, -1)
    return torch.cat([-second, first], -1)


def patch_positions(grid: tuple[int, int]) -> Tensor:
    """Positions [1+n 2] within one view: (0, 0) for the cls slot, then (row + 1, column + 1)."""
    rows, columns = torch.meshgrid(*(torch.arange(1, side + 1) for side in grid), indexing="ij")
    patches = torch.stack([rows, columns], -1).reshape(-1, 2)
    return torch.cat([patches.new_zeros(1, 2), patches])


def plain_positions(grid: tuple[int, int]) -> Tensor:
    """Positions [1+n 2] among all views: patches have no place there, all stand at (1, 1)."""
    patches = torch.ones(grid[0] * grid[1], 2, dtype=torch.long)
    return torch.cat([patches.new_zeros(1, 2), patches])
