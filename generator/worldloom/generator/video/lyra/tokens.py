"""Slots of latents -> tokens with their places, rays and correspondences (spec generation 2).

Segments in the order of the layout; inside one frame-major, then rows, then columns. What does
not divide is padded by repeating its last row, column or frame.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from worldloom.generator.video.lyra.config import DiTConfig
from worldloom.generator.video.lyra.layout import FramePack, Segment

ROTARY_BASE = 10000.0  # Spec generation 6.2.


@dataclass(frozen=True)
class Places:
    """What every token knows besides its content."""

    angles: Tensor
    """Rotary angles of time, height, width [rad], [L head_dim/2]."""
    new: slice
    """Tokens of the generated frames."""


def pad_to(x: Tensor, multiple: tuple[int, int, int]) -> Tensor:
    """`x` [B C T H W] repeated at its ends until T, H and W divide by `multiple`."""
    missing = [-size % m for size, m in zip(x.shape[-3:], multiple, strict=True)]
    if not any(missing):
        return x
    t, h, w = missing
    return F.pad(x, (0, w, 0, h, 0, t), mode="replicate")


def fold_patches(x: Tensor, patch: tuple[int, int, int]) -> Tensor:
    """Patches of `x` [B C T H W] as rows [B n C*pt*ph*pw], the channel slowest."""
    pt, ph, pw = patch
    x = pad_to(x, patch)
    b, c, t, h, w = x.shape
    cells = x.view(b, c, t // pt, pt, h // ph, ph, w // pw, pw)
    return cells.permute(0, 2, 4, 6, 1, 3, 5, 7).reshape(b, -1, c * pt * ph * pw)


def unfold_patches(rows: Tensor, grid: tuple[int, int, int], patch: tuple[int, int, int]) -> Tensor:
    """Rows [B n pt*ph*pw*C], the channel FASTEST, as a video [B C T H W] (spec 6.2)."""
    (t, h, w), (pt, ph, pw) = grid, patch
    b, _, width = rows.shape
    c = width // (pt * ph * pw)
    cells = rows.view(b, t, h, w, pt, ph, pw, c).permute(0, 7, 1, 4, 2, 5, 3, 6)
    return cells.reshape(b, c, t * pt, h * ph, w * pw)


def pool_mean(grid: Tensor, pool: tuple[int, int, int]) -> Tensor:
    """Means of `grid` [B D T H W] over `pool`, as rows [B n D]."""
    if pool != (1, 1, 1):
        grid = _mean(pad_to(grid, pool), pool)
    return grid.flatten(2).transpose(1, 2)


def _mean(grid: Tensor, pool: tuple[int, int, int]) -> Tensor:
    """Means over `pool`, summed in float32: the CPU has no pooling in bfloat16."""
    if grid.dtype == torch.float64:
        return F.avg_pool3d(grid, pool)
    return F.avg_pool3d(grid.float(), pool).to(grid.dtype)


def patch_of(config: DiTConfig, segment: Segment) -> tuple[int, int, int]:
    """Latent cells per token of a segment in time, height and width."""
    (pt, ph, pw), (kt, kh, kw) = config.patch_size, segment.pool()
    return pt * kt, ph * kh, pw * kw


def split_slots(layout: FramePack, x: Tensor) -> Iterator[tuple[Segment, Tensor]]:
    """The history segments of `x` [B C T H W], each with its slots."""
    start = 0
    for segment in layout.segments:
        yield segment, x[:, :, start : start + segment.count]
        start += segment.count


def rotary_frequencies(head_dim: int, device: torch.device | None = None) -> list[Tensor]:
    """Angle per step in time, height and width, float64; together head_dim/2 values (spec 6.2)."""
    plane = 2 * (head_dim // 6)
    parts = (head_dim - 2 * plane, plane, plane)
    return [
        ROTARY_BASE ** (-torch.arange(0, part, 2, dtype=torch.float64, device=device) / part)
        for part in parts
    ]


def grid_positions(frames: Tensor, height: int, width: int) -> Tensor:
    """Time, row and column of base tokens as a volume [1 3 T h w], float64."""
    rows = torch.arange(height, dtype=torch.float64, device=frames.device)
    columns = torch.arange(width, dtype=torch.float64, device=frames.device)
    axes = torch.meshgrid(frames.double(), rows, columns, indexing="ij")
    return torch.stack(axes)[None]


def plain_places(config: DiTConfig, grid: tuple[int, int, int], device: torch.device) -> Places:
    """Places of a video without a packed history."""
    positions = grid_positions(torch.arange(grid[0], device=device), *grid[1:])
    angles = _angles(config, pool_mean(positions, (1, 1, 1))[0])
    return Places(angles, slice(0, len(angles)))


def packed_places(
    config: DiTConfig, layout: FramePack, height: int, width: int, device: torch.device
) -> Places:
    """Places of a packed history and the generated frames, for latents of `height` x `width`.

    The angle of a token is the mean over what it covers; as angles are linear in the position,
    that is the angle of the mean position.
    """
    h, w = height // config.patch_size[1], width // config.patch_size[2]
    slots = torch.arange(layout.total, device=device)
    volume = grid_positions(slots, h, w)
    parts = [pool_mean(x, segment.pool())[0] for segment, x in split_slots(layout, volume)]
    parts.append(pool_mean(volume[:, :, layout.history :], (1, 1, 1))[0])
    start = sum(len(part) for part in parts[:-1])
    angles = _angles(config, torch.cat(parts))
    return Places(angles, slice(start, len(angles)))


def _angles(config: DiTConfig, positions: Tensor) -> Tensor:
    frequencies = rotary_frequencies(config.head_dim, positions.device)
    parts = [positions[:, i : i + 1] * f for i, f in enumerate(frequencies)]
    return torch.cat(parts, 1).float()


def camera_tokens(config: DiTConfig, layout: FramePack | None, rays: Tensor) -> Tensor:
    """Ray values of every token [B L 1536] out of folded rays [B 384 T h w] (spec 5)."""
    grid = _base_grid(config, rays)
    if layout is None:
        return pool_mean(grid, (1, 1, 1))
    parts = [pool_mean(x, segment.pool()) for segment, x in split_slots(layout, grid)]
    return torch.cat([*parts, pool_mean(grid[:, :, layout.history :], (1, 1, 1))], 1)


def _base_grid(config: DiTConfig, x: Tensor) -> Tensor:
    """Folded base tokens of `x` [B C T h w] as a volume [B C*patch T h/2 w/2]."""
    pt, ph, pw = config.patch_size
    rows = fold_patches(x, config.patch_size)
    t, h, w = x.shape[2] // pt, -(-x.shape[3] // ph), -(-x.shape[4] // pw)
    return rows.transpose(1, 2).unflatten(2, (t, h, w))


def buffer_tokens(config: DiTConfig, layout: FramePack, buffer: Tensor) -> tuple[Tensor, Tensor]:
    """Correspondence values [B L n] and validity [B L 1] of every token (spec 4.5).

    Args:
        config: Of the network.
        layout: Of the history.
        buffer: Correspondence buffer [B C T h w]: all slots; the memory slots and the generated
            ones, as temporal slots have none; or the generated ones alone.
    """
    whole = buffer.shape[2] == layout.total
    full = whole or buffer.shape[2] == layout.spatial + layout.new
    h, w = (-(-size // p) for size, p in zip(buffer.shape[3:], config.patch_size[1:], strict=True))
    new = fold_patches(buffer[:, :, -layout.new :], config.patch_size)
    values, valid = [], []
    start = 0
    for segment in layout.segments:
        memory = segment.kind == "s"
        if memory and full:
            part = _pooled_cells(config, segment, buffer[:, :, start : start + segment.count])
        else:
            dummy = 0.0 if memory else -1.0
            count = segment.tokens(h, w)
            part = new.new_full((len(new), count, config.buffer_width), dummy)
        values.append(part)
        valid.append(part.new_full((*part.shape[:2], 1), float(memory and full)))
        start += segment.count if whole or memory else 0
    values.append(new)
    valid.append(new.new_ones(*new.shape[:2], 1))
    return torch.cat(values, 1), torch.cat(valid, 1)


def _pooled_cells(config: DiTConfig, segment: Segment, slots: Tensor) -> Tensor:
    """Memory slots of the buffer: latent cells averaged per channel, then folded (spec 4.5)."""
    k = segment.factor
    pooled = _mean(slots, (1, k, k)) if k > 1 else slots
    return fold_patches(pooled, config.patch_size)


def sines(values: Tensor, octaves: int) -> Tensor:
    """Sin and cos of pi and its octaves times `values` [... n] -> [... 2*octaves*n] (spec 4.5).

    Without octaves the values themselves.
    """
    if not octaves:
        return values
    angles = values.float() * torch.pi
    parts = [f(angles * 2**i) for i in range(octaves) for f in (torch.sin, torch.cos)]
    return torch.cat(parts, -1).to(values.dtype)
