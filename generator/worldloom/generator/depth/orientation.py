"""Line segments -> which way is up in the camera, and the focal length where nobody told it.

Man-made places have many vertical edges and many horizontal ones in two directions at right angles
(the "Manhattan world" of Coughlan and Yuille, 1999). For every trial of pitch, roll, focal length
and heading, each segment votes by its angle to the three vanishing points; weak priors on how
people hold cameras decide where the picture itself says little.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from worldloom.generator.depth.segments import Segments

FILM_DIAGONAL_MM = 43.27  # Diagonal of a 36 x 24 mm frame.
USUAL_FOCAL_MM = 28.0
"""Usual focal length as its 35 mm equivalent: the main camera of phones, 24 to 35 mm."""
FOCAL_SIGMA = 0.3  # Spread of ln(focal length) around the usual one.
USUAL_PITCH_DEG, PITCH_SIGMA_DEG = -6.0, 14.0
"""How people and robots hold a camera: a little downwards (negative), loosely."""
ROLL_SIGMA_DEG = 3.0  # People keep the horizon level within a few degrees.
ANGLE_SIGMA_DEG = 1.0  # Error of a segment's direction in the image.
OUTLIER = 0.15  # Density of segments that follow no vanishing point, relative to a perfect one.
TRUST = 0.35
"""Weight of one 50 px segment's log-likelihood; below 1, since edges come in bundles."""
MOST_SEGMENTS = 400  # The longest segments decide; more only cost time.


@dataclass(frozen=True)
class Orientation:
    """How the camera was held."""

    up: NDArray[np.float64]
    """World up in OpenCV camera axes, unit length, shape [3]."""
    axes: NDArray[np.float64]
    """Up and the two horizontal directions that edges follow, in camera axes, shape [3 3]."""
    focal_px: float
    """Focal length [px]; the one given, or the one that fits best."""
    support: float
    """Share of segment length that follows one of the three vanishing points, 0..1."""

    @property
    def pitch_deg(self) -> float:
        """Elevation of the viewing direction [degrees]; negative looks down."""
        return float(np.degrees(np.arcsin(np.clip(self.up[2], -1, 1))))

    @property
    def roll_deg(self) -> float:
        """Turn about the viewing direction [degrees]."""
        return float(np.degrees(np.arctan2(self.up[0], -self.up[1])))


def usual_focal(width: int, height: int) -> float:
    """Focal length [px] of the usual camera for a picture of this size."""
    return float(USUAL_FOCAL_MM / FILM_DIAGONAL_MM * np.hypot(width, height))


def find_orientation(
    segments: Segments,
    width: int,
    height: int,
    *,
    focal_px: float | None = None,
    centre_px: tuple[float, float] | None = None,
) -> Orientation:
    """Up direction, and focal length unless `focal_px` tells it, from straight edges."""
    order = np.argsort(-segments.length, kind="stable")[:MOST_SEGMENTS]
    centre = (width / 2, height / 2) if centre_px is None else centre_px
    votes = _Votes.of(segments.select(order), centre)
    usual = usual_focal(width, height)
    spread = np.array([0.0]) if focal_px is not None else np.linspace(-2, 3, 9) * FOCAL_SIGMA
    focals = (usual if focal_px is None else focal_px) * np.exp(spread)
    best = _coarse(votes, focals, usual)
    best = _refine(votes, best, usual, free_focal=focal_px is None)
    pitch, roll, focal, yaw = best
    closeness = votes.closeness(*(np.array([x]) for x in best), ANGLE_SIGMA_DEG)
    support = float(np.sum(votes.weight * (closeness[0] > 0.6)) / max(votes.weight.sum(), 1e-9))
    axes = _axes(*(np.array([x]) for x in (pitch, roll, yaw)))
    return Orientation(up_of(pitch, roll), np.stack([a[0] for a in axes]), float(focal), support)


def up_of(pitch_deg: float, roll_deg: float) -> NDArray[np.float64]:
    """World up [3] in OpenCV camera axes of a camera with this pitch (up positive) and roll."""
    pitch, roll = np.radians(pitch_deg), np.radians(roll_deg)
    return np.array([np.sin(roll) * np.cos(pitch), -np.cos(roll) * np.cos(pitch), np.sin(pitch)])


