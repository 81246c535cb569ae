"""Many frames' views of the floor -> one plane, and the height of every camera above it.

The floor below the first camera is found as the lowest level that much of the near surface lies on,
and its plane is fitted to all frames at once, each weighted by what it knows: a frame's tilt (which
a wrong camera rotation turns along) and the camera's height above the floor (which it does not).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from worldloom.generator.poses.floorview import FloorView, Samples, view_floor
from worldloom.generator.poses.similarity import cross_matrix, rotation_from_vector

Array = NDArray[np.float64]

LOWEST_SHARE = 0.5  # A level with this share of the best one's surface may be the floor.
BIN = 0.02  # Bin of the histogram of levels, in typical camera heights.
SMOOTH_BINS = 2.0  # Its smoothing [bins].
REACH = 4.0  # Frames within this many camera heights of the first one find the floor.
ROUNDS = 8  # Rounds in which the floor is followed to ever farther frames.
FIT_ROUNDS = 12  # Rounds of the joint fit.
TILT_DEG = 1.0  # Spread of the cameras' tilt errors to begin with, and where few frames tell.
CENTRE_SHARE = 0.005  # Error of a camera's centre, in camera heights, at least.
HUBER = 2.0  # Frames whose residual is larger than this many sigma count less.


@dataclass(frozen=True)
class Floor:
    """The plane that the first camera stands on: normal . x = offset."""

    normal: Array
    """Unit normal, pointing up, world axes, shape [3]."""
    offset: float
    """Elevation of the plane along the normal [unit]."""
    covariance: Array
    """Of two tilts [rad] about `basis` and of the offset at `centre` [unit], shape [3 3]."""
    basis: Array
    """Two unit vectors across the normal, shape [2 3]."""
    centre: Array
    """Where offset and tilt are independent of each other's arm, shape [3]."""
    frames: int
    """Frames that show it."""
    rms: float
    """Relative height error that is left between frames."""

    def height(self, point: ArrayLike) -> float:
        """Height of a point [3] above the plane [unit]."""
        return float(np.asarray(point, float) @ self.normal - self.offset)

    def height_sigma(self, point: ArrayLike) -> float:
        """Standard deviation of `height` [unit]."""
        turned = np.cross(self.basis, self.normal)
        arm = np.append(turned @ (np.asarray(point, float) - self.centre), -1.0)
        return float(np.sqrt(arm @ self.covariance @ arm))


def find_floor(samples: Sequence[Samples], up: Array) -> Floor | None:
    """The floor below the first camera, from a guess of up [3]; None where none is seen."""
    start = _first_level(samples, up)
    if start is None:
        return None
    height = start
    centres = np.stack([s.c2w[:3, 3] for s in samples])
    away = np.linalg.norm(centres - centres[0], axis=1)
    normal, offset, floor = up, float(centres[0] @ up) - height, None
    for k in range(ROUNDS):
        reach = REACH * height * 2.0**k
        views = [
            view_floor(s, normal, float(c @ normal) - offset)
            for s, c, d in zip(samples, centres, away, strict=True)
            if d <= reach
        ]
        views = [view for view in views if view is not None]
        if not views:
            return floor
        floor = joint_plane(views)
        normal, offset = floor.normal, floor.offset
        if reach > away.max() and k >= 2:
            break
    return floor


def joint_plane(views: Sequence[FloorView]) -> Floor:
    """One plane from many frames' views of it, with each frame's tilt error told from its depth's.

    Every view gives g = R^T up / height with its covariance; a wrong camera rotation adds a tilt
    of unknown spread, which is estimated from how much the frames differ.
    """
    centres = np.stack([v.c2w[:3, 3] for v in views])
    heights = np.array([v.height for v in views])
    normal = np.sum([v.up * v.pixels for v in views], axis=0)
    normal = normal / np.linalg.norm(normal)
    offset = float(np.median(centres @ normal - heights))
    tilt, weight = np.radians(TILT_DEG), np.ones(len(views))
    for _ in range(FIT_ROUNDS):
        basis, centre = across(normal), np.average(centres, axis=0, weights=weight)
        rows, rest, spread = _equations(views, normal, offset, basis, centre, tilt)
        inverse = np.linalg.inv(spread)
        size = np.sqrt(np.einsum("ni,nij,nj->n", rest, inverse, rest) / 3)
        weight = np.minimum(1.0, HUBER / np.maximum(size, 1e-12)) ** 2
        normal_matrix = np.einsum("n,nik,nij,njl->kl", weight, rows, inverse, rows)
        right = np.einsum("n,nik,nij,nj->k", weight, rows, inverse, rest)
        step = np.linalg.solve(normal_matrix, right)
        turned = rotation_from_vector(step[:2] @ basis) @ normal
        # The plane keeps its elevation at `centre` under the turn, plus the step.
        offset = float(centre @ turned) - (float(centre @ normal) - offset) + step[2]
        normal = turned
        tilt = _tilt_spread(views, normal, tilt)
    covariance = np.linalg.inv(normal_matrix) * max(1.0, float(np.mean(weight * size**2)))
    left = (centres @ normal - offset) / heights - 1
    rms = float(np.sqrt(np.average(left**2, weights=weight)))
    return Floor(normal, offset, covariance, basis, centre, len(views), rms)


