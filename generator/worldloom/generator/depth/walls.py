"""Floor of a view -> where the walls behind everything meet it, and how near they are.

Rooms are mostly convex, and a convex floor is convex in the picture too: the upper side of the
convex hull of the visible floor is the foot of the walls, also where things hide it. Where that
line leaves the picture it goes on along one of the room's two directions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from worldloom.generator.depth.geometry import ground_inverse_at, standing_factor_at

FARTHEST_HEIGHTS = 40.0  # Distance of walls at and above the horizon, in camera heights.
NEAREST_HEIGHTS = 0.35  # Walls are kept this far from the camera, in camera heights.
ALIGNED_DEG = 15.0  # Angle within which a line on the floor follows a direction of the room.
SHORTEST_END = 0.1  # Share of the picture's width from which an end of the line is judged.
BEND_PX = 1.5  # Distance from a straight line that counts as a corner [px].
BORDER = 0.02  # Share of the width within which a line counts as leaving the picture.
WALL_CHANCE = 0.5  # Chance that an edge of the floor is a wall, when nothing else is known.
FAR_PERCENTILE = 10  # Percentile of the nearness over the columns that counts as the farthest.
CHASES = 4  # Steps in which a pixel's upright line finds its foot; it is nearly straight.


@dataclass(frozen=True)
class Feet:
    """The walls behind everything, seen from each pixel."""

    nearness: NDArray[np.float64]
    """Inverse distance of the wall behind each pixel, in 1 / camera heights, shape [h w]."""
    row: NDArray[np.float64]
    """Row at which the wall in each column meets the floor, shape [w]; may lie outside."""
    column: NDArray[np.float64]
    """Column at which the upright line through each pixel meets that foot, shape [h w]."""


def find_feet(
    floor: NDArray[np.bool_],
    K: NDArray[np.floating],
    axes: NDArray[np.floating],
    *,
    sure: bool = True,
) -> Feet:
    """Walls behind everything.

    Where it is not sure that the floor ends at walls, each edge may as well be a kerb or the end of
    the light with everything beyond it: the expected nearness lies half-way to the farthest wall.

    Args:
        floor: Pixels of visible floor, shape [h w].
        K: Intrinsics [3 3] in its pixels.
        axes: Up and the two horizontal directions of the room in camera axes, shape [3 3].
        sure: Whether the floor surely ends at walls.
    """
    height, width = floor.shape
    chain = _simple(_chain(ndimage.binary_opening(floor, iterations=1)))
    columns = np.arange(width) + 0.5
    if len(chain) < 2:
        row = np.full(width, float(height))
    else:
        chain = _turned_end(chain, K, axes, width)
        turned = (_mirror(chain, width), _mirror_K(K, width), _mirror_axes(axes))
        mirrored = _turned_end(*turned, width)
        chain = _mirror(mirrored, width)
        row = np.interp(columns, chain[:, 0], chain[:, 1])
    nearness = _nearness(columns, row, K, axes[0])
    if not sure:
        far = np.minimum(nearness, np.percentile(nearness, FAR_PERCENTILE))
        nearness = WALL_CHANCE * nearness + (1 - WALL_CHANCE) * far
    column = _foot_columns(row, K, axes[0], floor.shape)
    return Feet(np.interp(column, columns, nearness), row, column)


def _chain(floor: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Upper side of the convex hull of the floor: vertices (u, v) from left to right, [n 2]."""
    seen = np.flatnonzero(floor.any(0))
    points = np.stack([seen + 0.5, floor.argmax(0)[seen]], -1).astype(float)
    chain: list[NDArray] = []
    for point in points:
        while len(chain) >= 2 and _turn(chain[-2], chain[-1], point) <= 0:
            chain.pop()
        chain.append(point)
    return np.array(chain).reshape(-1, 2)


def _turn(a: NDArray, b: NDArray, c: NDArray) -> float:
    return float((b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0]))


def _turned_end(chain: NDArray, K: NDArray, axes: NDArray, width: int) -> NDArray[np.float64]:
    """The chain with a believable left end, drawn on to the left border.

    An end that leaves the picture and follows no direction of the room is no wall: something
    hides the floor there, and the wall goes on along the room from the next believable corner.
    """
    whole, short = chain, SHORTEST_END * width
    if chain[0, 0] < BORDER * width:
        while len(chain) > 2 and _misaligned(chain[0], chain[1], K, axes):
            chain = chain[1:]
    if len(chain) < len(whole) and chain[0, 0] > short:
        rows = [chain[0, 1] - s * chain[0, 0] for s in _room_slopes(chain[0], K, axes)]
        enclosing = [row for row in rows if np.isfinite(row) and row <= whole[0, 1]]
        row = max(enclosing, default=whole[0, 1])
        return np.concatenate([[[0.0, row]], chain])
    chain = whole
    if chain[0, 0] > 1.0:
        slope = _slope(chain[0], chain[1], K, axes, width)
        chain = np.concatenate([[[0.0, chain[0, 1] - slope * chain[0, 0]]], chain])
    return chain


