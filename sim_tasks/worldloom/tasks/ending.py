"""When an episode is over, and why."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np

from worldloom.tasks.dataset import Dataset
from worldloom.tasks.episodes import Episode
from worldloom.tasks.geodesic import DistanceField
from worldloom.tasks.sim_base import State, tilt_of

MIN_TIME_S = 20.0  # Shortest time limit: turning to the goal takes a while on any path.


@dataclass(frozen=True)
class Limits:
    """Bounds of one episode (keys of dataset.yaml)."""

    radius: float
    """Success radius [m]."""
    dwell_s: float
    """Standing still for this long is a stop [s]."""
    stop_speed: float
    stop_yaw_rate: float
    max_time_s: float
    stuck_window_s: float
    stuck_distance: float
    fall_tilt_rad: float
    fall_drop: float
    max_collisions: int | None


def limits_of(data: Dataset, episode: Episode) -> Limits:
    """The bounds of an episode in its dataset."""
    goal, limits = data.goal, data.limits
    time_s = limits["max_time_s"]
    if time_s == "auto":
        time_s = max(MIN_TIME_S, float(limits["time_factor"]) * episode.reference_time)
    return Limits(
        radius=episode.goals[0].radius,
        dwell_s=float(goal["dwell_s"]),
        stop_speed=float(goal["stop_speed"]),
        stop_yaw_rate=float(goal["stop_yaw_rate"]),
        max_time_s=float(time_s),
        stuck_window_s=float(limits["stuck"]["window_s"]),
        stuck_distance=float(limits["stuck"]["distance"]),
        fall_tilt_rad=float(np.radians(limits["fall"]["roll_pitch_deg"])),
        fall_drop=float(limits["fall"]["drop"]),
        max_collisions=limits["max_collisions"],
    )


class EndWatch:
    """Looks at every state of one episode and says when it is over.

    A stop near the goal is `success`, a stop elsewhere `stop_far`; distance is geodesic, so that
    a goal behind a wall is not reached.
    """

    def __init__(self, limits: Limits, field: DistanceField) -> None:
        self._limits = limits
        self._field = field
        self._still_since: float | None = None
        self._moved = False
        self._recent: deque[tuple[float, float, float]] = deque()
        self._floor: float | None = None
        self._contacts = 0
        self._touching = False

    def look(self, state: State) -> str | None:
        """Why the episode ends with this state; None when it goes on."""
        limits = self._limits
        if self._fell(state):
            return "fall"
        reason = self._stopped(state)
        if reason is not None:
            return reason
        self._contacts += state.contact and not self._touching
        self._touching = state.contact
        if limits.max_collisions is not None and self._contacts > limits.max_collisions:
            return "collision_limit"
        if self._stuck(state):
            return "stuck"
        return "timeout" if state.t >= limits.max_time_s - 1e-9 else None

    def _stopped(self, state: State) -> str | None:
        limits = self._limits
        still = (
            float(np.hypot(state.twist[0], state.twist[1])) < limits.stop_speed
            and abs(float(state.twist[5])) < limits.stop_yaw_rate
        )
        if not still:
            self._still_since, self._moved = None, True
            return None
        if self._still_since is None:
            self._still_since = state.t
        if state.t - self._still_since < limits.dwell_s - 1e-9 or not self._moved:
            return None
        near = float(self._field.distance(state.pose_xyz_wxyz[:2])) <= limits.radius
        if near:
            return "success"
        # Pushing against an obstacle is standing still too, but no decision to stop.
        return None if state.contact else "stop_far"

    def _stuck(self, state: State) -> bool:
        x, y = float(state.pose_xyz_wxyz[0]), float(state.pose_xyz_wxyz[1])
        self._recent.append((state.t, x, y))
        while self._recent[0][0] < state.t - self._limits.stuck_window_s:
            self._recent.popleft()
        if state.t < self._limits.stuck_window_s:
            return False
        points = np.array(self._recent)[:, 1:]
        return float(np.ptp(points, axis=0).max()) < self._limits.stuck_distance

    def _fell(self, state: State) -> bool:
        z = float(state.pose_xyz_wxyz[2])
        if self._floor is None:
            self._floor = z
        # Ramps and steps change the height slowly; a fall changes it at once.
        dropped = self._floor - z > self._limits.fall_drop
        self._floor = 0.9 * self._floor + 0.1 * z
        return dropped or float(tilt_of(state.pose_xyz_wxyz)) > self._limits.fall_tilt_rad