def _equations(
    views: Sequence[FloorView],
    normal: Array,
    offset: float,
    basis: Array,
    centre: Array,
    tilt: float,
) -> tuple[Array, Array, Array]:
    """Rows [n 3 3] for (two tilts, offset at `centre`), residuals [n 3], covariances [n 3 3]."""
    rows, rest, spread = [], [], []
    for view in views:
        R, c = view.c2w[:3, :3], view.c2w[:3, 3]
        height = max(float(c @ normal) - offset, 1e-6)
        turned = np.stack([np.cross(b, normal) for b in basis], -1)
        # Height changes by the arm of the tilt, and falls when the plane rises.
        change = np.append((c - centre) @ turned, -1.0)
        local = R.T @ normal / height
        row = np.concatenate([R.T @ turned / height, np.zeros((3, 1))], 1)
        rows.append(row - np.outer(local / height, change))
        rest.append(view.plane - local)
        turn = cross_matrix(local) * tilt
        own = CENTRE_SHARE * local
        spread.append(view.covariance + turn @ turn.T + np.outer(own, own))
    return np.stack(rows), np.stack(rest), np.stack(spread)


def _tilt_spread(views: Sequence[FloorView], normal: Array, before: float) -> float:
    """Spread of the cameras' tilt errors [rad]: what the frames' own errors do not explain."""
    excess = []
    for view in views:
        sides = across(view.plane / np.linalg.norm(view.plane))
        own = np.trace(sides @ view.covariance @ sides.T) * view.height**2 / 2
        seen = float(np.sum(np.cross(view.up, normal) ** 2)) / 2
        excess.append(seen - own)
    # Median of an exponential variable is ln 2 of its mean.
    now = np.sqrt(max(float(np.median(excess)) / np.log(2), 1e-10))
    return float(np.sqrt(before * now)) if len(views) > 3 else before


def _first_level(samples: Sequence[Samples], up: Array) -> float | None:
    """Height of the first camera above the floor below it [unit], from a histogram of levels."""
    first = samples[0].c2w[:3, 3]
    drops, weights, below = [], [], []
    for s in samples:
        offset = s.offsets()
        drop = -offset @ up
        level = (s.normal @ up > np.cos(np.radians(20.0))) & (drop > 0)
        offset, drop = offset[level], drop[level]
        side = np.linalg.norm(offset + drop[:, None] * up, axis=1) / drop
        drops.append(drop)
        weights.append(1 / (1 + (side / 1.5) ** 4))
        below.append(drop + float((first - s.c2w[:3, 3]) @ up))
    if sum(map(len, drops)) < 100:
        return None
    typical = _weighted_median(np.concatenate(drops), np.concatenate(weights))
    away = [np.linalg.norm(s.c2w[:3, 3] - first) / (REACH * typical) for s in samples]
    mass = np.concatenate([w / (1 + d**4) for w, d in zip(weights, away, strict=True)])
    return _lowest_level(np.concatenate(below) / typical, mass, typical)


def _lowest_level(below: Array, mass: Array, typical: float) -> float | None:
    """The lowest level that carries much of the mass: its distance below the first camera."""
    from scipy.ndimage import gaussian_filter1d

    inside = (below > 0.1) & (below < 10)
    if not (mass[inside].sum() > 0):
        return None
    count, edges = np.histogram(
        below[inside], bins=np.arange(0, 10 + BIN, BIN), weights=mass[inside]
    )
    smooth = gaussian_filter1d(count, SMOOTH_BINS)
    peak = (smooth >= np.roll(smooth, 1)) & (smooth >= np.roll(smooth, -1))
    good = np.flatnonzero(peak & (smooth >= LOWEST_SHARE * smooth.max()))
    return float((edges[good[-1]] + 0.5 * BIN) * typical)


def _weighted_median(values: Array, weights: Array) -> float:
    order = np.argsort(values, kind="stable")
    total = np.cumsum(weights[order])
    return float(values[order[np.searchsorted(total, 0.5 * total[-1])]])


def across(normal: Array) -> Array:
    """Two unit vectors [2 3] across a unit vector and each other."""
    helper = np.eye(3)[np.argmin(np.abs(normal))]
    first = np.cross(normal, helper)
    first = first / np.linalg.norm(first)
    return np.stack([first, np.cross(normal, first)])
