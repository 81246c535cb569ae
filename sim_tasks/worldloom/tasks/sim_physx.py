"""PhysX on a CPU (ovphysx, the engine inside Isaac Sim) as a `Simulator`, in a child process.

What the robot is made of and what counts as a contact: `sim_physx_stage`. The process itself:
`sim_physx_child`. One session serves a whole dataset; an episode starts by teleport.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from worldloom.scene.errors import EngineFailed, InvalidRequest
from worldloom.tasks.sim_base import CONTROL_HZ, Pose2, RobotBody, State, start_pose
from worldloom.tasks.sim_physx_stage import BodyShape, robot_stage

OPEN_TIMEOUT_S = 120.0  # Cooking a million triangles takes four seconds on a quiet machine.
STEP_TIMEOUT_S = 30.0  # A control step takes 2 ms; a child that is silent this long is stuck.
LOG_TAIL = 1500  # Characters of the child's own messages that an error repeats.
SUBSTEPS = 12
"""Physics steps (120 Hz) in one control step (10 Hz)."""


def physx_available() -> bool:
    """Whether the PhysX backend can be started in this environment."""
    return importlib.util.find_spec("ovphysx") is not None


class PhysxProcess:
    """A child process with one stage, and the pipe to it."""

    def __init__(self, stage_text: str) -> None:
        """Start the child and attach the stage.

        Raises:
            InvalidRequest: ovphysx is not installed.
            EngineFailed: The stage could not be attached.
        """
        if not physx_available():
            raise InvalidRequest(
                "the physx backend needs the package ovphysx, which is not installed; run "
                "pip install 'worldloom[physics]' or use --backend kinematic",
                field="backend",
            )
        self._folder = Path(tempfile.mkdtemp(prefix="worldloom-physx-"))
        stage = self._folder / "task.usda"
        stage.write_text(stage_text, encoding="utf-8")
        ours, theirs = socket.socketpair()
        with (self._folder / "log.txt").open("wb") as log, theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "worldloom.tasks.sim_physx_child", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self._folder,
                env=_child_environment(),
            )
        self._pipe = Connection(ours.detach())
        self._open = True
        self.call("open", str(stage), timeout_s=OPEN_TIMEOUT_S)

    def call(self, name: str, *arguments: Any, timeout_s: float = STEP_TIMEOUT_S) -> Any:
        """Send one command and wait for its answer.

        Raises:
            EngineFailed: The child reports an error, hangs, or is gone.
        """
        if not self._open:
            raise EngineFailed("the physics process is closed; start another simulator")
        try:
            self._pipe.send((name, *arguments))
            if not self._pipe.poll(timeout_s):
                raise self._failed(f"PhysX did not answer {name!r} within {timeout_s:g} s")
            status, answer = self._pipe.recv()
        except (EOFError, OSError) as error:
            raise self._failed(f"the physics process ended during {name!r}") from error
        if status != "ok":
            raise EngineFailed(f"PhysX could not {name}: {answer}")
        return answer

    def close(self) -> None:
        """End the child and remove its folder."""
        if self._open:
            self._open = False
            self._end(("close",))

    def _failed(self, text: str) -> EngineFailed:
        self._open = False
        log = self._folder / "log.txt"
        tail = log.read_text(errors="replace")[-LOG_TAIL:].strip() if log.is_file() else ""
        self._process.kill()
        self._end(None)
        return EngineFailed(f"{text}. It said: {tail or 'nothing'}")

    def _end(self, goodbye: tuple | None) -> None:
        try:
            if goodbye is not None:
                self._pipe.send(goodbye)
            self._process.wait(timeout=10)
        except (OSError, subprocess.TimeoutExpired):
            self._process.kill()
            self._process.wait()
        self._pipe.close()
        shutil.rmtree(self._folder, ignore_errors=True)


class PhysxSim:
    """A robot in a world, with forces."""

    name = "physx"

    def __init__(self, tiles: Sequence[Path], robot: RobotBody) -> None:
        """Start PhysX on the collision layers of a world.

        Args:
            tiles: Collision layers, each with a mesh at `Mesh` under its default prim.
            robot: Body and limits.

        Raises:
            InvalidRequest: ovphysx is not installed, or there is no collider.
            EngineFailed: PhysX did not start or refused the stage.
        """
        if not tiles:
            raise InvalidRequest("the world has no collision layers; generate it again")
        self.dt_control = 1.0 / CONTROL_HZ
        self._limits = (robot.v_max, robot.w_max)
        self._steps = 0
        stage = robot_stage([tile.resolve() for tile in tiles], BodyShape.of(robot))
        self._process = PhysxProcess(stage)
        self._process.call("robot", robot.a_max, robot.alpha_max)

    def reset(self, episode: Pose2) -> State:
        """Teleport to the start, at rest on the floor.

        Raises:
            EngineFailed: There is no floor under the start, or PhysX is gone.
        """
        self._steps = 0
        return self._state(self._process.call("reset", *start_pose(episode)))

    def step(self, v: float, w: float) -> State:
        """Drive for one control step; commands beyond the robot's limits are clipped.

        Raises:
            EngineFailed: PhysX is gone or the pose is no longer finite.
        """
        v_max, w_max = self._limits
        v, w = max(-v_max, min(v_max, v)), max(-w_max, min(w_max, w))
        self._steps += 1
        return self._state(self._process.call("drive", v, w, SUBSTEPS))

    def close(self) -> None:
        """End the physics process."""
        self._process.close()

    def _state(self, answer: tuple) -> State:
        pose, twist, contact, impulse, penetration = answer
        return State(self._steps * self.dt_control, pose, twist, contact, impulse, penetration)


def _child_environment() -> dict[str, str]:
    """What the child needs to import what this process can import, and nothing of Kit's."""
    kept = {key: os.environ[key] for key in ("PATH", "HOME", "LANG", "TMPDIR") if key in os.environ}
    return {**kept, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
