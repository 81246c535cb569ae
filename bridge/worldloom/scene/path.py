"""Camera paths: keyframes relative to the photo's camera -> cameras of every frame.

A path is drawn before anything is known of the photo, so its keyframes are relative. In a `level`
path X is the horizontal part of the viewing direction, Y is left and Z is up against gravity; a
turn is a turn about these axes and the photo's own pitch and roll stay below it, so that a pan
keeps the horizon straight. In a `camera` path the axes are the photo camera's own OpenCV axes,
as in Lyra's files. Positions are metres; Catmull-Rom through the positions, slerp between turns.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from worldloom.scene.cameras import Cameras, check_poses
from worldloom.scene.errors import InvalidCameraPath
from worldloom.scene.frame import (
    CAMERA_TO_FLU,
    matrix_from_quat_wxyz,
    rigid,
    slerp_wxyz,
    turn_angle,
)
from worldloom.scene.limits import Limits

PATH_SCHEMA = "worldloom.path/1"
CHUNK_FRAMES = 80  # 20 latents x 4 frames, fixed by the released Lyra weights (spec generation 0).

PathFrame = Literal["level", "camera"]


@dataclass(frozen=True)
class Keyframe:
    """One pose of a path, relative to the photo's camera."""

    t: float
    """Time on the path; any unit, rising."""
    position: tuple[float, float, float]
    """Offset from the photo's camera in the path's axes [m]."""
    orientation_wxyz: tuple[float, float, float, float] = (1.0, 0.0, 0.0, 0.0)
    """Turn against the photo's camera in the path's axes, unit quaternion wxyz."""
    fov_deg: float | None = None
    """Horizontal field of view [degrees]; None keeps the photo's."""


