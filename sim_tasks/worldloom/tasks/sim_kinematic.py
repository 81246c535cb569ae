"""Unicycle on the exact collider: no forces, but the same floors, steps, walls and holes.

The robot is an upright disc that stands on the plane through the floor under its footprint. It
accelerates within its limits, never slides along an obstacle, climbs what is at most `max_step`
high or `max_slope_deg` steep, and falls where no floor carries its centre (spec navigation 4.7).
"""

from __future__ import annotations

import math

import numba as nb
import numpy as np
from numpy.typing import NDArray

from worldloom.scene.frame import quat_wxyz_from_matrix
from worldloom.scene.mesh import TriMesh
from worldloom.tasks.sim_base import (
    CONTROL_HZ,
    GRAVITY,
    STEP_SLACK_M,
    Pose2,
    RobotBody,
    State,
    start_pose,
)
from worldloom.tasks.sim_collider import ColliderIndex, disc_penetration, surface_at

SUBSTEP_HZ = 40.0  # spec navigation 4.7.
TOUCH_M = 5e-4  # Overlaps below this are rounding of the collider, not contact.
GAP_M = 2e-4  # A blocked move ends this near to the obstacle.
STEEPER = 1.1  # Slopes up to this times the limit still pass: noise of the floor, not a ramp.
RIM_POINTS = 8
"""Points on the rim of the footprint that, with its centre, feel for the floor."""

X, Y, Z, YAW, V, W, VZ, SLOPE_X, SLOPE_Y, CONTACT, DEPTH = range(11)
"""Fields of the state vector that the compiled step works on."""


class KinematicSim:
    """A robot in a world, without forces."""

    name = "kinematic"

    def __init__(self, mesh: TriMesh | ColliderIndex, robot: RobotBody) -> None:
        """Index the collider.

        Args:
            mesh: Collider of the world, or its index when several simulators share it.
            robot: Body and limits.

        Raises:
            InvalidRequest: The collider is empty or not finite.
        """
        self.dt_control = 1.0 / CONTROL_HZ
        self.index = mesh if isinstance(mesh, ColliderIndex) else ColliderIndex.build(mesh)
        self._body = np.array(
            [
                robot.radius,
                robot.height,
                robot.max_step,
                math.tan(math.radians(robot.max_slope_deg)),
                robot.a_max,
                robot.alpha_max,
            ]
        )
        self._limits = (robot.v_max, robot.w_max)
        self._state = np.zeros(11)
        self._steps = 0

    def reset(self, episode: Pose2) -> State:
        """Stand at the start, on the floor that is there."""
        x, y, z, yaw = start_pose(episode)
        self._state[:] = 0
        self._state[:4] = x, y, z, yaw
        self._steps = 0
        _stand(self._state, self._body, 0.0, self.index.columns)
        return self._read()

    def step(self, v: float, w: float) -> State:
        """Drive for one control step; commands beyond the robot's limits are clipped."""
        v_max, w_max = self._limits
        v, w = max(-v_max, min(v_max, v)), max(-w_max, min(w_max, w))
        substeps = round(SUBSTEP_HZ * self.dt_control)
        _drive(self._state, self._body, v, w, substeps, 1.0 / SUBSTEP_HZ, self.index.columns)
        self._steps += 1
        return self._read()

    def close(self) -> None:
        """Nothing to free."""

    def _read(self) -> State:
        s = self._state
        twist = np.array([s[V], 0.0, s[VZ], 0.0, 0.0, s[W]])
        pose = np.concatenate([s[:3], _orientation(s[YAW], s[SLOPE_X], s[SLOPE_Y])])
        return State(
            t=self._steps * self.dt_control,
            pose_xyz_wxyz=pose,
            twist=twist,
            contact=bool(s[CONTACT]),
            penetration=float(s[DEPTH]),
        )


def _orientation(yaw: float, slope_x: float, slope_y: float) -> NDArray[np.float64]:
    """Quaternion wxyz [4] of a body that heads along `yaw` on a plane of those slopes."""
    if slope_x == 0.0 and slope_y == 0.0:
        return np.array([math.cos(yaw / 2), 0.0, 0.0, math.sin(yaw / 2)])
    up = np.array([-slope_x, -slope_y, 1.0])
    up /= np.linalg.norm(up)
    ahead = np.array([math.cos(yaw), math.sin(yaw), 0.0])
    forward = ahead - (ahead @ up) * up
    forward /= np.linalg.norm(forward)
    return quat_wxyz_from_matrix(np.stack([forward, np.cross(up, forward), up], axis=1))


@nb.njit(cache=True)
def _drive(s, body, v_cmd, w_cmd, substeps, dt, columns):
    """Advance the state vector by one control step."""
    s[CONTACT], s[DEPTH] = 0.0, 0.0
    for _ in range(substeps):
        s[V] += max(-body[4] * dt, min(body[4] * dt, v_cmd - s[V]))
        s[W] += max(-body[5] * dt, min(body[5] * dt, w_cmd - s[W]))
        heading = s[YAW] + 0.5 * s[W] * dt
        s[YAW] += s[W] * dt
        climb = s[SLOPE_X] * np.cos(heading) + s[SLOPE_Y] * np.sin(heading)
        run = s[V] * dt / np.sqrt(1.0 + climb * climb)
        _move(s, body, run * np.cos(heading), run * np.sin(heading), columns)
        _stand(s, body, dt, columns)


