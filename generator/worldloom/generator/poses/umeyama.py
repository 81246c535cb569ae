"""Corresponding cameras or points in two frames -> the similarity between them.

Closed form of Umeyama (1991), spec reconstruction 1.3; with the axes of the cameras, which hold the
turn about a straight path (8 row 12); and robust, trimmed and joint forms (1.6 and 8 row 4).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from worldloom.generator.poses.similarity import Similarity, rotation_vector
from worldloom.scene.errors import InvalidRequest

Array = NDArray[np.float64]

LEAST_SCALE = 1e-6  # Scales are held above this (spec 1.3).
RETRY_SPREAD = 1e-6  # Amplitude of the offsets that a degenerate path gets (spec 1.3).
RETRY_TURNS = (0.07, 0.11, 0.13)  # Turns a camera of their sine, cosine and sine (spec 1.3).
STILL = 1e-9
"""Spread of centres, relative to their distance from the origin, below which they coincide."""
AXIS_ROUNDS = 20  # Scale and rotation settle in a few rounds; more cost nothing.
CAMERA_TOTAL, POINT_TOTAL = 10.0, 1.0  # Total weights of a joint fit (spec 1.6 step 4).
TRIM_QUANTILE, TRIM_ROUNDS = 0.8, 3  # Points that a refit keeps, and refits (spec 1.6 step 5).
LEAST_PAIRS = 1000  # Fewer valid pairs of points leave the cameras alone (spec 1.6 step 6).
NEAREST_DEPTH, WEIGHT_CAP = 1e-3, 98.0  # Weights of points (spec 1.6 step 3).
HUBER_DELTA, HUBER_ROUNDS = 0.1, 5
"""Residual, relative to the depth, up to which a point counts in full; rounds (spec 8 row 4)."""


def fit_points(
    source: ArrayLike, target: ArrayLike, weights: ArrayLike | None = None, *, rigid: bool = False
) -> Similarity:
    """The similarity that takes points to points with the least weighted squared error.

    Args:
        source: Points [n 3].
        target: Their places in the target frame [n 3].
        weights: How much each pair counts [n]; pairs with a NaN or infinity never do.
        rigid: Hold the scale at 1.

    Raises:
        InvalidRequest: Fewer than 3 usable pairs, or all on one line or point.
    """
    source, target, weights = _usable_pairs(source, target, weights)
    covariance, variance, means = _moments(source, target, weights)
    rotation, values, signs = _rotation(covariance)
    if values[1] <= 1e-12 * max(values[0], 1e-300):
        raise InvalidRequest(
            f"the {len(source)} points lie on a line or a point (singular values "
            f"{values[0]:.3g}, {values[1]:.3g}), so the turn about it is unknown; give points that "
            "spread in two directions, or cameras with their axes"
        )
    scale = 1.0 if rigid else max(float(values @ signs) / variance, LEAST_SCALE)
    return Similarity(scale, rotation, means[1] - scale * rotation @ means[0])


def fit_centres(source_c2w: ArrayLike, target_c2w: ArrayLike) -> Similarity:
    """The similarity of two paths from the camera centres alone, as released (spec 1.3).

    A path on a line or a point leaves the turn undetermined; as in the released code both paths
    then get the same tiny offsets, which pick one. Prefer `fit_similarity`.

    Args:
        source_c2w: Cameras [n 4 4] in the source frame.
        target_c2w: The same cameras [n 4 4] in the target frame.

    Raises:
        InvalidRequest: The lists differ in length, or hold fewer than 3 cameras.
    """
    source, target, _ = _usable_cameras(source_c2w, target_c2w, None, least=3)
    a, b = source[:, :3, 3], target[:, :3, 3]
    weights = np.ones(len(a))
    values = _rotation(_moments(a, b, weights)[0])[1]
    if np.count_nonzero(values > np.finfo(float).eps) < 2:
        turn = 2 * np.pi * np.arange(len(a))[:, None] * np.array(RETRY_TURNS)
        offset = RETRY_SPREAD * np.stack(
            [np.sin(turn[:, 0]), np.cos(turn[:, 1]), np.sin(turn[:, 2])], -1
        )
        a, b = a + offset, b + offset
    covariance, variance, means = _moments(a, b, weights)
    rotation, values, signs = _rotation(covariance)
    scale = max(float(values @ signs) / max(variance, 1e-300), LEAST_SCALE)
    return Similarity(scale, rotation, means[1] - scale * rotation @ means[0])


def fit_similarity(
    source_c2w: ArrayLike,
    target_c2w: ArrayLike,
    *,
    weights: ArrayLike | None = None,
    axis_share: float = 0.2,
) -> Similarity:
    """The similarity of two paths from the camera centres and axes (spec 1.3 [X], 8 row 12).

    Every camera adds its centre and the three ends of its axes; the axes are `axis_share` of the
    path long in the target, and as long in the source as the scale makes them, so that they hold
    the rotation and not the scale. Cameras that share one centre give scale 1.

    Args:
        source_c2w: Cameras [n 4 4] in the source frame.
        target_c2w: The same cameras [n 4 4] in the target frame.
        weights: How much each camera counts [n]; cameras with a NaN never do.
        axis_share: Length of the axes as a share of the path's.

    Raises:
        InvalidRequest: The lists differ in length, or hold no usable camera.
    """
    source, target, weights = _usable_cameras(source_c2w, target_c2w, weights, least=1)
    a, b = source[:, :3, 3], target[:, :3, 3]
    covariance, variance, means = _moments(a, b, weights)
    axes = np.einsum("n,nij,nkj->ik", weights / weights.sum(), target[:, :3, :3], source[:, :3, :3])
    still = min(_spread(a), _spread(b)) <= STILL
    length = 1.0 if still else 2 * axis_share * np.linalg.norm(b - means[1], axis=1).max()
    scale, rotation = 1.0, _rotation(axes)[0]
    for _ in range(AXIS_ROUNDS if not still else 0):
        before = scale
        scale = max(float(np.sum(rotation * covariance)) / variance, LEAST_SCALE)
        rotation = _rotation(scale * covariance + length**2 * axes)[0]
        if abs(scale - before) <= 1e-14 * scale:
            break
    return Similarity(scale, rotation, means[1] - scale * rotation @ means[0])


def fit_points_robust(
    source: ArrayLike,
    target: ArrayLike,
    weights: ArrayLike | None = None,
    *,
    unit: ArrayLike = 1.0,
    delta: float = HUBER_DELTA,
    rounds: int = HUBER_ROUNDS,
    rigid: bool = False,
) -> Similarity:
    """`fit_points`, reweighted by Huber's rule (spec 8 row 4).

    Args:
        source: Points [n 3].
        target: Their places in the target frame [n 3].
        weights: How much each pair counts before its residual is known [n].
        unit: What residuals are divided by [n] or one number: the depth makes `delta` relative.
        delta: Residual in these units up to which a pair counts in full.
        rounds: Times that weights and fit take turns.
        rigid: Hold the scale at 1.

    Raises:
        InvalidRequest: As `fit_points`.
    """
    source, target = np.asarray(source, float), np.asarray(target, float)
    base = np.ones(len(source)) if weights is None else np.asarray(weights, float)
    # A pair counts by the inverse square of its unit, as a least-squares fit in these units does.
    unit = np.broadcast_to(np.asarray(unit, float), base.shape)
    base = base / np.maximum(unit, 1e-9) ** 2
    found = fit_points(source, target, base, rigid=rigid)
    for _ in range(rounds):
        residual = np.linalg.norm(target - found.apply(source), axis=1) / np.maximum(unit, 1e-9)
        factor = np.minimum(1.0, delta / np.maximum(residual, 1e-12))
        found = fit_points(source, target, base * factor, rigid=rigid)
    return found


def depth_weights(depth: ArrayLike) -> Array:
    """Weights [n] of the points of one view from their depth: near ones count (spec 1.6 step 3)."""
    z = np.asarray(depth, float)
    good = np.isfinite(z) & (z > NEAREST_DEPTH)
    weight = np.where(good, 1 / np.maximum(z, NEAREST_DEPTH), 0.0)
    if not good.any():
        return weight
    weight = np.minimum(weight, np.percentile(weight[good], WEIGHT_CAP))
    return weight / weight[good].mean()


def fit_joint(
    source_c2w: ArrayLike,
    target_c2w: ArrayLike,
    source_points: ArrayLike,
    target_points: ArrayLike,
    weights: ArrayLike | None = None,
    *,
    trim: float = TRIM_QUANTILE,
    least_pairs: int = LEAST_PAIRS,
) -> Similarity:
    """One similarity from shared cameras and shared points (spec 1.6 steps 1 to 6).

    The cameras weigh 10 in all and are never trimmed, the points weigh 1 in all; up to three refits
    keep the points whose residual over the root of their weight is within the 0.8 quantile. With
    too few pairs of points the cameras decide alone, with their axes.

    Args:
        source_c2w: Cameras [n 4 4] in the source frame.
        target_c2w: The same cameras [n 4 4] in the target frame.
        source_points: Points [m 3] in the source frame.
        target_points: The same points [m 3] in the target frame.
        weights: Of the points [m], as `depth_weights` gives them.
        trim: Quantile of the residuals up to which points are kept.
        least_pairs: Fewest pairs that are used.

    Raises:
        InvalidRequest: The cameras are unusable.
    """
    cameras = _usable_cameras(source_c2w, target_c2w, None, least=1)
    points = _usable_pairs(source_points, target_points, weights, least=0)
    if len(points[0]) < max(least_pairs, 3):
        return fit_similarity(source_c2w, target_c2w)
    share = CAMERA_TOTAL / len(cameras[0])
    even = points[2] / points[2].mean()

    def fit(kept: NDArray[np.bool_]) -> Similarity:
        mass = POINT_TOTAL * points[2][kept] / points[2][kept].sum()
        return fit_points(
            np.concatenate([cameras[0][:, :3, 3], points[0][kept]]),
            np.concatenate([cameras[1][:, :3, 3], points[1][kept]]),
            np.concatenate([np.full(len(cameras[0]), share), mass]),
        )

    return _trimmed(fit, points[0], points[1], even, trim)


def camera_errors(source_c2w: ArrayLike, target_c2w: ArrayLike) -> tuple[Array, Array]:
    """Distance of the centres [n] and angle of the axes [n, rad] between two camera lists."""
    a, b = np.asarray(source_c2w, float), np.asarray(target_c2w, float)
    turn = np.swapaxes(a[:, :3, :3], -1, -2) @ b[:, :3, :3]
    away = np.linalg.norm(a[:, :3, 3] - b[:, :3, 3], axis=1)
    return away, np.linalg.norm(rotation_vector(turn), axis=1)


def _trimmed(
    fit: Callable[[NDArray[np.bool_]], Similarity],
    source: Array,
    target: Array,
    weights: Array,
    trim: float,
) -> Similarity:
    kept = np.ones(len(source), bool)
    found = fit(kept)
    for _ in range(TRIM_ROUNDS):
        residual = np.linalg.norm(target - found.apply(source), axis=1) / np.sqrt(weights)
        now = residual <= np.quantile(residual, trim)
        if np.array_equal(now, kept):
            break
        kept, found = now, fit(now)
    return found


def _usable_pairs(
    source: ArrayLike, target: ArrayLike, weights: ArrayLike | None, least: int = 3
) -> tuple[Array, Array, Array]:
    """Pairs that are finite and count, as float64."""
    a, b = np.asarray(source, float), np.asarray(target, float)
    if a.shape != b.shape or a.ndim != 2 or a.shape[1] != 3:
        raise InvalidRequest(
            f"the points have shapes {a.shape} and {b.shape}; both must be [n 3] of one n"
        )
    w = np.ones(len(a)) if weights is None else np.asarray(weights, float)
    good = np.isfinite(a).all(1) & np.isfinite(b).all(1) & np.isfinite(w) & (w > 0)
    if np.count_nonzero(good) < least:
        raise InvalidRequest(
            f"{np.count_nonzero(good)} of {len(a)} pairs of points are finite and have a weight; "
            f"{least} are needed"
        )
    return a[good], b[good], w[good]


def _usable_cameras(
    source_c2w: ArrayLike, target_c2w: ArrayLike, weights: ArrayLike | None, least: int
) -> tuple[Array, Array, Array]:
    """Cameras that are finite in both lists and count, as float64."""
    a, b = np.asarray(source_c2w, float), np.asarray(target_c2w, float)
    if a.shape != b.shape or a.ndim != 3 or a.shape[1:] != (4, 4):
        raise InvalidRequest(
            f"the camera lists have shapes {a.shape} and {b.shape}; both must be [n 4 4] of one n"
        )
    w = np.ones(len(a)) if weights is None else np.asarray(weights, float)
    good = np.isfinite(a).all((1, 2)) & np.isfinite(b).all((1, 2)) & np.isfinite(w) & (w > 0)
    if np.count_nonzero(good) < least:
        raise InvalidRequest(
            f"{np.count_nonzero(good)} of {len(a)} cameras are finite and have a weight; "
            f"{least} are needed"
        )
    return a[good], b[good], w[good]


def _moments(source: Array, target: Array, weights: Array) -> tuple[Array, float, Array]:
    """Cross covariance [3 3] (target by source), variance of the source, both means [2 3]."""
    share = weights / weights.sum()
    means = np.stack([share @ source, share @ target])
    a, b = source - means[0], target - means[1]
    return (share[:, None] * b).T @ a, float(share @ np.sum(a * a, 1)), means


def _rotation(covariance: Array) -> tuple[Array, Array, Array]:
    """Rotation [3 3] closest to a covariance, its singular values [3] and signs [3]."""
    u, values, v = np.linalg.svd(covariance)
    signs = np.array([1.0, 1.0, np.sign(np.linalg.det(u) * np.linalg.det(v)) or 1.0])
    return u @ (signs[:, None] * v), values, signs


def _spread(centres: Array) -> float:
    """Largest distance from the mean, relative to that of the mean from the origin (or 1)."""
    mean = centres.mean(0)
    return float(np.linalg.norm(centres - mean, axis=1).max() / max(np.linalg.norm(mean), 1.0))
