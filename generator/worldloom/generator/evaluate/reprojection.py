"""Depth and cameras of keyframes -> reprojection error [px]: do neighbouring views agree?

The paper prints the residual of DROID-SLAM's final bundle adjustment; that network is not used
here. Instead, two definitions of our own (spec reconstruction 5.5), on a grid of every 8th pixel:

* exact, where the true geometry is known: a pixel of one keyframe is carried to the next one by
  the world's own depth and cameras, and compared with where it truly goes;
* round trip, elsewhere: it is carried to the next keyframe, and back by that one's depth.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from worldloom.generator.evaluate.correspond import NEAR_M, DepthView, land
from worldloom.scene.cameras import project
from worldloom.scene.errors import InvalidRequest
from worldloom.scene.frame import invert_rigid

GRID_PX = 8  # Grid of DROID-SLAM, in pixels of the video.


@dataclass(frozen=True)
class Reprojection:
    """Residuals between neighbouring keyframes, in pixels of the video."""

    mean_px: float
    median_px: float
    points: int


def round_trip(views: Sequence[DepthView], *, pixel: float = 1.0) -> Reprojection:
    """Residuals there and back between neighbours.

    Args:
        views: Keyframes in order of time.
        pixel: Pixels of the video in one pixel of `views`.

    Raises:
        InvalidRequest: There are fewer than two views, or no two of them see the same.
    """
    residuals = []
    for first, second in neighbours(views):
        there = land(first, second, step=_step(pixel))
        # Behind a pixel of the second view lies what that view has there, not what was carried.
        back = _lift(there.target, there.seen, second)
        uv, z = project(back, first.K, invert_rigid(first.c2w))
        ahead = z > NEAR_M
        residuals.append(np.linalg.norm(uv[ahead] - there.source[ahead], axis=1))
    return _summary(residuals, pixel)


def exact(
    views: Sequence[DepthView], truth: Sequence[DepthView], *, pixel: float = 1.0
) -> Reprojection:
    """Residuals against where pixels truly go.

    Args:
        views: Keyframes as the world has them, in order of time.
        truth: The same cameras and depths as they truly are.
        pixel: Pixels of the video in one pixel of `views`.

    Raises:
        InvalidRequest: Numbers differ, or no two views see the same.
    """
    if len(views) != len(truth):
        raise InvalidRequest(f"{len(views)} keyframes are compared with {len(truth)} true ones")
    residuals = []
    for (first, second), (first_true, second_true) in zip(
        neighbours(views), neighbours(truth), strict=True
    ):
        true = land(first_true, second_true, step=_step(pixel))
        column, row = (true.source - 0.5).astype(int).T
        depth = first.depth[row, column].astype(float)
        carried = _lift(true.source, depth, first)
        uv, z = project(carried, second.K, invert_rigid(second.c2w))
        good = (depth > 0) & (z > NEAR_M)
        residuals.append(np.linalg.norm(uv[good] - true.target[good], axis=1))
    return _summary(residuals, pixel)


def neighbours(views: Sequence[DepthView]) -> list[tuple[DepthView, DepthView]]:
    """Every view with the next one, and back."""
    forth = list(pairwise(views))
    return forth + [(b, a) for a, b in forth]


def _step(pixel: float) -> int:
    return max(1, round(GRID_PX / pixel))


def _lift(uv: NDArray[np.float64], z: NDArray[np.float64], view: DepthView) -> NDArray[np.float64]:
    """World points [m 3] at image points [m 2] with z-depth [m]."""
    x = (uv[:, 0] - view.K[0, 2]) / view.K[0, 0]
    y = (uv[:, 1] - view.K[1, 2]) / view.K[1, 1]
    local = np.stack([x * z, y * z, z], -1)
    return local @ view.c2w[:3, :3].T + view.c2w[:3, 3]


def _summary(residuals: list[NDArray[np.float64]], pixel: float) -> Reprojection:
    every = np.concatenate(residuals) if residuals else np.zeros(0)
    if not every.size:
        raise InvalidRequest(
            f"{len(residuals)} pairs of neighbouring keyframes share no point; reprojection "
            "needs two keyframes with depth that see the same surface"
        )
    every = every * pixel
    return Reprojection(float(every.mean()), float(np.median(every)), every.size)
