"""Depth images with cameras -> where the points of one view land in another.

Everything that compares views by their geometry (reprojection error, depth consistency) goes
through here, so that they agree on what is visible.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from worldloom.scene.cameras import project, unproject
from worldloom.scene.frame import invert_rigid

EDGE = 0.05  # Neighbouring pixels whose inverse depths differ more lie across an edge.
HIDDEN = 0.10  # Points this far behind the surface that a view sees are hidden in it.
NEAR_M = 1e-3  # Points nearer than this to a camera's plane are behind it [m].


@dataclass(frozen=True)
class DepthView:
    """One camera and its depth."""

    depth: NDArray[np.floating]
    """z-depth [m], 0 = none, [h w]."""
    K: NDArray[np.float64]
    """Intrinsics in pixels, [3 3]."""
    c2w: NDArray[np.float64]
    """Camera to world, OpenCV axes [m], [4 4]."""


@dataclass(frozen=True)
class Landing:
    """Points of a first view that a second one sees."""

    source: NDArray[np.float64]
    """Where they are in the first view [px], [m 2]."""
    points: NDArray[np.float64]
    """World points as the first view has them [m], [m 3]."""
    target: NDArray[np.float64]
    """Where they land in the second view [px], [m 2]."""
    z: NDArray[np.float64]
    """z-depth with which they arrive [m], [m]."""
    seen: NDArray[np.float64]
    """z-depth that the second view has there [m], [m]."""


def land(first: DepthView, second: DepthView, *, step: int = 1) -> Landing:
    """Every `step`-th pixel of `first` in `second`, where that sees it.

    Left out: pixels without depth, points outside the second picture, points that fall on an edge
    or a gap of its depth, and points that lie more than 10 % behind the surface it sees. Points
    in front of that surface stay: there the two views contradict each other.
    """
    height, width = first.depth.shape
    rows, columns = np.mgrid[step // 2 : height : step, step // 2 : width : step]
    rows, columns = rows.ravel(), columns.ravel()
    inside = first.depth[rows, columns] > 0
    rows, columns = rows[inside], columns[inside]
    points = unproject(first.depth, first.K, first.c2w)[rows, columns]
    source = np.stack([columns, rows], -1) + 0.5
    uv, z = project(points, second.K, invert_rigid(second.c2w))
    ahead = z > NEAR_M
    source, points, uv, z = source[ahead], points[ahead], uv[ahead], z[ahead]
    seen = sample_depth(second.depth, uv)
    with np.errstate(divide="ignore", invalid="ignore"):
        good = (seen > 0) & (z / seen < 1 + HIDDEN)
    return Landing(source[good], points[good], uv[good], z[good], seen[good])


def sample_depth(depth: NDArray[np.floating], uv: NDArray[np.float64]) -> NDArray[np.float64]:
    """Depth [m] at image points [m 2]; 0 outside, in gaps and across edges.

    Inverse depth is interpolated, which is exact on planes.
    """
    height, width = depth.shape
    out = np.zeros(len(uv))
    with np.errstate(invalid="ignore"):
        x, y = uv[:, 0] - 0.5, uv[:, 1] - 0.5
        inside = (x >= 0) & (y >= 0) & (x <= width - 1) & (y <= height - 1)
    x, y = x[inside], y[inside]
    left, top = (
        np.minimum(x.astype(int), max(width - 2, 0)), np.minimum(y.astype(int), max(height - 2, 0)),
    )  # fmt: skip
    right, low = np.minimum(left + 1, width - 1), np.minimum(top + 1, height - 1)
    corners = np.stack([depth[top, left], depth[top, right], depth[low, left], depth[low, right]])
    a, b = x - left, y - top
    weights = np.stack([(1 - a) * (1 - b), a * (1 - b), (1 - a) * b, a * b])
    whole = (corners > 0).all(0)
    inverse = 1.0 / np.where(whole, corners, 1.0)
    smooth = inverse.max(0) - inverse.min(0) <= EDGE * inverse.max(0)
    values = np.where(whole & smooth, 1.0 / (weights * inverse).sum(0), 0.0)
    out[inside] = values
    return out