@nb.njit(cache=True)
def _move(s, body, dx, dy, columns):
    """Move by (dx, dy) as far as no obstacle is in the way; never along it."""
    if dx == 0.0 and dy == 0.0:
        return
    depth = _overlap(s, body, s[X] + dx, s[Y] + dy, columns)
    share = 1.0
    if depth > TOUCH_M:
        before = _overlap(s, body, s[X], s[Y], columns)
        # A body that already overlaps (a bad start) may leave, but not go deeper.
        if before <= TOUCH_M or depth >= before:
            s[CONTACT], s[DEPTH] = 1.0, max(s[DEPTH], depth)
            s[V] = 0.0
            share, blocked = 0.0, 1.0
            length = np.sqrt(dx * dx + dy * dy)
            while (blocked - share) * length > GAP_M:
                middle = 0.5 * (share + blocked)
                near = _overlap(s, body, s[X] + middle * dx, s[Y] + middle * dy, columns)
                if near > max(TOUCH_M, before):
                    blocked = middle
                else:
                    share = middle
    s[X] += share * dx
    s[Y] += share * dy


@nb.njit(cache=True)
def _overlap(s, body, x, y, columns):
    """How deep the body would be in an obstacle at (x, y), standing on the floor there."""
    plane, _ = _support(s, body, x, y, columns)
    low, high, radius = body[2] + STEP_SLACK_M, body[1], body[0]
    depth = disc_penetration(x, y, plane, low, high, radius, columns)
    excess = np.sqrt(plane[1] * plane[1] + plane[2] * plane[2]) - STEEPER * body[3]
    if excess > 0 and plane[0] > s[Z] + 1e-9:
        depth = max(depth, TOUCH_M + excess * radius)
    return depth


@nb.njit(cache=True)
def _stand(s, body, dt, columns):
    """Put the body on the floor under it, or let it fall for `dt` seconds."""
    plane, carried = _support(s, body, s[X], s[Y], columns)
    fallen = s[Z] + s[VZ] * dt - 0.5 * GRAVITY * dt * dt
    if carried and (plane[0] >= fallen or dt == 0.0):
        s[Z], s[SLOPE_X], s[SLOPE_Y], s[VZ] = plane[0], plane[1], plane[2], 0.0
        return
    s[VZ] -= GRAVITY * dt
    s[Z] = fallen


@nb.njit(cache=True)
def _support(s, body, x, y, columns):
    """Plane (height, slope x, slope y) of the floor under a footprint, and whether it carries."""
    z0 = s[Z] + s[SLOPE_X] * (x - s[X]) + s[SLOPE_Y] * (y - s[Y])
    expected = (z0, s[SLOPE_X], s[SLOPE_Y])
    found = np.zeros(RIM_POINTS, np.bool_)
    n, sx, sy, sxx, sxy, syy, sz, sxz, syz = 0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    centre = False
    for i in range(RIM_POINTS + 1):
        reach = body[0] if i < RIM_POINTS else 0.0
        angle = 2 * np.pi * i / RIM_POINTS
        px, py = reach * np.cos(angle), reach * np.sin(angle)
        z = _floor_for(
            x + px, y + py, z0 + expected[1] * px + expected[2] * py, reach, body, columns
        )
        if z == -np.inf:
            continue
        if i < RIM_POINTS:
            found[i] = True
        else:
            centre = True
        n, sx, sy, sz = n + 1, sx + px, sy + py, sz + z
        sxx, sxy, syy = sxx + px * px, sxy + px * py, syy + py * py
        sxz, syz = sxz + px * z, syz + py * z
    round_about = _surrounded(found)
    if not (centre or round_about):
        return expected, False
    if not round_about:
        # Too little floor for a plane of its own: keep the tilt, take the mean height.
        return ((sz - expected[1] * sx - expected[2] * sy) / n, expected[1], expected[2]), True
    return _plane(n, sx, sy, sxx, sxy, syy, sz, sxz, syz), True


@nb.njit(cache=True)
def _floor_for(x, y, expected, reach, body, columns):
    """Height of the floor that can carry the body at one point of its footprint, or -inf.

    A floor that rises as a ramp may be higher there than a step; the top of a box may not.
    """
    step, steepest = body[2] + STEP_SLACK_M, body[3]
    z, slope = surface_at(x, y, expected + step + reach * steepest, columns)
    if z > expected + step + reach * min(slope, steepest):
        z, slope = surface_at(x, y, expected + step, columns)
    return -np.inf if z < expected - step - reach * steepest else z


@nb.njit(cache=True)
def _plane(n, sx, sy, sxx, sxy, syy, sz, sxz, syz):
    """Least-squares plane through points of these sums (Cramer's rule)."""
    c0, c1, c2 = sxx * syy - sxy * sxy, sxy * sy - sx * syy, sx * sxy - sxx * sy
    det = n * c0 + sx * c1 + sy * c2
    a = sz * c0 + sxz * c1 + syz * c2
    b = sz * c1 + sxz * (n * syy - sy * sy) + syz * (sx * sy - n * sxy)
    c = sz * c2 + sxz * (sx * sy - n * sxy) + syz * (n * sxx - sx * sx)
    return a / det, b / det, c / det


@nb.njit(cache=True)
def _surrounded(found):
    """Whether the rim points with floor leave no open half circle."""
    n = found.shape[0]
    for i in range(n):
        carried = False
        for k in range(n // 2):
            carried = carried or found[(i + k) % n]
        if not carried:
            return False
    return True
