"""The seam between policies and simulators: one robot, one command a tick, one state back.

Every simulator takes the same (v, w) commands at the same rate and answers with the same `State`,
so that an episode can be run, logged and scored without knowing which of them ran it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

CONTROL_HZ = 10.0
"""Commands per second (spec navigation 4.3, `control.rate_hz`)."""
GRAVITY = 9.81
"""Acceleration of free fall [m/s^2]."""
STEP_SLACK_M = 1e-3
"""A step of exactly `max_step` must count as climbable [m]."""


class Pose2(Protocol):
    """Where an episode starts; `episodes.Episode` has this shape."""

    @property
    def start(self) -> Any:
        """Start: `position` [3] in world metres and `yaw` [rad], as fields or keys."""
        ...


class RobotBody(Protocol):
    """What a simulator needs to know of a robot; `robots.RobotProfile` has this shape."""

    name: str
    radius: float
    height: float
    max_step: float
    max_slope_deg: float
    v_max: float
    w_max: float
    a_max: float
    alpha_max: float


@dataclass(frozen=True)
class State:
    """The robot after one control step."""

    t: float
    """Simulated time since the reset [s]."""
    pose_xyz_wxyz: NDArray[np.float64]
    """Footprint centre on the floor, world [m], and orientation wxyz, shape [7]."""
    twist: NDArray[np.float64]
    """Linear [m/s] then angular [rad/s] velocity in the body frame, shape [6]."""
    contact: bool = False
    """Whether the body touched anything but the floor during this step."""
    impulse: float = 0.0
    """Impulse of those contacts [N s]; 0 where the simulator has no forces."""
    penetration: float = 0.0
    """How far the body was, or would have been, inside an obstacle [m]."""


class Simulator(Protocol):
    """A robot in a world."""

    name: str
    """Backend name as written into logs."""
    dt_control: float
    """Simulated time of one step [s]."""

    def reset(self, episode: Pose2) -> State:
        """Put the robot at the start of an episode, at rest."""
        ...

    def step(self, v: float, w: float) -> State:
        """Command forward speed [m/s] and turn rate [rad/s] for one control step."""
        ...

    def close(self) -> None:
        """Free whatever the simulator holds; later calls do nothing."""
        ...


def start_pose(episode: Pose2) -> tuple[float, float, float, float]:
    """Start x, y, z [m] and yaw [rad] of an episode, as attributes or as a dictionary."""
    start = episode.start
    position, yaw = (
        (start["position"], start["yaw"])
        if isinstance(start, dict)
        else (start.position, start.yaw)
    )
    x, y, z = (float(value) for value in position)
    return x, y, z, float(yaw)


def tilt_of(pose_xyz_wxyz: NDArray[np.float64]) -> NDArray[np.float64]:
    """Angle [rad] between the body's up axis and the world's, for poses [... 7]."""
    pose = np.asarray(pose_xyz_wxyz, float)
    up_z = 1 - 2 * (pose[..., 4] ** 2 + pose[..., 5] ** 2)
    return np.arccos(np.clip(up_z, -1.0, 1.0))
