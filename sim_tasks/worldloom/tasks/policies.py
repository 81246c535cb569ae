"""What drives: observations in, commands out. An oracle that knows the map, and baselines.

A policy sees the dictionary of `run.observe`: the goal in its own polar frame, its pose, its speed.
The oracle also gets the navigation grid, which no contestant does; it plans with a price on
passing near obstacles and is scored like everyone else by pure distance.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from worldloom.scene.errors import InvalidRequest
from worldloom.tasks.episodes import Episode
from worldloom.tasks.geodesic import DistanceField, FloorGraph
from worldloom.tasks.robots import RobotProfile

LOOKAHEAD_S, LOOKAHEAD_MIN_M = 1.2, 0.20
"""Pure pursuit aims this far ahead: time at full speed, and at least this distance."""
TURN_FIRST_RAD = 0.6  # Above this heading error a robot turns on the spot.
TURN_GAIN = 2.5  # Turn rate per heading error [1/s].
ARRIVED_SHARE = 0.5  # The oracle stops at this share of the success radius.


@dataclass(frozen=True)
class TaskInfo:
    """What a policy is told at the start of an episode."""

    episode: Episode
    robot: RobotProfile
    graphs: tuple[FloorGraph, ...]
    """The walkable floor; for the oracle only."""


class Policy(Protocol):
    """Something that drives."""

    name: str

    def reset(self, task: TaskInfo) -> None:
        """A new episode begins."""
        ...

    def act(self, observation: dict[str, Any]) -> tuple[float, float]:
        """Forward speed [m/s] and turn rate [rad/s] for the next tenth of a second."""
        ...

    def close(self) -> None:
        """No more episodes."""
        ...


class Oracle:
    """Follows the clearance-weighted shortest way by pure pursuit; stops inside the goal."""

    name = "oracle"

    def __init__(self) -> None:
        self._path: NDArray[np.float64] = np.zeros((0, 2))
        self._along: NDArray[np.float64] = np.zeros(0)
        self._task: TaskInfo | None = None
        self._at = 0.0

    def reset(self, task: TaskInfo) -> None:
        """Plan the way of this episode."""
        goal = np.asarray(task.episode.goals[0].position[:2])
        field = DistanceField(task.graphs[task.episode.floor], goal, weighted=True)
        self._path = _dense(field.way(task.episode.start.position[:2]), 0.02)
        steps = np.linalg.norm(np.diff(self._path, axis=0), axis=1)
        self._along = np.concatenate([[0.0], np.cumsum(steps)])
        self._task, self._at = task, 0.0

    def act(self, observation: dict[str, Any]) -> tuple[float, float]:
        """Aim at the way a little ahead; slow down for bends and for the goal."""
        robot, episode = self._task.robot, self._task.episode
        distance = float(observation["pointgoal"][0])
        if distance <= ARRIVED_SHARE * episode.goals[0].radius:
            return 0.0, 0.0
        xy, yaw = observation["position"][:2], observation["yaw"]
        self._at = self._nearest(xy)
        ahead = max(LOOKAHEAD_MIN_M, LOOKAHEAD_S * robot.v_max)
        target = self._point(self._at + ahead)
        return steer(xy, yaw, target, distance, robot)

    def close(self) -> None:
        """Nothing to free."""

    def _nearest(self, xy: NDArray[np.float64]) -> float:
        """How far along the way the robot is; never jumps back or far ahead."""
        window = (self._along >= self._at - 0.1) & (self._along <= self._at + 1.0)
        index = np.nonzero(window)[0]
        away = np.linalg.norm(self._path[index] - xy, axis=1)
        return float(self._along[index[away.argmin()]])

    def _point(self, along: float) -> NDArray[np.float64]:
        return np.array([np.interp(along, self._along, self._path[:, k]) for k in range(2)])


class StraightLine:
    """Heads for the goal as if nothing stood in between."""

    name = "straight_line"

    def __init__(self) -> None:
        self._task: TaskInfo | None = None

    def reset(self, task: TaskInfo) -> None:
        """Remember the goal."""
        self._task = task

    def act(self, observation: dict[str, Any]) -> tuple[float, float]:
        """Straight at the goal."""
        robot, goal = self._task.robot, self._task.episode.goals[0]
        distance = float(observation["pointgoal"][0])
        if distance <= ARRIVED_SHARE * goal.radius:
            return 0.0, 0.0
        target = np.asarray(goal.position[:2])
        return steer(observation["position"][:2], observation["yaw"], target, distance, robot)

    def close(self) -> None:
        """Nothing to free."""


class Forward:
    """Drives ahead for ever: the floor of every table."""

    name = "forward"

    def __init__(self) -> None:
        self._speed = 0.0

    def reset(self, task: TaskInfo) -> None:
        """Take the robot's full speed."""
        self._speed = task.robot.v_max

    def act(self, observation: dict[str, Any]) -> tuple[float, float]:
        """Ahead."""
        return self._speed, 0.0

    def close(self) -> None:
        """Nothing to free."""


