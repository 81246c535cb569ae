"""Depth and a floor mask -> one exact plane, and things that stand on it.

A robot drives on the floor: every pixel labelled floor gets the plane's depth exactly. What stands
on the floor keeps its own depth profile but is scaled so that its foot meets the plane, and nothing
is left below it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

RANSAC_TRIALS = 600  # Finds a plane with 30 % inliers with certainty better than 1 - 1e-7.
RANSAC_POINTS = 20_000  # Points that trials are scored on; more change nothing but the time.
PLANE_TOLERANCE = 0.012
"""Distance from the plane that still counts, relative to the camera height (2 cm at 1.6 m)."""
LARGEST_TILT_DEG = 30.0  # Largest angle between the plane's normal and the expected up.
EDGE_LOG_DEPTH = 0.08
"""Step of ln(depth) between neighbours that separates two things (spec tcmonodepth_small)."""
FOOT_PERCENTILE = 75
"""Of the ratios floor / thing along a lower edge: parts that hang above the floor have small ones,
so the foot is found among the larger ones."""
LARGEST_CORRECTION = 2.0  # Most that a thing's depth is scaled by to meet the floor.
SNAP_HEIGHT = 0.015
"""Height above the plane, relative to the camera's, up to which a neighbour of the floor is floor:
about the unevenness of an estimate, less than the smallest thing a robot has to avoid."""


@dataclass(frozen=True)
class Plane:
    """The floor in camera axes: up . p = -height."""

    up: NDArray[np.float64]
    """Unit normal, pointing up, shape [3]."""
    height: float
    """Distance of the camera above it, in the units of the points."""
    rms: float
    """Root mean square distance of its inliers, in the same units."""


def fit_floor(
    points: NDArray[np.floating], expected_up: NDArray[np.floating], *, seed: int = 0
) -> Plane | None:
    """The plane that most candidate points agree on, or None when there is none.

    Args:
        points: Candidate floor points in camera axes, shape [n 3].
        expected_up: Up from the horizon; planes tilted further than 30 degrees are passed over.
        seed: Of the random triples.
    """
    if len(points) < 50:
        return None
    rng = np.random.default_rng(seed)
    sample = points[rng.permutation(len(points))[:RANSAC_POINTS]]
    triples = sample[rng.integers(len(sample), size=(RANSAC_TRIALS, 3))]
    normal = np.cross(triples[:, 1] - triples[:, 0], triples[:, 2] - triples[:, 0])
    size = np.linalg.norm(normal, axis=-1)
    normal = normal / np.maximum(size, 1e-12)[:, None]
    normal *= np.where(normal @ expected_up < 0, -1.0, 1.0)[:, None]
    height = -np.einsum("ij,ij->i", normal, triples[:, 0])
    fit = (size > 1e-9) & (height > 1e-3)
    fit &= normal @ expected_up > np.cos(np.radians(LARGEST_TILT_DEG))
    if not fit.any():
        return None
    normal, height = normal[fit], height[fit]
    votes = np.array([
        np.count_nonzero(np.abs(sample @ n + h) < PLANE_TOLERANCE * h)
        for n, h in zip(normal, height, strict=True)
    ])  # fmt: skip
    best = int(np.argmax(votes))
    return _refit(points, normal[best], float(height[best]))


def _refit(points: NDArray, up: NDArray, height: float) -> Plane:
    inside = np.abs(points @ up + height) < 2 * PLANE_TOLERANCE * height
    for _ in range(8):
        inliers = points[inside]
        centre = inliers.mean(0)
        _, _, axes = np.linalg.svd(np.linalg.qr(inliers - centre, mode="r"), full_matrices=False)
        up = axes[2] * np.sign(axes[2] @ up)
        height = float(-(centre @ up))
        inside = np.abs(points @ up + height) < PLANE_TOLERANCE * height
        if np.count_nonzero(inside) < 3:
            break
    residual = points[inside] @ up + height
    return Plane(up, height, float(np.sqrt(np.mean(residual**2))) if residual.size else 0.0)


def stand_on_floor(
    inverse: NDArray[np.floating],
    floor: NDArray[np.bool_],
    sky: NDArray[np.bool_],
    ground: NDArray[np.floating],
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Put the floor on its plane and everything else on the floor.

    Args:
        inverse: Inverse z-depth in 1 / camera heights, shape [h w].
        floor: Pixels labelled floor, shape [h w].
        sky: Pixels without depth, shape [h w].
        ground: Inverse z-depth of the plane in the same unit; negative above the horizon.

    Returns:
        The inverse depth (the plane on floor pixels, 0 in the sky) and the floor mask, grown by
        the neighbours that lie on the plane anyway.
    """
    inverse = scale_to_feet(inverse, floor, sky, ground)
    inverse = np.maximum(inverse, ground)
    low = (ground > 0) & (inverse - ground <= SNAP_HEIGHT * inverse) & ~sky
    labels, _ = ndimage.label(low | floor)
    joined = np.unique(labels[floor])
    floor = np.isin(labels, joined[joined > 0]) & (ground > 0)
    inverse = np.where(floor, ground, inverse)
    return np.where(sky, 0.0, inverse), floor


def scale_to_feet(
    inverse: NDArray[np.floating],
    floor: NDArray[np.bool_],
    sky: NDArray[np.bool_],
    ground: NDArray[np.floating],
) -> NDArray[np.float64]:
    """Scale each connected thing so that its foot has the depth of the floor there."""
    labels, count = things(inverse, floor | sky)
    below = np.zeros_like(floor)
    below[:-1] = floor[1:]
    foot = below & (labels > 0)
    ratio = np.zeros(inverse.shape)
    ratio[:-1] = ground[1:] / np.maximum(inverse[:-1], 1e-9)
    owner, values = labels[foot], ratio[foot]
    order = np.lexsort((values, owner))
    owner, values = owner[order], values[order]
    ids = np.arange(1, count + 1)
    first = np.searchsorted(owner, ids, "left")
    number = np.searchsorted(owner, ids, "right") - first
    pick = first + np.minimum((number * FOOT_PERCENTILE) // 100, np.maximum(number - 1, 0))
    factor = np.ones(count + 1)
    seen = number >= 3
    if seen.any():
        chosen = values[np.minimum(pick, len(values) - 1)]
        limited = np.clip(chosen, 1 / LARGEST_CORRECTION, LARGEST_CORRECTION)
        factor[1:] = np.where(seen, limited, 1.0)
    return inverse * factor[labels]


def things(
    inverse: NDArray[np.floating], outside: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], int]:
    """Label [h w] the regions between depth edges; 0 outside. Edge pixels join the nearest one."""
    logs = np.log(np.maximum(inverse, 1e-9))
    step = np.zeros(inverse.shape)
    across, along = np.abs(np.diff(logs, axis=1)), np.abs(np.diff(logs, axis=0))
    step[:, 1:] = across
    step[1:] = np.maximum(step[1:], along)
    labels, count = ndimage.label((step < EDGE_LOG_DEPTH) & ~outside)
    if count == 0:
        return labels, 0
    nearest = ndimage.distance_transform_edt(
        labels == 0, return_distances=False, return_indices=True
    )
    return np.where(outside, 0, labels[tuple(nearest)]), count