@dataclass(frozen=True)
class CameraPath:
    """A smooth path through keyframes, sampled at `frames` equal steps of time."""

    keyframes: tuple[Keyframe, ...]
    """At least two, with rising times; the first should be the photo's own pose."""
    frames: int
    """Frames to generate, the photo included: 1 + 80 n."""
    frame: PathFrame = "level"
    """Axes of positions and turns: gravity-aligned, or the photo camera's own."""
    name: str = "custom"
    """What people call it: the preset's name, or the file's."""

    def check(self, limits: Limits) -> None:
        """Refuse a path that no camera could fly.

        Raises:
            InvalidCameraPath: Names the pose, what is wrong, the limit and the remedy.
        """
        _check_keyframes(self)
        _check_length(self.frames, limits)
        centres, turns = self.sample()
        check_poses(rigid(turns, centres))
        _check_motion(centres, turns, limits)

    def sample(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Relative positions [n 3] in metres and turns [n 3 3] of all frames, in path axes."""
        times = np.array([key.t for key in self.keyframes], float)
        at = np.linspace(times[0], times[-1], self.frames)
        positions = np.array([key.position for key in self.keyframes], float)
        quats = np.array([key.orientation_wxyz for key in self.keyframes], float)
        segment = np.clip(np.searchsorted(times, at, side="right") - 1, 0, len(times) - 2)
        local = (at - times[segment]) / (times[segment + 1] - times[segment])
        turns = matrix_from_quat_wxyz(slerp_wxyz(quats[segment], quats[segment + 1], local))
        return _catmull_rom(times, positions, segment, local), turns

    def fov_deg(self) -> NDArray[np.float64]:
        """Horizontal field of view of all frames [degrees], shape [n]; NaN = the photo's own."""
        times = np.array([key.t for key in self.keyframes], float)
        fov = np.array([np.nan if k.fov_deg is None else k.fov_deg for k in self.keyframes])
        return np.interp(np.linspace(times[0], times[-1], self.frames), times, fov)

    def resolve(self, c2w0: ArrayLike, K0: ArrayLike, size: tuple[int, int]) -> Cameras:
        """Cameras of all frames in the world of the photo's camera.

        Args:
            c2w0: Photo camera to world, OpenCV axes, level world frame [m], shape [4 4].
            K0: Photo intrinsics in pixels at `size`, shape [3 3].
            size: Image width and height in pixels.
        """
        c2w0, K0 = np.asarray(c2w0, float), np.asarray(K0, float)
        offsets, turns = self.sample()
        if self.frame == "camera":
            c2w = c2w0 @ rigid(turns, offsets)
        else:
            base = _level_axes(c2w0)
            rotation = base @ turns @ base.T @ c2w0[:3, :3]
            c2w = rigid(rotation, c2w0[:3, 3] + offsets @ base.T)
        K = np.broadcast_to(K0, (self.frames, 3, 3)).copy()
        fov = np.radians(self.fov_deg())
        focal = np.where(np.isnan(fov), K0[0, 0], 0.5 * size[0] / np.tan(fov / 2))
        K[:, 0, 0] = focal
        K[:, 1, 1] = focal * K0[1, 1] / K0[0, 0]
        sizes = np.broadcast_to(np.array(size, np.int64), (self.frames, 2)).copy()
        return Cameras(c2w, K, sizes, np.arange(self.frames, dtype=np.int64))

    def resampled(self, frames: int) -> CameraPath:
        """The same path with another number of frames."""
        return CameraPath(self.keyframes, frames, self.frame, self.name)

    def to_json(self) -> dict[str, Any]:
        """The path as a `worldloom.path/1` dictionary."""
        keys = [
            {
                "t": float(key.t),
                "position": [float(x) for x in key.position],
                "orientation_wxyz": [float(x) for x in key.orientation_wxyz],
                "fov_deg": None if key.fov_deg is None else float(key.fov_deg),
            }
            for key in self.keyframes
        ]
        return {
            "schema": PATH_SCHEMA,
            "name": self.name,
            "frame": self.frame,
            "frames": int(self.frames),
            "keyframes": keys,
        }

    @staticmethod
    def from_json(data: dict[str, Any]) -> CameraPath:
        """Read a `worldloom.path/1` dictionary.

        Raises:
            InvalidCameraPath: The schema is another, or a key is missing or of the wrong type.
        """
        if not isinstance(data, dict) or data.get("schema") != PATH_SCHEMA:
            found = data.get("schema") if isinstance(data, dict) else type(data).__name__
            raise InvalidCameraPath(f"camera path has schema {found!r}; expected {PATH_SCHEMA!r}")
        try:
            keys = tuple(_keyframe(item) for item in data["keyframes"])
            frame = data.get("frame", "level")
            if frame not in ("level", "camera"):
                raise InvalidCameraPath(f"path frame is {frame!r}; use 'level' or 'camera'")
            return CameraPath(keys, int(data["frames"]), frame, str(data.get("name", "custom")))
        except (KeyError, TypeError, ValueError) as error:
            raise InvalidCameraPath(
                f"camera path cannot be read: {type(error).__name__} {error}; each keyframe needs "
                "t, position [3] in metres and orientation_wxyz [4]"
            ) from error

    @staticmethod
    def from_text(text: str) -> CameraPath:
        """Read the JSON text of a path file.

        Raises:
            InvalidCameraPath: The text is not JSON or not a path.
        """
        try:
            return CameraPath.from_json(json.loads(text))
        except json.JSONDecodeError as error:
            raise InvalidCameraPath(
                f"camera path is not JSON ({error.msg}, line {error.lineno}); see {PATH_SCHEMA}"
            ) from error


def lyra_frames(frames: int) -> int:
    """The nearest frame count not below `frames` that fills whole chunks: 1 + 80 n, n >= 1."""
    return 1 + CHUNK_FRAMES * max(1, -(-(frames - 1) // CHUNK_FRAMES))


def path_from_poses(
    relative: ArrayLike, *, name: str = "poses", fov_deg: ArrayLike | None = None
) -> CameraPath:
    """A `camera` path with one keyframe a pose.

    Args:
        relative: Pose of each frame in the first camera's OpenCV axes [m], shape [n 4 4].
        name: What to call it.
        fov_deg: Horizontal field of view of each frame [degrees], shape [n].

    Raises:
        InvalidCameraPath: A pose is not rigid.
    """
    from worldloom.scene.frame import quat_wxyz_from_matrix

    relative = np.asarray(relative, float)
    check_poses(relative)
    quats = quat_wxyz_from_matrix(relative[:, :3, :3])
    keys = tuple(
        Keyframe(
            float(i),
            tuple(relative[i, :3, 3].tolist()),
            tuple(quats[i].tolist()),
            None if fov_deg is None else float(np.asarray(fov_deg)[i]),
        )
        for i in range(len(relative))
    )
    return CameraPath(keys, len(relative), "camera", name)


def _keyframe(item: dict[str, Any]) -> Keyframe:
    position = tuple(float(x) for x in item["position"])
    quat = tuple(float(x) for x in item.get("orientation_wxyz", (1.0, 0.0, 0.0, 0.0)))
    if len(position) != 3 or len(quat) != 4:
        raise ValueError(f"position has {len(position)} and orientation_wxyz {len(quat)} numbers")
    fov = item.get("fov_deg")
    return Keyframe(float(item["t"]), position, quat, None if fov is None else float(fov))


def _level_axes(c2w0: NDArray[np.float64]) -> NDArray[np.float64]:
    """Heading-only rotation [3 3]: path axes (forward, left, up) into the level world."""
    forward = c2w0[:3, :3] @ CAMERA_TO_FLU.T @ np.array([1.0, 0.0, 0.0])
    yaw = np.arctan2(forward[1], forward[0])
    cosine, sine = np.cos(yaw), np.sin(yaw)
    return np.array([[cosine, -sine, 0.0], [sine, cosine, 0.0], [0.0, 0.0, 1.0]])


def _catmull_rom(
    times: NDArray[np.float64],
    points: NDArray[np.float64],
    segment: NDArray[np.int64],
    local: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Cubic Hermite with Catmull-Rom tangents for uneven times; the ends use one-sided ones."""
    slope = np.gradient(points, times, axis=0) if len(times) > 2 else np.zeros_like(points)
    if len(times) == 2:
        slope[:] = (points[1] - points[0]) / (times[1] - times[0])
    span = (times[segment + 1] - times[segment])[:, None]
    u = local[:, None]
    h00, h10 = 2 * u**3 - 3 * u**2 + 1, u**3 - 2 * u**2 + u
    h01, h11 = -2 * u**3 + 3 * u**2, u**3 - u**2
    return (
        h00 * points[segment]
        + h10 * span * slope[segment]
        + h01 * points[segment + 1]
        + h11 * span * slope[segment + 1]
    )


def _check_keyframes(path: CameraPath) -> None:
    if len(path.keyframes) < 2:
        raise InvalidCameraPath(
            f"the path has {len(path.keyframes)} keyframe(s); at least 2 are needed",
            field="path.keyframes",
        )
    for index, key in enumerate(path.keyframes):
        values = {"t": [key.t], "position": key.position, "rotation": key.orientation_wxyz}
        for what, numbers in values.items():
            if not np.isfinite(numbers).all():
                raise InvalidCameraPath(
                    f"pose {index} has a NaN or infinity in its {what}; every pose must be finite",
                    field=f"path.keyframes[{index}]",
                )
        norm = float(np.linalg.norm(key.orientation_wxyz))
        if abs(norm - 1) > 1e-3:
            raise InvalidCameraPath(
                f"pose {index} is not a rotation: its quaternion has length {norm:.4g}, it must be "
                "1 within 0.001. Normalise orientation_wxyz",
                field=f"path.keyframes[{index}]",
            )
        if key.fov_deg is not None and not 5.0 <= key.fov_deg <= 150.0:
            raise InvalidCameraPath(
                f"pose {index} has a field of view of {key.fov_deg:g} degrees; 5 to 150 are "
                "possible",
                field=f"path.keyframes[{index}]",
            )
    steps = np.diff([key.t for key in path.keyframes])
    if not (steps > 0).all():
        bad = int(np.argmax(~(steps > 0))) + 1
        raise InvalidCameraPath(
            f"pose {bad} has time {path.keyframes[bad].t:g}, not after pose {bad - 1}; "
            "times must rise",
            field=f"path.keyframes[{bad}]",
        )
    given = [key.fov_deg is not None for key in path.keyframes]
    if any(given) and not all(given):
        raise InvalidCameraPath(
            f"pose {given.index(False)} has no fov_deg but others have; give it for all or none",
            field="path.keyframes",
        )


def _check_length(frames: int, limits: Limits) -> None:
    if frames < 2:
        raise InvalidCameraPath(
            f"the path has {frames} frame(s); at least 2 are needed, {1 + CHUNK_FRAMES} make one "
            "chunk",
            field="path.frames",
        )
    if frames > limits.path_frames:
        raise InvalidCameraPath(
            f"the path has {frames} frames; the limit is {limits.path_frames}. Shorten or resample "
            "it, or extend the world later with a second path",
            field="path.frames",
        )


def _check_motion(
    centres: NDArray[np.float64], turns: NDArray[np.float64], limits: Limits
) -> None:
    reach = np.linalg.norm(centres, axis=1)
    if reach.max() > limits.path_reach_m:
        bad = int(reach.argmax())
        raise InvalidCameraPath(
            f"pose {bad} is {reach[bad]:.3g} m away from the photo; the limit is "
            f"{limits.path_reach_m:g} m. Positions are metres",
            field=f"path.pose[{bad}]",
        )
    step = np.linalg.norm(np.diff(centres, axis=0), axis=1)
    if step.max() > limits.path_step_m:
        bad = int(step.argmax()) + 1
        raise InvalidCameraPath(
            f"pose {bad} is {step[bad - 1]:.3g} m from pose {bad - 1}: a teleport; the limit is "
            f"{limits.path_step_m:g} m a frame. Use more frames or a shorter path",
            field=f"path.pose[{bad}]",
        )
    turn = np.degrees(turn_angle(turns[:-1], turns[1:]))
    if turn.max() > limits.path_turn_deg:
        bad = int(turn.argmax()) + 1
        raise InvalidCameraPath(
            f"pose {bad} turns {turn[bad - 1]:.3g} degrees from pose {bad - 1}; the limit is "
            f"{limits.path_turn_deg:g} degrees a frame. Use more frames",
            field=f"path.pose[{bad}]",
        )
