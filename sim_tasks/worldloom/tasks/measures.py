"""One trajectory -> numbers: the measures of navigation, each a pure function of logged arrays.

Symbols as in the specification (navigation 4.6): L geodesic distance from start to goal at reset,
P length of the driven path, d distance to the goal, R success radius, T time to the end, S success.
Distances are geodesic: a goal behind a wall is not near.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba as nb
import numpy as np
from numpy.typing import ArrayLike, NDArray

QUIET_S = 0.5
"""A contact counts as a new collision after this long without contact [s]."""
STOPPED_SPEED, STOPPED_S = 0.02, 1.0
"""A stop: slower than this [m/s] for longer than this [s]."""
NDTW_RADIUS_M, NDTW_SPACING_M = 1.0, 0.25
"""Scale of nDTW, and the spacing to which both paths are resampled [m]."""


def path_length(xy: ArrayLike) -> float:
    """Length [m] of the polyline through points [n 2 or 3], measured in the ground plane."""
    steps = np.diff(np.asarray(xy, float)[:, :2], axis=0)
    return float(np.hypot(steps[:, 0], steps[:, 1]).sum())


def spl(success: bool, geodesic: float, driven: float) -> float:
    """Success weighted by path length: S L / max(L, P)."""
    if not success:
        return 0.0
    longest = max(geodesic, driven)
    return geodesic / longest if longest > 0 else 1.0


def spl_to_radius(success: bool, geodesic: float, driven: float, radius: float) -> float:
    """SPL whose shortest path ends at the success radius, so that the optimum is exactly 1."""
    return spl(success, max(geodesic - radius, 0.0), driven)


def soft_spl(final: float, geodesic: float, driven: float) -> float:
    """max(0, 1 - d_T / L) L / max(L, P): progress weighted by path length."""
    if geodesic <= 0:
        return 1.0 if final <= 0 else 0.0
    return max(0.0, progress(final, geodesic)) * spl(True, geodesic, driven)


def progress(final: float, geodesic: float) -> float:
    """1 - d_T / L: 1 at the goal, 0 at the start's distance, below 0 farther away."""
    return 1.0 - final / geodesic if geodesic > 0 else 0.0


def sct(success: bool, time_s: float, reference_s: float) -> float:
    """Success weighted by completion time: S T* / max(T, T*)."""
    return spl(success, reference_s, time_s)


def barn(success: bool, time_s: float, geodesic: float, v_max: float) -> float:
    """Score of the BARN challenge: S OT / clip(T, 2 OT, 8 OT) with OT = L / v_max; at most 0.5."""
    if not success:
        return 0.0
    optimal = geodesic / v_max
    return optimal / float(np.clip(time_s, 2 * optimal, 8 * optimal)) if optimal > 0 else 0.5


@dataclass(frozen=True)
class Collisions:
    """Contacts of one trajectory as events."""

    onsets: NDArray[np.int64]
    """Sample numbers at which a collision began, shape [k]."""
    ends: NDArray[np.int64]
    """Last sample in contact of each collision, shape [k]."""
    time_s: float
    """Time in contact [s]."""
    first_s: float | None
    """When the first collision began [s]."""

    @property
    def count(self) -> int:
        """Number of collisions."""
        return len(self.onsets)


def collisions(t: ArrayLike, contact: ArrayLike, *, quiet_s: float = QUIET_S) -> Collisions:
    """Contact flags -> events: touches less than `quiet_s` apart are one collision.

    Args:
        t: Sample times [s], shape [n]; sample i covers the time since sample i - 1.
        contact: Whether there was contact, shape [n].
        quiet_s: Time without contact that ends a collision [s].
    """
    t, contact = np.asarray(t, float), np.asarray(contact, bool)
    touching = np.nonzero(contact)[0]
    spans = np.diff(t, prepend=t[:1])
    if len(touching) == 0:
        none = np.zeros(0, np.int64)
        return Collisions(none, none, 0.0, None)
    # Between two touching samples lie the quiet ones: the gap without its last, touching, span.
    gaps = t[touching[1:] - 1] - t[touching[:-1]]
    fresh = np.concatenate([[True], gaps >= quiet_s - 1e-9])
    onsets = touching[fresh]
    ends = touching[np.concatenate([fresh[1:], [True]])]
    return Collisions(onsets, ends, float(spans[touching].sum()), float(t[onsets[0]]))


