"""What the memory remembers -> which frames close a loop: far apart in time, seeing one surface."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from worldloom.generator.memory.cache import POINT_STRIDE, VISIBLE_WITHIN_M, FrameCache
from worldloom.generator.memory.retrieval import coverage

APART_FRAMES = 40  # Frames closer in time than half a chunk are neighbours, not loops.
LEAST_COVER = 0.3  # Share of a view that the other frame has seen (spec 3.3).


@dataclass(frozen=True)
class Loop:
    """Two remembered frames that see the same surface."""

    first: int
    """Number of the earlier frame."""
    second: int
    """Number of the later frame."""
    cover: float
    """Share of the later frame's view that the earlier one sees, 0..1."""


def find_loops(
    cache: FrameCache, *, apart: int = APART_FRAMES, least_cover: float = LEAST_COVER
) -> list[Loop]:
    """Pairs of remembered frames that close a loop, the best covered first.

    Args:
        cache: The memory of one world.
        apart: Fewest frames between the two.
        least_cover: Smallest share of the later view that the earlier frame sees.
    """
    clouds = [entry.points for entry in cache.entries]
    found = []
    for entry in cache.entries:
        rows, columns = entry.depth.shape
        seen = coverage(
            clouds, entry.c2w, entry.K, (columns, rows),
            stride=POINT_STRIDE, visible_within=VISIBLE_WITHIN_M,
        )  # fmt: skip
        shares: NDArray[np.float64] = seen.mean((1, 2))
        for other, share in zip(cache.entries, shares, strict=True):
            if other.frame_id <= entry.frame_id - apart and share >= least_cover:
                found.append(Loop(other.frame_id, entry.frame_id, float(share)))
    return sorted(found, key=lambda loop: (-loop.cover, loop.first, loop.second))
