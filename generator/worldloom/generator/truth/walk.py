"""Scene -> cameras: the photo's pose, and a smooth walk that sees the whole navigable space."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from worldloom.generator.truth.scene import TruthScene
from worldloom.scene.cameras import Cameras, intrinsics
from worldloom.scene.frame import (
    CAMERA_TO_FLU,
    quat_multiply_wxyz,
    quat_wxyz_from_matrix,
    rigid,
    rotation_about,
    yaw_quat_wxyz,
)
from worldloom.scene.path import CameraPath, Keyframe

VIEW_SIZE = (416, 240)
"""Width and height of the views that are scored [px] (architecture page 3.3)."""


def camera_pose(
    position: tuple[float, float, float], yaw_deg: float, pitch_deg: float
) -> NDArray[np.float64]:
    """Camera to world [4 4] (OpenCV axes) of a level camera; pitch above 0 looks up."""
    yaw = rotation_about([0, 0, 1], np.radians(yaw_deg))
    pitch = rotation_about([0, 1, 0], -np.radians(pitch_deg))
    return rigid(yaw @ pitch @ CAMERA_TO_FLU, position)


def photo_camera(scene: TruthScene, size: tuple[int, int] = VIEW_SIZE) -> Cameras:
    """The one camera of the photo: above the origin, looking along +X."""
    c2w = camera_pose((0.0, 0.0, scene.camera_height), 0.0, scene.camera_pitch_deg)
    K = intrinsics(scene.fov_deg, *size)
    return Cameras(c2w[None], K[None], np.array([size], np.int64), np.zeros(1, np.int64))


def walk_path(scene: TruthScene, frames: int | None = None) -> CameraPath:
    """The walk as a `level` path relative to the photo; time is spent by distance and turn.

    Args:
        scene: The place.
        frames: Frames of the path; None takes as many as the scene's file says.
    """
    keys = []
    start = np.array([0.0, 0.0, scene.camera_height])
    quats = [_turn(scene, yaw, pitch) for yaw, pitch in scene.walk[:, 3:]]
    effort = _effort(scene.walk)
    for at, row, quat in zip(effort, scene.walk, quats, strict=True):
        position = tuple((row[:3] - start).tolist())
        keys.append(Keyframe(float(at), position, tuple(quat.tolist())))
    return CameraPath(tuple(keys), frames or scene.walk_frames, "level", f"walk-{scene.name}")


def walkthrough(
    scene: TruthScene, frames: int | None = None, *, size: tuple[int, int] = VIEW_SIZE
) -> Cameras:
    """Cameras of the walk in the world frame; the first is the photo's."""
    photo = photo_camera(scene, size)
    return walk_path(scene, frames).resolve(photo.c2w[0], photo.K[0], size)


def _turn(scene: TruthScene, yaw_deg: float, pitch_deg: float) -> NDArray[np.float64]:
    """Turn against the photo (quaternion wxyz [4]) that gives this yaw and pitch."""
    tilt = rotation_about([0, 1, 0], np.radians(scene.camera_pitch_deg - pitch_deg))
    return quat_multiply_wxyz(yaw_quat_wxyz(np.radians(yaw_deg)), quat_wxyz_from_matrix(tilt))


def _effort(walk: NDArray[np.float64]) -> NDArray[np.float64]:
    """Time of each way point: metres walked plus radians turned, so that nothing is rushed."""
    step = np.linalg.norm(np.diff(walk[:, :3], axis=0), axis=1)
    turn = np.radians(np.abs(np.diff(walk[:, 3:], axis=0)).sum(1))
    return np.concatenate([[0.0], np.cumsum(step + turn)])