@dataclass(frozen=True)
class Smoothness:
    """How evenly a robot drove."""

    turning: float
    """Sum of |change of heading| per driven metre [rad/m]."""
    acceleration: float
    """Mean |change of forward speed| over time [m/s^2]."""
    jerk: float
    """Mean |change of acceleration| over time [m/s^3]."""
    stops: int
    """Times that the robot stood still for more than a second, the end not counted."""


def smoothness(t: ArrayLike, yaw: ArrayLike, speed: ArrayLike, driven: float) -> Smoothness:
    """Evenness of a trajectory.

    Args:
        t: Sample times [s], shape [n].
        yaw: Heading [rad], shape [n].
        speed: Forward speed [m/s], shape [n].
        driven: Length of the path [m].
    """
    t, speed = np.asarray(t, float), np.asarray(speed, float)
    turns = np.abs(np.diff(np.unwrap(np.asarray(yaw, float)))).sum()
    spans = np.diff(t)
    change = np.diff(speed) / spans if len(spans) else np.zeros(0)
    jerk = np.diff(change) / spans[1:] if len(spans) > 1 else np.zeros(0)
    return Smoothness(
        turning=float(turns / driven) if driven > 1e-6 else 0.0,
        acceleration=float(np.abs(change).mean()) if len(change) else 0.0,
        jerk=float(np.abs(jerk).mean()) if len(jerk) else 0.0,
        stops=_stops(t, speed),
    )


def _stops(t: NDArray[np.float64], speed: NDArray[np.float64]) -> int:
    moving = np.nonzero(np.abs(speed) >= STOPPED_SPEED)[0]
    # Standing before the first and after the last movement is waiting and having arrived.
    return int((np.diff(t[moving]) > STOPPED_S).sum()) if len(moving) > 1 else 0


def resample(points: ArrayLike, spacing: float) -> NDArray[np.float64]:
    """Points [m 2] every `spacing` metres along the polyline [n 2 or 3], its end included."""
    points = np.asarray(points, float)[:, :2]
    steps = np.hypot(*np.diff(points, axis=0).T) if len(points) > 1 else np.zeros(0)
    along = np.concatenate([[0.0], np.cumsum(steps)])
    marks = np.append(np.arange(0.0, along[-1], spacing), along[-1])
    return np.stack([np.interp(marks, along, points[:, axis]) for axis in range(2)], axis=1)


def ndtw(
    trajectory: ArrayLike,
    reference: ArrayLike,
    *,
    radius: float = NDTW_RADIUS_M,
    spacing: float = NDTW_SPACING_M,
) -> float:
    """exp(-DTW / (n R)) between two paths [n 2 or 3], by true dynamic programming; 1 when equal.

    Args:
        trajectory: Driven path [m].
        reference: Reference path [m]; n is its number of points after resampling.
        radius: Distance R at which one point costs a factor e [m].
        spacing: Both paths are resampled to this [m].
    """
    ours, theirs = resample(trajectory, spacing), resample(reference, spacing)
    return float(np.exp(-_dtw(ours, theirs) / (len(theirs) * radius)))


@nb.njit(cache=True)
def _dtw(a, b):
    """Cost of the cheapest monotone alignment of two paths."""
    cost = np.full((len(a) + 1, len(b) + 1), np.inf)
    cost[0, 0] = 0.0
    for i in range(len(a)):
        for j in range(len(b)):
            near = np.sqrt((a[i, 0] - b[j, 0]) ** 2 + (a[i, 1] - b[j, 1]) ** 2)
            cost[i + 1, j + 1] = near + min(cost[i, j], cost[i, j + 1], cost[i + 1, j])
    return cost[-1, -1]
