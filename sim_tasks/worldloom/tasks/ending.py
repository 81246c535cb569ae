"""When an episode is over, and why, as far as it can be seen while it runs.

Whether a stop was a success is for the scorer to say.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np

from worldloom.tasks.dataset import Dataset
from worldloom.tasks.episodes import Episode
from worldloom.tasks.measures import QUIET_S
from worldloom.tasks.sim_base import State, tilt_of

STOP = "stop"
"""The reason that only scoring tells apart: at the goal, or somewhere else."""

MIN_TIME_S = 20.0  # Shortest time limit: turning to the goal takes a while on any path.


@dataclass(frozen=True)
class Limits:
    """Bounds of one episode (keys of dataset.yaml)."""

    dwell_s: float
    """Standing still by one's own command for this long is a stop [s]."""
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
    """Looks at every state of one episode and says when it is over."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._still_since: float | None = None
        self._recent: deque[tuple[float, float, float]] = deque()
        self._floor: float | None = None
        self._contacts = 0
        self._last_contact = -np.inf

    def look(self, state: State, command: tuple[float, float]) -> str | None:
        """Why the episode ends with this state; None when it goes on.

        Args:
            state: The robot after the step.
            command: Speed and turn rate that were commanded for it.
        """
        if self._fell(state):
            return "fall"
        if self._stopped(state, command):
            return STOP
        if self._collided(state):
            return "collision_limit"
        if self._stuck(state):
            return "stuck"
        return "timeout" if state.t >= self._limits.max_time_s - 1e-9 else None

    def _stopped(self, state: State, command: tuple[float, float]) -> bool:
        limits = self._limits
        speeds = (abs(command[0]), float(np.hypot(state.twist[0], state.twist[1])))
        turns = (abs(command[1]), abs(float(state.twist[5])))
        # Pushing against a wall is standing still too, but no decision to stop.
        if max(speeds) >= limits.stop_speed or max(turns) >= limits.stop_yaw_rate:
            self._still_since = None
            return False
        if self._still_since is None:
            self._still_since = state.t
        return state.t - self._still_since >= limits.dwell_s - 1e-9

    def _collided(self, state: State) -> bool:
        """Count a contact after a quiet time, as the scorer does; true beyond the limit."""
        if state.contact:
            self._contacts += state.t - self._last_contact > QUIET_S + 1e-6
            self._last_contact = state.t
        limit = self._limits.max_collisions
        return limit is not None and self._contacts > limit

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
