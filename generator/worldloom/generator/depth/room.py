"""Looks and the main directions -> the open floor as a rectangle between walls.

Walls mostly run along the two horizontal directions that the edges of a picture follow. Of all
rectangles on the floor around the camera, the open floor is the one whose inside looks most unlike
its outside: the mutual information between "inside" and the looks of the pixels is largest. No
colour or texture has to be known beforehand. (Box layouts as in Hedau, Hoiem, Forsyth 2009, with
another score.)
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

NEAREST, FARTHEST, STEPS = 0.4, 14.0, 14
"""Distances of walls that are tried, in camera heights; a step is a third."""
LEAST_GROUND = 0.03  # Inverse distance [1 / camera height] below which floor is a thin line.
REFINEMENTS = (0.85, 0.93, 1.0, 1.08, 1.18)  # Factors tried on each wall afterwards.
CLEAR_INFORMATION, CLEAR_SHARE = 0.42, 0.7
"""Information of all looks [nats], and share of the uncertainty about being inside that colours
take away, from which on the rectangle is taken for the room: a little below the least that the
truth renders of rooms have (0.47 and 0.71)."""
BATCH = 2000  # Rectangles scored at a time; bounds the memory.


@dataclass(frozen=True)
class OpenFloor:
    """The rectangle of open floor."""

    inside: NDArray[np.bool_]
    """Pixels that see it, shape [h w]."""
    information: float
    """How much being inside tells about the looks of a pixel [nats]."""
    share: float
    """Share of the uncertainty about being inside that the first look takes away, 0..1."""

    @property
    def clear(self) -> bool:
        """Whether inside and outside look so different that this is surely the room."""
        return self.information > CLEAR_INFORMATION and self.share > CLEAR_SHARE


def open_floor(
    looks: Sequence[NDArray[np.int64]],
    rays: NDArray[np.floating],
    ground: NDArray[np.floating],
    axes: NDArray[np.floating],
) -> OpenFloor:
    """The rectangle of open floor.

    Args:
        looks: Classes of every pixel by several cues, each [h w].
        rays: Directions of the pixels in camera axes with z = 1, shape [h w 3].
        ground: Inverse depth of the floor plane at unit camera height, shape [h w].
        axes: Up and the two horizontal directions of edges in camera axes, shape [3 3].
    """
    below = ground > LEAST_GROUND
    if not below.any():
        return OpenFloor(below, 0.0, 0.0)
    points = rays[below] / ground[below][:, None]
    first, second = points @ axes[1], points @ axes[2]
    offsets = (first, -first, second, -second)
    table = [_one_hot(look, below) for look in looks]
    steps = np.append(np.geomspace(NEAREST, FARTHEST, STEPS), np.inf)
    best, information = _best(offsets, [steps] * 4, table)
    for _ in range(2):
        best, information = _best(offsets, [d * np.array(REFINEMENTS) for d in best], table)
    inside = np.zeros(below.shape, bool)
    inside[below] = np.all([o <= d for o, d in zip(offsets, best, strict=True)], 0)
    part = float(np.clip(inside.mean(), 1e-6, 1 - 1e-6))
    unsure = -(part * np.log(part) + (1 - part) * np.log(1 - part))
    first = float(_information(inside[below][None], *table[0])[0])
    return OpenFloor(inside, information, first / unsure)


def _one_hot(
    look: NDArray[np.int64], below: NDArray[np.bool_]
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Looks of the pixels below the horizon as one-hot rows, and the counts of all pixels."""
    count = int(look.max()) + 1
    return np.eye(count, dtype=np.float32)[look[below]], np.bincount(look.ravel(), minlength=count)


def _best(
    offsets: Sequence[NDArray], distances: Sequence[NDArray], table: Sequence[tuple]
) -> tuple[list[float], float]:
    """The four distances whose rectangle has the highest score, and that score."""
    walls: list[list[tuple[float, NDArray]]] = []
    for offset, tried in zip(offsets, distances, strict=True):
        # Walls that cut off the same pixels are one and the same here.
        distinct: dict[bytes, tuple[float, NDArray]] = {}
        for distance in tried:
            beyond = offset > distance
            distinct.setdefault(beyond.tobytes(), (float(distance), beyond))
        walls.append(list(distinct.values()))
    choices = np.array(list(itertools.product(*(range(len(side)) for side in walls))))
    beyond = [np.stack([mask for _, mask in side]) for side in walls]
    scores = []
    for part in np.array_split(choices, max(1, len(choices) // BATCH)):
        out = beyond[0][part[:, 0]]
        for side in (1, 2, 3):
            out = out | beyond[side][part[:, side]]
        scores.append(sum(_information(~out, *entry) for entry in table))
    score = np.concatenate(scores)
    winner = choices[int(np.argmax(score))]
    return [walls[side][winner[side]][0] for side in range(4)], float(score.max())


def _information(
    inside: NDArray[np.bool_], one_hot: NDArray[np.float32], total: NDArray[np.floating]
) -> NDArray[np.float64]:
    """Mutual information [t] in nats between being inside [t p] and the look of a pixel."""
    size = total.sum()
    floor = inside.astype(np.float32) @ one_hot
    # A pinch of every look on both sides keeps the logarithms finite.
    pinch = 0.002 * size / len(total)
    p_in = (floor + pinch) / size
    p_out = (total - floor + pinch) / size
    p_look = p_in + p_out

    def part(p: NDArray) -> NDArray:
        return (p * np.log(p / (p.sum(1, keepdims=True) * p_look))).sum(1)

    return part(p_in) + part(p_out)
