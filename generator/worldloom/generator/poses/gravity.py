"""Frames -> which way is up in their world.

The cameras' own axes give a rough up, level and upright surfaces a good one, the floor's plane over
the whole walk another; they are joined by inverse variance. Spec 3.3, 4.2 and 6.3.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from worldloom.generator.poses.floorplane import Floor, across, find_floor
from worldloom.generator.poses.floorview import Samples, take_samples
from worldloom.generator.poses.similarity import rotation_from_vector
from worldloom.generator.video.frame import Frame
from worldloom.scene.errors import InvalidRequest

Array = NDArray[np.float64]

CAMERA_TILT_DEG = 6.0  # How far the up of hand-held or pitched cameras is from up, on the whole.
LEVEL_DEG = (30.0, 20.0, 12.0)  # Normals that far from up take part, round by round.
LEAST_NORMALS = 100  # Fewer pixels of level surfaces say nothing.
SURFACE_DEG, SURFACE_ROUNDS = 15.0, 6
"""Normals that far from level or upright take part in the fine fit [degrees], and its rounds."""
FLOOR_SLOPE_DEG, SURFACE_SLOPE_DEG = 0.1, 0.2
"""Floors, and walls and table tops, are true within this [degrees]."""
ONE_FRAME_DEG = 1.5  # Error of a single frame's surfaces, from its rotation and its depth.
SAME_DEG = 5.0  # Sources that differ more than three sigma, and this, do not agree.


@dataclass(frozen=True)
class Up:
    """Which way is up."""

    direction: Array
    """Unit vector in world axes, shape [3]."""
    sigma_deg: float
    """Standard deviation of its angle [degrees]."""
    sources: tuple[dict[str, float | str], ...]
    """Each source as name, sigma_deg, and its angle to the result as off_deg."""
    floor: Floor | None = None
    """The floor below the first camera; None where none is seen."""

    def level(self) -> Array:
        """Rotation [3 3] by the smallest angle that turns this up onto +Z."""
        axis = np.cross(self.direction, [0.0, 0.0, 1.0])
        sine, cosine = float(np.linalg.norm(axis)), float(self.direction[2])
        if sine < 1e-12:
            return np.eye(3) if cosine > 0 else np.diag([1.0, -1.0, -1.0])
        return rotation_from_vector(axis / sine * np.arctan2(sine, cosine))


def estimate_up(frames: Sequence[Frame], *, prior: tuple[ArrayLike, float] | None = None) -> Up:
    """Up from many frames of one walk, in any world frame and unit.

    Args:
        frames: Frames with depth and camera; the floor is the one below the first.
        prior: Up [3] in world axes from elsewhere (the photo's horizon), and its sigma [degrees].

    Raises:
        InvalidRequest: There is no frame, or a camera has a number that is not finite.
    """
    cameras = _cameras(frames)
    rough = camera_up(cameras)
    samples = [take_samples(frame) for frame in frames]
    level = level_up(samples, rough)
    sources = [("cameras", rough, CAMERA_TILT_DEG)]
    if prior is not None:
        direction = np.asarray(prior[0], float)
        sources.append(("photo", direction / np.linalg.norm(direction), float(prior[1])))
    if level is None:
        return _combine(sources, None)
    up, sigma = surfaces_up(samples, level)
    sources.append(("surfaces", up, sigma))
    floor = find_floor(samples, up)
    if floor is not None:
        tilt = np.degrees(np.sqrt(np.trace(floor.covariance[:2, :2]) / 2))
        sources.append(("floor", floor.normal, float(np.hypot(tilt, FLOOR_SLOPE_DEG))))
    return _combine(sources, floor)


def camera_up(c2w: ArrayLike) -> Array:
    """Rough up [3] of cameras [n 4 4]: across their x axes, which people hold level, and along -y.

    The x axes decide where the cameras look in different directions, since a pitch does not move
    them; where all look one way, the y axes do (spec 6.3).
    """
    c2w = np.asarray(c2w, float)
    mean = -c2w[:, :3, 1].sum(0)
    size = float(np.linalg.norm(mean))
    if size < 1e-6 * len(c2w):
        raise InvalidRequest(
            f"the {len(c2w)} cameras' upward axes cancel out, so up is unknown; give frames of a "
            "camera that is held upright"
        )
    mean = mean / size
    across = c2w[:, :3, 0].T @ c2w[:, :3, 0] / len(c2w)
    _, axes = np.linalg.eigh(across + 0.1 * (np.eye(3) - np.outer(mean, mean)))
    return axes[:, 0] * (1.0 if axes[:, 0] @ mean >= 0 else -1.0)


def level_up(samples: Sequence[Samples], rough: Array) -> Array | None:
    """Up [3] from the normals of floors, table tops and ceilings, or None where there are none."""
    normals = np.concatenate([s.normal for s in samples]) if samples else np.zeros((0, 3))
    up = rough
    for limit in LEVEL_DEG:
        cosine = normals @ up
        near = np.abs(cosine) > np.cos(np.radians(limit))
        if np.count_nonzero(near) < LEAST_NORMALS:
            return None
        weight = _closeness(np.sqrt(np.maximum(1 - cosine[near] ** 2, 0)), limit)
        total = (weight * np.sign(cosine[near])) @ normals[near]
        up = total / np.linalg.norm(total)
    return up


def surfaces_up(samples: Sequence[Samples], guess: Array) -> tuple[Array, float]:
    """Up [3] along the normals of level surfaces and across those of walls, and its sigma [deg].

    The sigma comes from how much the frames differ, since pixels of one frame err together.
    """
    up = guess
    for _ in range(SURFACE_ROUNDS):
        parts = np.stack([_surface_moments(s.normal, up) for s in samples])
        _, axes = np.linalg.eigh(parts.sum(0))
        up = axes[:, 0] * (1.0 if axes[:, 0] @ up >= 0 else -1.0)
    basis = across(up)
    hessian = basis @ parts.sum(0) @ basis.T - float(up @ parts.sum(0) @ up) * np.eye(2)
    slopes = parts @ up @ basis.T
    try:
        inverse = np.linalg.inv(hessian)
    except np.linalg.LinAlgError:
        return up, CAMERA_TILT_DEG
    spread = np.degrees(np.sqrt(np.trace(inverse @ (slopes.T @ slopes) @ inverse.T) / 2))
    least = ONE_FRAME_DEG / np.sqrt(len(samples)) if len(samples) < 4 else 0.0
    return up, float(np.hypot(max(spread, least), SURFACE_SLOPE_DEG))


def _surface_moments(normals: Array, up: Array) -> Array:
    """Matrix [3 3] whose quadratic form in a direction is how badly it fits one frame's normals."""
    cosine = normals @ up
    level = np.abs(cosine) > np.sqrt(0.5)
    off = np.where(level, np.sqrt(np.maximum(1 - cosine**2, 0)), np.abs(cosine))
    weight = _closeness(off, SURFACE_DEG)
    flat, tall = weight * level, weight * ~level
    outer = (normals * (tall - flat)[:, None]).T @ normals
    return outer + flat.sum() * np.eye(3)


def _closeness(sine: Array, limit_deg: float) -> Array:
    """Tukey's weight of deviations given by their sine: 1 at 0, 0 from the limit on."""
    share = np.minimum(sine / np.sin(np.radians(limit_deg)), 1.0)
    return (1 - share**2) ** 2


def _combine(sources: Sequence[tuple[str, Array, float]], floor: Floor | None) -> Up:
    """Directions with sigmas -> one, by inverse variance of the surest and those that agree.

    They look at the same frames: together they are taken to be no surer than the surest.
    """
    best = min(sources, key=lambda source: source[2])
    total = np.zeros(3)
    for _, direction, sigma in sources:
        off = np.degrees(np.arccos(np.clip(direction @ best[1], -1, 1)))
        if off <= max(3 * np.hypot(sigma, best[2]), SAME_DEG):
            total = total + direction / sigma**2
    up = total / np.linalg.norm(total)
    told = tuple(
        {
            "name": name,
            "sigma_deg": round(sigma, 4),
            "off_deg": round(float(np.degrees(np.arccos(np.clip(d @ up, -1, 1)))), 4),
        }
        for name, d, sigma in sources
    )
    return Up(up, float(best[2]), told, floor)


def _cameras(frames: Sequence[Frame]) -> Array:
    """Poses [n 4 4] of the frames, checked."""
    if not len(frames):
        raise InvalidRequest("up is asked for of 0 frames; at least 1 is needed")
    c2w = np.stack([np.asarray(frame.c2w, float) for frame in frames])
    if not np.isfinite(c2w).all():
        bad = int(np.argmin(np.isfinite(c2w).all((1, 2))))
        raise InvalidRequest(
            f"the camera of frame {frames[bad].frame_id} has a number that is not finite; every "
            "pose must be finite"
        )
    return c2w