class Random:
    """Random commands that hold for a second, from the episode's own seed."""

    name = "random"

    def __init__(self) -> None:
        self._rng = np.random.default_rng(0)
        self._robot: RobotProfile | None = None
        self._command, self._left = (0.0, 0.0), 0

    def reset(self, task: TaskInfo) -> None:
        """Seed by the episode."""
        self._rng = np.random.default_rng(task.episode.seed)
        self._robot, self._left = task.robot, 0

    def act(self, observation: dict[str, Any]) -> tuple[float, float]:
        """The command of this second."""
        if self._left == 0:
            v = float(self._rng.uniform(0, self._robot.v_max))
            w = float(self._rng.uniform(-self._robot.w_max, self._robot.w_max))
            self._command, self._left = (v, w), 10
        self._left -= 1
        return self._command

    def close(self) -> None:
        """Nothing to free."""


POLICIES: dict[str, Callable[[], Policy]] = {
    "oracle": Oracle,
    "straight_line": StraightLine,
    "forward": Forward,
    "random": Random,
}


def load_policy(name: str) -> Policy:
    """A shipped policy by name, or the user's own as `module:Class`.

    Raises:
        InvalidRequest: There is none, or it cannot be imported.
    """
    if name in POLICIES:
        return POLICIES[name]()
    module, colon, cls = name.partition(":")
    if not colon:
        raise InvalidRequest(
            f"unknown policy {name!r}; shipped are {', '.join(POLICIES)}, or give module:Class",
            field="policy",
        )
    import importlib

    try:
        return getattr(importlib.import_module(module), cls)()
    except (ImportError, AttributeError) as error:
        raise InvalidRequest(
            f"policy {name!r} cannot be loaded: {error}", field="policy"
        ) from error


def steer(
    xy: NDArray[np.float64], yaw: float, target: NDArray[np.float64], left: float,
    robot: RobotProfile,
) -> tuple[float, float]:  # fmt: skip
    """Command that brings a robot at `xy` with heading `yaw` towards `target`.

    Args:
        xy: Position in the world [m], [2].
        yaw: Heading [rad].
        target: Point to head for [m], [2].
        left: Distance to the goal [m]: the robot must be able to stop in it.
        robot: Limits.
    """
    offset = np.asarray(target) - xy
    error = float(np.arctan2(offset[1], offset[0]) - yaw)
    error = (error + np.pi) % (2 * np.pi) - np.pi
    w = float(np.clip(TURN_GAIN * error, -robot.w_max, robot.w_max))
    if abs(error) > TURN_FIRST_RAD:
        return 0.0, w
    # Braking distance v^2 / 2a, with a margin of two for the delay of one command.
    brake = np.sqrt(robot.a_max * max(left, 0.0))
    return float(min(robot.v_max * np.cos(error), brake)), w


def _dense(path: NDArray[np.float64], spacing: float) -> NDArray[np.float64]:
    length = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(path, axis=0), axis=1))])
    at = np.linspace(0, length[-1], max(2, int(length[-1] / spacing) + 1))
    return np.stack([np.interp(at, length, path[:, k]) for k in range(2)], 1)
