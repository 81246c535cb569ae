"""Depth of keyframes -> depth consistency: median |dz| / z of each depth carried into others.

Between neighbours it tells how steady the depth is; between keyframes far apart in time that see
the same place it tells how much of it is lost over a loop (spec reconstruction 5.5).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from worldloom.generator.evaluate.correspond import DepthView, land
from worldloom.generator.evaluate.reprojection import neighbours
from worldloom.scene.errors import InvalidRequest

STEP = 2  # Every second pixel of the record in both directions.
APART_M, APART_DEG = 1.0, 30.0
"""Keyframes that far apart at most are taken to see the same place."""
PAIRS_MAX = 60  # Pairs far apart in time that are compared.


@dataclass(frozen=True)
class DepthAgreement:
    """How well depths carried between keyframes agree."""

    median: float
    """Median of |z carried - z there| / z there."""
    within_5_percent: float
    """Share of the points that agree within 5 %."""
    pairs: int
    """Ordered pairs of keyframes."""
    points: int


def between_neighbours(views: Sequence[DepthView]) -> DepthAgreement:
    """Agreement of every keyframe with the next one.

    Raises:
        InvalidRequest: No two of them see the same.
    """
    return agreement(neighbours(views))


def between_visits(
    views: Sequence[DepthView], frame_id: Sequence[int], *, apart: int
) -> DepthAgreement:
    """Agreement of keyframes at least `apart` frames apart that stand close to each other.

    Raises:
        InvalidRequest: There is no such pair, or none sees the same.
    """
    pairs = []
    for j, second in enumerate(views):
        for i, first in enumerate(views[:j]):
            if frame_id[j] - frame_id[i] >= apart and _close(first, second):
                pairs.append((first, second))
    if not pairs:
        raise InvalidRequest(
            f"no two of {len(views)} keyframes are {apart} frames apart and within "
            f"{APART_M:g} m and {APART_DEG:g} degrees; the path returns to no place"
        )
    chosen = np.unique(np.linspace(0, len(pairs) - 1, min(len(pairs), PAIRS_MAX)).round())
    return agreement([pairs[int(k)] for k in chosen])


def agreement(pairs: Sequence[tuple[DepthView, DepthView]]) -> DepthAgreement:
    """Agreement over ordered pairs of views.

    Raises:
        InvalidRequest: No pair sees a common point.
    """
    errors = []
    for first, second in pairs:
        there = land(first, second, step=STEP)
        errors.append(np.abs(there.z - there.seen) / there.seen)
    every = np.concatenate(errors) if errors else np.zeros(0)
    if not every.size:
        raise InvalidRequest(
            f"{len(pairs)} pairs of keyframes share no point; depth consistency needs two "
            "keyframes with depth that see the same surface"
        )
    return DepthAgreement(
        float(np.median(every)), float((every <= 0.05).mean()), len(pairs), every.size
    )


def _close(a: DepthView, b: DepthView) -> bool:
    away = np.linalg.norm(a.c2w[:3, 3] - b.c2w[:3, 3])
    # Looking the same way is enough: a rolled camera sees the same place.
    cosine = float(np.clip(a.c2w[:3, 2] @ b.c2w[:3, 2], -1, 1))
    return bool(away <= APART_M and np.degrees(np.arccos(cosine)) <= APART_DEG)