def _axes(
    pitch: NDArray, roll: NDArray, yaw: NDArray
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Up and two horizontal directions [t 3] in camera axes of trials in degrees [t]."""
    p, r, y = np.radians(pitch), np.radians(roll), np.radians(yaw)
    up = np.stack([np.sin(r) * np.cos(p), -np.cos(r) * np.cos(p), np.sin(p)], -1)
    forward = np.stack([-np.sin(r) * np.sin(p), np.cos(r) * np.sin(p), np.cos(p)], -1)
    side = np.cross(up, forward)
    first = np.cos(y)[:, None] * forward + np.sin(y)[:, None] * side
    second = -np.sin(y)[:, None] * forward + np.cos(y)[:, None] * side
    return up, first, second


@dataclass(frozen=True)
class _Votes:
    """Segments as mid points around the principal point, directions and weights."""

    middle: NDArray[np.float64]
    direction: NDArray[np.float64]
    weight: NDArray[np.float64]

    @staticmethod
    def of(segments: Segments, centre: tuple[float, float]) -> _Votes:
        length = segments.length
        direction = (segments.end - segments.start) / np.maximum(length, 1e-9)[:, None]
        # Long edges say more, but one very long one must not overrule everything else.
        weight = TRUST * np.minimum(length / 50.0, 4.0)
        return _Votes(segments.middle - np.asarray(centre), direction, weight)

    def closeness(
        self,
        pitch: NDArray,
        roll: NDArray,
        focal: NDArray,
        yaw: NDArray,
        sigma_deg: float,
    ) -> NDArray[np.float64]:
        """How well each of n segments follows each of t trials, 0..1, shape [t n]."""
        best = np.zeros((len(pitch), len(self.weight)))
        for axis in _axes(pitch, roll, yaw):
            # Image direction towards the vanishing point of `axis`, at the segment's middle.
            du = focal[:, None] * axis[:, :1] - axis[:, 2:] * self.middle[None, :, 0]
            dv = focal[:, None] * axis[:, 1:2] - axis[:, 2:] * self.middle[None, :, 1]
            sine = du * self.direction[None, :, 1] - dv * self.direction[None, :, 0]
            sine /= np.maximum(np.hypot(du, dv), 1e-9)
            scale = np.radians(sigma_deg)
            best = np.maximum(best, np.exp(-0.5 * (sine / scale) ** 2))
        return best

    def log_score(self, trials: NDArray, usual: float, sigma_deg: float) -> NDArray[np.float64]:
        """Log posterior of trials [t 4] (pitch, roll, focal, yaw)."""
        pitch, roll, focal, yaw = trials.T
        likelihood = np.log(OUTLIER + self.closeness(pitch, roll, focal, yaw, sigma_deg))
        prior = ((pitch - USUAL_PITCH_DEG) / PITCH_SIGMA_DEG) ** 2 + (roll / ROLL_SIGMA_DEG) ** 2
        prior = prior + (np.log(focal / usual) / FOCAL_SIGMA) ** 2
        return likelihood @ self.weight - 0.5 * prior


def _coarse(votes: _Votes, focals: NDArray, usual: float) -> NDArray[np.float64]:
    """Best trial [4] of a grid whose steps the broad vote below still bridges."""
    pitch, roll = np.arange(-50.0, 31.0, 2.0), np.arange(-8.0, 8.1, 2.0)
    yaw = np.arange(0.0, 90.0, 5.0)
    grid = np.stack(np.meshgrid(pitch, roll, focals, yaw, indexing="ij"), -1).reshape(-1, 4)
    scores = [
        votes.log_score(part, usual, 2.5 * ANGLE_SIGMA_DEG)
        for part in np.array_split(grid, max(1, len(grid) * len(votes.weight) // 2_000_000))
    ]
    return grid[int(np.argmax(np.concatenate(scores)))]


def _refine(
    votes: _Votes, start: NDArray, usual: float, *, free_focal: bool
) -> NDArray[np.float64]:
    """Climb from the best grid point; the steps shrink until they no longer matter."""
    best = start
    score = votes.log_score(best[None], usual, ANGLE_SIGMA_DEG)[0]
    step = np.array([1.0, 1.0, 0.06 if free_focal else 0.0, 2.5])
    moves = np.array(np.meshgrid(*[(-1, 0, 1)] * 4, indexing="ij")).reshape(4, -1).T
    while step[0] > 0.02:
        trials = np.repeat(best[None], len(moves), 0)
        trials[:, [0, 1, 3]] += moves[:, [0, 1, 3]] * step[[0, 1, 3]]
        trials[:, 2] *= np.exp(moves[:, 2] * step[2])
        scores = votes.log_score(trials, usual, ANGLE_SIGMA_DEG)
        winner = int(np.argmax(scores))
        if scores[winner] > score + 1e-9:
            best, score = trials[winner], scores[winner]
        else:
            step = step / 2
    return best
