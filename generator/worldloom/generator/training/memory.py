"""A clip and a target -> frames it may remember, drawn by chance unlike at inference (3.5)."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from worldloom.generator.memory.lyra_cache import LyraMemory
from worldloom.generator.memory.retrieval import grid_owners, lyra_grids
from worldloom.generator.memory.unproject import strided_points
from worldloom.generator.training.clip import TrainingClip
from worldloom.generator.training.draws import Draws

FLOOR_SHARE = 0.02  # Share of the best score that every candidate gets on top (spec 3.5).


@dataclass(frozen=True)
class MemoryDraw:
    """How memory frames are drawn; the defaults are those of the release."""

    stride: int = 8
    """Only frames whose number divides by this are candidates."""
    skip_recent: int = 16
    """Frames before and after the target that are no candidates."""
    drop_rate: float = 0.1
    """How often some of the drawn frames are dropped again."""
    points_stride: int = 4
    """Pixels per point and per cell of the grid on which scores are counted."""


def candidates(frames: int, first: int, last: int, draw: MemoryDraw) -> list[int]:
    """Frames of a clip, before AND after the target `first`..`last`, that may be remembered."""
    low, high = first - draw.skip_recent, last + draw.skip_recent
    return [
        t for t in range(draw.stride, frames, draw.stride)
        if not low <= t <= high and t != first - 1
    ]  # fmt: skip


def draw_frames(
    clip: TrainingClip, numbers: list[int], target: int, count: int, draw: MemoryDraw, draws: Draws
) -> list[int]:
    """Up to `count` of the candidates `numbers`, likelier the more of frame `target` they own.

    Returns:
        Frames in the order of the memory slots: the first one drawn comes last.
    """
    if not numbers or not count:
        return []
    s = draw.points_stride
    clouds = [
        strided_points(clip.depth[t], clip.K[t], clip.w2c[t], stride=s).reshape(-1, 3)
        for t in numbers
    ]
    cells = (clip.size[0] // s, clip.size[1] // s)
    grid = lyra_grids(clip.K[target : target + 1], s)[0]
    scores = torch.from_numpy(grid_owners(clouds, clip.w2c[target], grid, cells)).double()
    weights = scores + FLOOR_SHARE * scores.max()
    if not weights.any():
        weights = torch.ones_like(weights)  # Nothing is seen: all are equally good.
    picked = draws.choice(weights, min(count, len(numbers)))
    return [numbers[i] for i in picked][::-1]


def drop_frames(frames: list[int], draw: MemoryDraw, draws: Draws) -> list[int]:
    """The frames without some, or without any, of them in a share of `drop_rate` of the calls."""
    if not frames or draw.drop_rate <= 0:
        return frames
    if not float(draws.uniform(1, "drop memory")) < draw.drop_rate:
        return frames
    count = draws.integer(1, len(frames) + 1, "dropped frames")
    gone = set(draws.permutation(len(frames))[:count])
    return [frame for i, frame in enumerate(frames) if i not in gone]


def remembered(clip: TrainingClip, frames: list[int], draw: MemoryDraw) -> LyraMemory:
    """A memory of exactly these frames."""
    memory = LyraMemory(stride=draw.points_stride)
    for t in frames:
        memory = memory.remember(t, clip.depth[t], clip.w2c[t], clip.K[t])
    return memory
