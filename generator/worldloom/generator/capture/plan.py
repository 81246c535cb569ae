"""Poses of a capture -> which of its frames each frame of the world shows, and the keyframes.

The pipeline works in chunks of 80 frames, a capture has as many as it has: the world's frames run
through the capture's in equal steps and show the nearest one. Keyframes are those of them between
which the camera has really moved, however fast the capture was.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from worldloom.scene.frame import turn_angle
from worldloom.scene.path import CHUNK_FRAMES

MOVE_SHARE = 0.12  # Move, in typical depths, or
TURN_RAD = 0.15  # turn after which a view says enough new to be a keyframe.
PER_CHUNK = 10  # Keyframes of a chunk on average: every 8th frame, as with the other engines.
KEYFRAMES_FREE = 41  # A capture may have this many in any case.
WIDEN = 1.15  # Factor of the step while there are too many.


@dataclass(frozen=True)
class Plan:
    """What the frames of the world show."""

    shown: NDArray[np.int64]
    """Capture frame of each frame of the world, shape [1 + 80 n]; never falling."""
    keyframes: frozenset[int]
    """Frames of the world that are keyframes; each chunk of 80 has one."""


def plan_frames(
    c2w: NDArray[np.float64],
    usable: NDArray[np.bool_],
    frames: int,
    typical_depth: float,
) -> Plan:
    """Spread a capture over the frames of a world.

    Args:
        c2w: Poses of the capture, [n 4 4].
        usable: Which of its frames have a depth to come, [n]; the first one has.
        frames: Frames of the world, 1 + 80 n.
        typical_depth: Median depth of the capture, in the unit of the poses.
    """
    shown = np.rint(np.linspace(0, len(c2w) - 1, frames)).astype(np.int64)
    numbers, first_shown = np.unique(shown, return_index=True)
    good = usable[numbers]
    chosen = _spaced(c2w[numbers[good]], typical_depth, _budget(int(good.sum()), frames))
    keyframes = set(first_shown[good][chosen].tolist())
    for first in range(1, frames, CHUNK_FRAMES):
        chunk = range(first, first + CHUNK_FRAMES)
        if keyframes.isdisjoint(chunk):
            keyframes.add(_fallback(chunk, shown, usable))
    return Plan(shown, frozenset(keyframes | {0}))


def _budget(usable: int, frames: int) -> int:
    return min(usable, max(KEYFRAMES_FREE, 1 + PER_CHUNK * (frames - 1) // CHUNK_FRAMES))


def _spaced(c2w: NDArray[np.float64], typical_depth: float, budget: int) -> NDArray[np.int64]:
    """Places of at most `budget` of the poses [m 4 4] that differ enough; the first is one."""
    step = 1.0
    while True:
        chosen = [0]
        for i in range(1, len(c2w)):
            before = c2w[chosen[-1]]
            move = float(np.linalg.norm(c2w[i, :3, 3] - before[:3, 3])) / typical_depth
            turn = float(turn_angle(before[:3, :3], c2w[i, :3, :3]))
            if move / MOVE_SHARE + turn / TURN_RAD >= step:
                chosen.append(i)
        if len(chosen) <= max(budget, 1):
            return np.array(chosen)
        step *= WIDEN


def _fallback(chunk: range, shown: NDArray[np.int64], usable: NDArray[np.bool_]) -> int:
    """The last frame of a chunk, if possible one that has a depth."""
    good = [i for i in chunk if usable[shown[i]]]
    return good[-1] if good else chunk[-1]