def _simple(chain: NDArray) -> NDArray[np.float64]:
    """The chain without the vertices that hardly bend it: pixels are steps, walls are not."""
    kept = list(chain)
    while len(kept) > 2:
        points = np.array(kept)
        before, here, after = points[:-2], points[1:-1], points[2:]
        span = np.maximum(after[:, 0] - before[:, 0], 1e-9)
        line = before[:, 1] + (after[:, 1] - before[:, 1]) * (here[:, 0] - before[:, 0]) / span
        bend = np.abs(here[:, 1] - line) / np.hypot(1.0, (after[:, 1] - before[:, 1]) / span)
        if bend.min() > BEND_PX:
            break
        del kept[int(np.argmin(bend)) + 1]
    return np.array(kept)


def _misaligned(a: NDArray, b: NDArray, K: NDArray, axes: NDArray) -> bool:
    ends = np.stack([_on_floor(p, K, axes) for p in (a, b)])
    step = ends[1] - ends[0]
    along = np.degrees(np.arctan2(step @ axes[2], step @ axes[1])) % 90.0
    return bool(min(along, 90.0 - along) > ALIGNED_DEG)


def _on_floor(point: NDArray, K: NDArray, axes: NDArray) -> NDArray[np.float64]:
    """Floor point in camera axes [3] at unit camera height seen at image point (u, v)."""
    ray = np.array([(point[0] - K[0, 2]) / K[0, 0], (point[1] - K[1, 2]) / K[1, 1], 1.0])
    return ray / max(float(-(ray @ axes[0])), 1.0 / FARTHEST_HEIGHTS)


def _room_slopes(at: NDArray, K: NDArray, axes: NDArray) -> list[float]:
    """Slopes dv/du in the picture of the room's two directions on the floor at `at`."""
    x, y = (at[0] - K[0, 2]) / K[0, 0], (at[1] - K[1, 2]) / K[1, 1]
    slopes = []
    for axis in axes[1:]:
        du, dv = K[0, 0] * (axis[0] - axis[2] * x), K[1, 1] * (axis[1] - axis[2] * y)
        slopes.append(float(dv / du) if abs(du) > 1e-6 else np.inf)
    return slopes


def _slope(first: NDArray, second: NDArray, K: NDArray, axes: NDArray, width: int) -> float:
    """Slope with which the line goes on beyond `first`: along the room, else as before."""
    before = (second[1] - first[1]) / max(second[0] - first[0], 1.0)
    near = [s for s in _room_slopes(first, K, axes) if np.isfinite(s) and s <= 0.05]
    if not near or second[0] - first[0] < BORDER * width:
        return min(before, 0.0)
    return min(near, key=lambda s: abs(np.arctan(s) - np.arctan(before)))


def _mirror(chain: NDArray, width: int) -> NDArray[np.float64]:
    return (chain * [-1, 1] + [width, 0])[::-1]


def _mirror_K(K: NDArray, width: int) -> NDArray[np.float64]:
    out = np.array(K, float)
    out[0, 2] = width - K[0, 2]
    return out


def _mirror_axes(axes: NDArray) -> NDArray[np.float64]:
    return axes * [-1, 1, 1]


def _nearness(column: NDArray, row: NDArray, K: NDArray, up: NDArray) -> NDArray[np.float64]:
    ground = np.maximum(ground_inverse_at(column, row, K, up), 1.0 / FARTHEST_HEIGHTS)
    ahead = np.maximum(standing_factor_at(column, row, K, up), 1e-3)
    return np.clip(ground / ahead, 1.0 / FARTHEST_HEIGHTS, 1.0 / NEAREST_HEIGHTS)


def _foot_columns(
    row: NDArray, K: NDArray, up: NDArray, shape: tuple[int, int]
) -> NDArray[np.float64]:
    """Column [h w] where the upright line through each pixel meets the foot of the walls."""
    height, width = shape
    u, v = np.arange(width) + 0.5, np.arange(height)[:, None] + 0.5
    du = K[0, 0] * (up[0] - up[2] * (u - K[0, 2]) / K[0, 0])
    dv = K[1, 1] * (up[1] - up[2] * (v - K[1, 2]) / K[1, 1])
    slope = du / np.where(np.abs(dv) < 1e-6, -1e-6, dv)
    column = np.broadcast_to(u, shape).copy()
    for _ in range(CHASES):
        foot = np.clip(np.interp(column, u, row), -height, 1.5 * height)
        column = u + slope * (foot - v)
    return np.clip(column, 0.5, width - 0.5)
