"""The process that owns PhysX: reads commands from a pipe, steps, answers with plain arrays.

PhysX wants a process to itself: its schemas can be registered only before the first stage, its CPU
mode cannot be left again, and native code that dies takes its process along. So the parent
(`sim_physx`) never imports it and stays healthy whatever happens here. Run as
`python -m worldloom.tasks.sim_physx_child FD`.
"""

from __future__ import annotations

import math
import sys
import warnings
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worldloom.tasks.sim_physx_stage import HULL, ROBOT, SPHERES

PHYSICS_HZ = 120
CONTACTS_MAX = 256  # Contact points that one read can hold.
SETTLE_S = 0.2  # Time in which a robot set down a few millimetres high comes to rest.
LIFT_M = 0.003
GRIP_HZ = 20.0  # How fast tyres pull a body back that a slope moved aside [1/s].
GRIP_MAX = 0.2  # Fastest such correction [m/s and rad/s].
NO_FORCE = [0.0, 0.0, 0.0]
FLOOR_PROBE_M = 1.0  # Looked for a floor this far under a start.


class Session:
    """One stage attached to PhysX."""

    def __init__(self, stage_file: str) -> None:
        import ovphysx
        import ovstage
        from ovphysx import GlobalConfigKey, PhysX, set_global_config
        from ovphysx.samples.python_samples.schema_support import physx_schema_paths

        schemas = [*map(str, physx_schema_paths()), str(ovphysx.newton_schema_root())]
        ovstage.population.register_usd_schemas(schemas)
        PhysX.set_cpu_mode(True)
        # Solving on the calling thread is eight times faster for one robot (spec simulation 2a).
        set_global_config(GlobalConfigKey.NUM_THREADS, 0)
        self.physx, self._stage = PhysX(), ovstage.Stage("worldloom")
        domains = ovstage.PopulationDomain.ALL
        ovstage.population.open_usd(self._stage, stage_file, ordinal=1, domains=domains)
        self._stage.advance_write_floor(ordinal=1).wait()
        self.physx.wait_task(self.physx.attach_ovstage(self._stage, read_ordinal=1))
        self._bindings: list[Any] = []

    def bind(self, pattern: str, kind: str) -> tuple[Any, NDArray[np.float32]]:
        """A tensor binding and the array that it reads into and writes from."""
        from ovphysx.types import TensorType

        binding = self.physx.create_tensor_binding(
            pattern=pattern, tensor_type=getattr(TensorType, kind)
        )
        self._bindings.append(binding)
        return binding, np.zeros(binding.shape, np.float32)

    def bind_contacts(self, path: str) -> Any:
        """The contacts of one collider."""
        binding = self.physx.create_contact_binding(
            sensor_patterns=[path], max_contact_data_count=CONTACTS_MAX
        )
        self._bindings.append(binding)
        return binding

    def floor_below(self, x: float, y: float, z: float) -> float | None:
        """Height of the collider under a point, as PhysX sees it."""
        hits = self.physx.raycast([x, y, z], [0.0, 0.0, -1.0], FLOOR_PROBE_M)
        return float(hits[0]["position"][2]) if hits else None

    def step(self) -> None:
        """One physics step."""
        self.physx.step_sync(1.0 / PHYSICS_HZ)

    def close(self) -> None:
        """Detach in the one order that PhysX accepts."""
        for binding in self._bindings:
            binding.destroy()
        self.physx.wait_task(self.physx.detach_ovstage())
        self._stage.destroy()
        self.physx.destroy()


