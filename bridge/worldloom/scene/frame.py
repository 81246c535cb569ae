"""Frames of reference: which axis points where, and the maps between them.

World: Z up, X forward from the first camera, Y left, right-handed, metres. Cameras in files and on
the wire: OpenCV axes (x right, y down, z forward). USD cameras look down -Z with +Y up.
Quaternions are wxyz everywhere. Every axis is pinned by tests/scene/test_frame.py.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

CAMERA_TO_FLU: Array = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])
"""Rotation of OpenCV camera axes (right, down, forward) into body axes (forward, left, up)."""

FLIP_YZ: Array = np.diag([1.0, -1.0, -1.0])
"""OpenCV camera axes <-> USD camera axes (right, up, backward); its own inverse."""

HABITAT_FROM_WORLD: Array = np.array([[0.0, -1.0, 0.0], [0.0, 0.0, 1.0], [-1.0, 0.0, 0.0]])
"""World (X forward, Y left, Z up) -> Habitat (x right, y up, -z forward)."""


def rigid(rotation: ArrayLike, translation: ArrayLike) -> Array:
    """Rotation [... 3 3] and translation [... 3] as a transform [... 4 4]."""
    rotation, translation = np.asarray(rotation, float), np.asarray(translation, float)
    lead = np.broadcast_shapes(rotation.shape[:-2], translation.shape[:-1])
    out = np.zeros((*lead, 4, 4))
    out[..., :3, :3], out[..., :3, 3], out[..., 3, 3] = rotation, translation, 1.0
    return out


def invert_rigid(transform: ArrayLike) -> Array:
    """Inverse of rigid transforms [... 4 4]; exact, since the rotation is transposed."""
    transform = np.asarray(transform, float)
    rotation = np.swapaxes(transform[..., :3, :3], -1, -2)
    return rigid(rotation, -np.einsum("...ij,...j->...i", rotation, transform[..., :3, 3]))


def transform_points(transform: ArrayLike, points: ArrayLike) -> Array:
    """Apply one transform [4 4] to points [... 3]."""
    transform, points = np.asarray(transform, float), np.asarray(points, float)
    return points @ transform[:3, :3].T + transform[:3, 3]


def matrix_from_quat_wxyz(quat_wxyz: ArrayLike) -> Array:
    """Quaternions [... 4] (wxyz, any length but zero) -> rotation matrices [... 3 3]."""
    q = np.asarray(quat_wxyz, float)
    w, x, y, z = np.moveaxis(q / np.linalg.norm(q, axis=-1, keepdims=True), -1, 0)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return np.stack([np.stack(row, -1) for row in rows], -2)


def quat_wxyz_from_matrix(rotation: ArrayLike) -> Array:
    """Rotation matrices [... 3 3] -> unit quaternions [... 4], wxyz, w >= 0.

    Builds the four candidates of Shepperd's method and keeps the best conditioned one.
    """
    m = np.asarray(rotation, float)
    d0, d1, d2 = m[..., 0, 0], m[..., 1, 1], m[..., 2, 2]
    a, b, c = (
        m[..., 2, 1] - m[..., 1, 2],
        m[..., 0, 2] - m[..., 2, 0],
        m[..., 1, 0] - m[..., 0, 1],
    )
    s01, s02, s12 = (
        m[..., 0, 1] + m[..., 1, 0],
        m[..., 0, 2] + m[..., 2, 0],
        m[..., 1, 2] + m[..., 2, 1],
    )
    candidates = np.stack(
        [
            np.stack([1 + d0 + d1 + d2, a, b, c], -1),
            np.stack([a, 1 + d0 - d1 - d2, s01, s02], -1),
            np.stack([b, s01, 1 - d0 + d1 - d2, s12], -1),
            np.stack([c, s02, s12, 1 - d0 - d1 + d2], -1),
        ],
        -2,
    )
    diagonal = np.diagonal(candidates, axis1=-2, axis2=-1)
    best = np.argmax(diagonal, axis=-1)
    q = np.take_along_axis(candidates, best[..., None, None], axis=-2)[..., 0, :]
    q = q / np.linalg.norm(q, axis=-1, keepdims=True)
    return np.where(q[..., :1] < 0, -q, q)


def quat_multiply_wxyz(left: ArrayLike, right: ArrayLike) -> Array:
    """Hamilton product of quaternions [... 4] (wxyz): first `right`, then `left`."""
    w1, x1, y1, z1 = np.moveaxis(np.asarray(left, float), -1, 0)
    w2, x2, y2, z2 = np.moveaxis(np.asarray(right, float), -1, 0)
    return np.stack(
        [
            w1 * w2 - x1 * x2 - y1 * y2 - z1 * z2,
            w1 * x2 + x1 * w2 + y1 * z2 - z1 * y2,
            w1 * y2 - x1 * z2 + y1 * w2 + z1 * x2,
            w1 * z2 + x1 * y2 - y1 * x2 + z1 * w2,
        ],
        -1,
    )


def slerp_wxyz(start: ArrayLike, end: ArrayLike, t: ArrayLike) -> Array:
    """Interpolate unit quaternions [... 4] (wxyz) along the shorter arc at `t` [...] in 0..1."""
    q0, q1 = np.asarray(start, float), np.asarray(end, float)
    t = np.asarray(t, float)[..., None]
    dot = np.sum(q0 * q1, -1, keepdims=True)
    q1, dot = np.where(dot < 0, -q1, q1), np.abs(dot)
    angle = np.arccos(np.clip(dot, 0.0, 1.0))
    # Below this angle sin() loses its digits and a straight line is exact to rounding.
    small = angle < 1e-6
    sine = np.where(small, 1.0, np.sin(angle))
    w0 = np.where(small, 1 - t, np.sin((1 - t) * angle) / sine)
    w1 = np.where(small, t, np.sin(t * angle) / sine)
    out = w0 * q0 + w1 * q1
    return out / np.linalg.norm(out, axis=-1, keepdims=True)


def rotation_about(axis: ArrayLike, angle_rad: ArrayLike) -> Array:
    """Rotation matrices [... 3 3] by `angle_rad` [...] about one axis [3] (right-hand rule)."""
    axis = np.asarray(axis, float)
    axis = axis / np.linalg.norm(axis)
    half = 0.5 * np.asarray(angle_rad, float)
    quat = np.concatenate([np.cos(half)[..., None], np.sin(half)[..., None] * axis], -1)
    return matrix_from_quat_wxyz(quat)


def yaw_quat_wxyz(yaw_rad: ArrayLike) -> Array:
    """Quaternions [... 4] (wxyz) of a turn by `yaw_rad` [...] about +Z (left is positive)."""
    half = 0.5 * np.asarray(yaw_rad, float)
    zero = np.zeros_like(half)
    return np.stack([np.cos(half), zero, zero, np.sin(half)], -1)


def yaw_of_quat_wxyz(quat_wxyz: ArrayLike) -> Array:
    """Heading [rad] about +Z of quaternions [... 4] (wxyz)."""
    w, x, y, z = np.moveaxis(np.asarray(quat_wxyz, float), -1, 0)
    return np.arctan2(2 * (w * z + x * y), 1 - 2 * (y * y + z * z))


def level_from_up(up_in_camera: ArrayLike) -> Array:
    """Camera-to-world rotation [3 3] of a camera that sees `up_in_camera` [3] as up.

    The world is Z up with X along the horizontal part of the viewing direction.

    Args:
        up_in_camera: World up in OpenCV camera axes, shape [3], any length but zero.
    """
    up = np.asarray(up_in_camera, float)
    up = up / np.linalg.norm(up)
    forward = np.array([0.0, 0.0, 1.0])
    # A camera that looks straight up or down has no horizontal view: take the image's up instead.
    if abs(forward @ up) > 0.999:
        forward = np.array([0.0, -1.0, 0.0]) * -np.sign(forward @ up)
    x_axis = forward - (forward @ up) * up
    x_axis = x_axis / np.linalg.norm(x_axis)
    return np.stack([x_axis, np.cross(up, x_axis), up])


def look_at(eye: ArrayLike, target: ArrayLike, up: ArrayLike = (0.0, 0.0, 1.0)) -> Array:
    """Camera-to-world [4 4] (OpenCV axes) at `eye` [3] looking at `target` [3], world metres."""
    eye, up = np.asarray(eye, float), np.asarray(up, float)
    forward = np.asarray(target, float) - eye
    forward = forward / np.linalg.norm(forward)
    right = np.cross(forward, up)
    right = right / np.linalg.norm(right)
    return rigid(np.stack([right, np.cross(forward, right), forward], -1), eye)


def rotation_error(rotation: ArrayLike) -> Array:
    """How far matrices [... 3 3] are from rotations: max |R R^T - I|, or inf for mirrors."""
    m = np.asarray(rotation, float)
    with np.errstate(invalid="ignore", over="ignore"):
        error = np.abs(m @ np.swapaxes(m, -1, -2) - np.eye(3)).max((-2, -1))
        return np.where(np.linalg.det(m) > 0, error, np.inf)


def turn_angle(first: ArrayLike, second: ArrayLike) -> Array:
    """Angle [rad] between rotation matrices [... 3 3]."""
    relative = np.swapaxes(np.asarray(first, float), -1, -2) @ np.asarray(second, float)
    trace = np.trace(relative, axis1=-2, axis2=-1)
    return np.arccos(np.clip((trace - 1) / 2, -1.0, 1.0))
