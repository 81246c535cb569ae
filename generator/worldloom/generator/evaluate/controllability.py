"""Commanded and found cameras -> camera controllability: does the video go where it was told?

Definition (WorldScore; spec reconstruction 5.2): both trajectories start at their first camera;
one scale c of the found translations minimises the sum of |t_commanded - c t_found| (convex);
r is the mean angle between the rotations [degrees], t the mean distance of the scaled
translations; score 100 sqrt((1 - clip(r / 15)) (1 - clip(t / 0.5))).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from worldloom.scene.cameras import check_poses
from worldloom.scene.errors import InvalidRequest
from worldloom.scene.frame import invert_rigid, turn_angle

WORST_DEG, WORST_DISTANCE = 15.0, 0.5
"""Errors that score 0; the distance is in units of the commanded trajectory, for us metres."""
CAMERAS_MIN = 2
SECTIONS = 200  # Golden sections of the search for the scale: far below float64's resolution.
GOLDEN = (5**0.5 - 1) / 2


@dataclass(frozen=True)
class CameraScore:
    """How well a found trajectory follows the commanded one."""

    rotation_deg: float
    """Mean angle between the rotations."""
    translation: float
    """Mean distance after scaling, in units of the commanded trajectory (metres)."""
    scale: float
    """Factor c of the found translations."""
    score: float
    """0..100."""
    cameras: int


def camera_score(commanded: NDArray[np.float64], found: NDArray[np.float64]) -> CameraScore:
    """Compare two trajectories.

    Args:
        commanded: Camera to world, [n 4 4].
        found: Camera to its own world, in units of its own, [n 4 4].

    Raises:
        InvalidRequest: Their numbers differ, or there are fewer than two.
        InvalidCameraPath: A pose is not rigid.
    """
    if len(commanded) != len(found) or len(found) < CAMERAS_MIN:
        raise InvalidRequest(
            f"{len(commanded)} cameras were commanded and {len(found)} found; controllability "
            f"needs equal numbers, at least {CAMERAS_MIN}"
        )
    check_poses(commanded)
    check_poses(found)
    wanted, got = (invert_rigid(c2w[0]) @ c2w for c2w in (commanded, found))
    angle = np.degrees(turn_angle(wanted[:, :3, :3], got[:, :3, :3]))
    scale = fit_scale(wanted[:, :3, 3], got[:, :3, 3])
    away = np.linalg.norm(wanted[:, :3, 3] - scale * got[:, :3, 3], axis=1)
    r, t = float(np.mean(angle)), float(away.mean())
    return CameraScore(r, t, scale, controllability(r, t), len(found))


def controllability(rotation_deg: float, translation: float) -> float:
    """Score 0..100 of a mean rotation error [degrees] and a mean distance."""
    r = np.clip(rotation_deg / WORST_DEG, 0.0, 1.0)
    t = np.clip(translation / WORST_DISTANCE, 0.0, 1.0)
    return 100.0 * float(np.sqrt((1 - r) * (1 - t)))


def fit_scale(wanted: NDArray[np.float64], found: NDArray[np.float64]) -> float:
    """The c that minimises the sum of |wanted - c found| over translations [n 3]; 1 without motion.

    Every term is convex in c and smallest at its own projection, so the least sum lies between
    the smallest and the largest of these, where golden sections find it.
    """
    square = (found**2).sum(1)
    moved = square > 1e-18
    if not moved.any():
        return 1.0
    own = (wanted * found).sum(1)[moved] / square[moved]
    low, high = float(own.min()), float(own.max())

    def cost(c: float) -> float:
        return float(np.linalg.norm(wanted - c * found, axis=1).sum())

    for _ in range(SECTIONS):
        step = GOLDEN * (high - low)
        if cost(high - step) <= cost(low + step):
            high = low + step
        else:
            low = high - step
    return 0.5 * (low + high)