class Robot:
    """The velocity-driven body of `sim_physx_stage`."""

    def __init__(self, session: Session, a_max: float, alpha_max: float) -> None:
        self._session = session
        self._accelerations = (a_max / PHYSICS_HZ, alpha_max / PHYSICS_HZ)
        self._pose, self._p = session.bind(ROBOT, "RIGID_BODY_POSE")
        self._velocity, self._u = session.bind(ROBOT, "RIGID_BODY_VELOCITY")
        self._contacts = session.bind_contacts(HULL)
        self._net = np.zeros((1, 3), np.float32)
        scalar, vector = (CONTACTS_MAX, 1), (CONTACTS_MAX, 3)
        self._raw = (
            np.zeros(scalar, np.float32),
            np.zeros(vector, np.float32),
            np.zeros(vector, np.float32),
            np.zeros(scalar, np.float32),
            np.zeros((1, 2), np.int32),
            np.zeros((CONTACTS_MAX, 2), np.int64),
        )
        self._v = self._w = 0.0
        self._anchor = (0.0, 0.0, 0.0)
        """Where the wheels say the robot is: x, y [m] and heading [rad]."""

    def reset(self, x: float, y: float, z: float, yaw: float) -> tuple:
        """Teleport to a start and settle.

        Raises:
            RuntimeError: There is no floor under the start.
        """
        if self._session.floor_below(x, y, z + 0.1) is None:
            raise RuntimeError(f"PhysX finds no floor under the start ({x:.3f}, {y:.3f}, {z:.3f})")
        self._p[0] = x, y, z + LIFT_M, 0.0, 0.0, math.sin(yaw / 2), math.cos(yaw / 2)
        self._u[:] = 0
        self._pose.write(self._p)
        self._velocity.write(self._u)
        self._v = self._w = 0.0
        self._anchor = (x, y, yaw)
        return self.drive(0.0, 0.0, round(SETTLE_S * PHYSICS_HZ))

    def drive(self, v: float, w: float, substeps: int) -> tuple:
        """Command a velocity for some physics steps.

        Returns:
            Pose xyz + wxyz [7], body twist [6], contact, impulse [N s], penetration [m].
        """
        touched, impulse, depth = False, 0.0, 0.0
        for _ in range(substeps):
            self._pose.read(self._p)
            self._velocity.read(self._u)
            self._push(v, w)
            self._session.step()
            self._contacts.read_net_normal_forces(self._net)
            if self._net[0].tolist() != NO_FORCE:
                pushed, inside = self._touch()
                touched, impulse, depth = True, impulse + pushed, max(depth, inside)
        self._pose.read(self._p)
        self._velocity.read(self._u)
        pose = np.roll(self._p[0].astype(np.float64), 1)
        pose = np.concatenate([pose[1:4], pose[:1], pose[4:]])
        if not np.isfinite(pose).all():
            raise RuntimeError(f"the pose became {pose}")
        return pose, self._body_twist(), touched, impulse, depth

    def _push(self, v: float, w: float) -> None:
        """Write the velocity of the next step: the ramped command, and the grip of the tyres."""
        # Plain floats: this runs at 120 Hz, and small arrays cost more than their arithmetic.
        x, y, _, ahead_x, ahead_y, yaw = self._place()
        self._v += _clamp(v - self._v, self._accelerations[0])
        self._w += _clamp(w - self._w, self._accelerations[1])
        anchor_x, anchor_y, anchor_yaw = self._anchor
        turn = (anchor_yaw - yaw + math.pi) % (2 * math.pi) - math.pi
        velocity = self._u[0]
        velocity[0] = self._v * ahead_x + _clamp(GRIP_HZ * (anchor_x - x), GRIP_MAX)
        velocity[1] = self._v * ahead_y + _clamp(GRIP_HZ * (anchor_y - y), GRIP_MAX)
        velocity[5] = self._w + _clamp(GRIP_HZ * turn, GRIP_MAX)
        self._velocity.write(self._u)
        step = self._v / PHYSICS_HZ
        self._anchor = (
            anchor_x + step * ahead_x,
            anchor_y + step * ahead_y,
            anchor_yaw + self._w / PHYSICS_HZ,
        )

    def _touch(self) -> tuple[float, float]:
        """Impulse [N s] and depth [m] of the hull's contacts; the command restarts from here."""
        found = self._contacts.read_raw_contact_data(*self._raw)
        forces, separations = self._raw[0][: min(found, CONTACTS_MAX)], self._raw[3]
        # What pushes back also slows the wheels: go on from the speed that is left.
        self._pose.read(self._p)
        self._velocity.read(self._u)
        x, y, _, _, _, yaw = self._place()
        self._v = float(self._body_twist()[0])
        self._anchor = (x, y, yaw)
        depth = -float(separations[: len(forces)].min(initial=0.0))
        return float(forces.sum()) / PHYSICS_HZ, depth

    def _place(self) -> tuple[float, float, float, float, float, float]:
        """Position, the level part of the forward axis, and heading, from the last pose read."""
        px, py, pz, x, y, z, w = self._p[0].tolist()
        ahead_x, ahead_y = 1 - 2 * (y * y + z * z), 2 * (x * y + w * z)
        return px, py, pz, ahead_x, ahead_y, math.atan2(ahead_y, ahead_x)

    def _body_twist(self) -> NDArray[np.float64]:
        x, y, z, w = (float(value) for value in self._p[0, 3:])
        rotation = np.array(
            [
                [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
                [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
                [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
            ]
        )
        velocity = self._u[0].astype(np.float64)
        return np.concatenate([rotation.T @ velocity[:3], rotation.T @ velocity[3:]])


def _clamp(value: float, limit: float) -> float:
    return max(-limit, min(limit, value))


def drop(session: Session, positions: NDArray[np.float64], seconds: float) -> tuple:
    """Let the spheres of the stage fall from `positions` [n 3].

    Returns:
        Where each sphere is at the end and half a second before it, each [n 3].
    """
    binding, poses = session.bind(f"{SPHERES}/*", "RIGID_BODY_POSE")
    order = np.argsort(np.argsort(binding.prim_paths))
    poses[:, :3], poses[:, 3:] = positions[order], (0, 0, 0, 1)
    binding.write(poses)
    early = np.zeros_like(poses)
    steps = round(seconds * PHYSICS_HZ)
    for step in range(steps):
        if step == steps - PHYSICS_HZ // 2:
            binding.read(early)
        session.step()
    binding.read(poses)
    back = np.argsort(order)
    return poses[back, :3].astype(np.float64), early[back, :3].astype(np.float64)


def serve(pipe: Connection) -> None:
    """Answer commands until the pipe closes or `close` arrives."""
    session: Session | None = None
    robot: Robot | None = None
    while True:
        try:
            name, *arguments = pipe.recv()
        except EOFError:
            break
        try:
            if name == "open":
                session = Session(*arguments)
                answer: Any = None
            elif name == "robot":
                robot = Robot(session, *arguments)
                answer = None
            elif name == "reset":
                answer = robot.reset(*arguments)
            elif name == "drive":
                answer = robot.drive(*arguments)
            elif name == "drop":
                answer = drop(session, *arguments)
            else:
                break
            pipe.send(("ok", answer))
        except Exception as error:  # noqa: BLE001 - the parent decides what a failure means.
            pipe.send(("error", f"{type(error).__name__}: {error}"))
    if session is not None:
        session.close()


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    serve(Connection(int(sys.argv[1])))
