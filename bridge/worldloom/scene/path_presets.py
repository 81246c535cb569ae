"""Named camera paths. Each goes where its name says, in level axes (X ahead, Y left, Z up).

Distances are metres, angles degrees, positive to the left. Presets are made of few keyframes, so
that a saved preset can be edited by hand.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable

import numpy as np

from worldloom.scene.errors import InvalidCameraPath
from worldloom.scene.frame import (
    quat_multiply_wxyz,
    quat_wxyz_from_matrix,
    rotation_about,
    yaw_quat_wxyz,
)
from worldloom.scene.path import CameraPath, Keyframe, lyra_frames


def dolly(frames: int = 81, *, distance: float = 1.0) -> CameraPath:
    """Straight ahead by `distance` [m]; negative goes back."""
    return _path("dolly", frames, [(0, 0, 0, 0), (distance, 0, 0, 0)])


def pull_back(frames: int = 161, *, distance: float = 1.5, pan: float = 25.0) -> CameraPath:
    """Back by `distance` [m], then look `pan` degrees to the left and to the right."""
    poses = [(0, 0, 0, 0), (-distance / 2, 0, 0, 0), (-distance, 0, 0, 0)]
    poses += [(-distance, 0, 0, pan), (-distance, 0, 0, 0), (-distance, 0, 0, -pan)]
    return _path("pull-back", frames, [*poses, (-distance, 0, 0, 0)])


def pan(frames: int = 81, *, angle: float = 45.0) -> CameraPath:
    """Turn on the spot by `angle` degrees to the left."""
    return _path("pan", frames, [(0, 0, 0, angle * i / 4) for i in range(5)])


def truck(frames: int = 81, *, distance: float = 1.0) -> CameraPath:
    """Sideways to the left by `distance` [m], looking ahead."""
    return _path("truck", frames, [(0, 0, 0, 0), (0, distance, 0, 0)])


def pedestal(frames: int = 81, *, distance: float = 0.5) -> CameraPath:
    """Up by `distance` [m], looking ahead."""
    return _path("pedestal", frames, [(0, 0, 0, 0), (0, 0, distance, 0)])


def orbit(frames: int = 161, *, radius: float = 2.0, angle: float = 40.0) -> CameraPath:
    """Around the point `radius` [m] ahead by `angle` degrees, facing it; positive swings right."""
    turn = np.radians(np.linspace(0, angle, 9))
    x, y = radius * (1 - np.cos(turn)), -radius * np.sin(turn)
    return _path(
        "orbit", frames, [(x[i], y[i], 0, np.degrees(turn[i])) for i in range(len(turn))]
    )


def zoom(frames: int = 81, *, start_fov: float = 60.0, end_fov: float = 35.0) -> CameraPath:
    """Change the horizontal field of view from `start_fov` to `end_fov` [degrees], standing."""
    keys = [Keyframe(0.0, (0.0, 0.0, 0.0), fov_deg=start_fov)]
    keys.append(Keyframe(1.0, (0.0, 0.0, 0.0), fov_deg=end_fov))
    return CameraPath(tuple(keys), lyra_frames(frames), "level", "zoom")


def look_back(frames: int = 161, *, distance: float = 1.0) -> CameraPath:
    """Ahead by `distance` [m] while turning round to face the start."""
    poses = [(distance * i / 8, 0, 0, 180.0 * i / 8) for i in range(9)]
    return _path("look-back", frames, poses)


def spiral(
    frames: int = 161, *, radius: float = 0.3, turns: float = 2.0, advance: float = 1.0
) -> CameraPath:
    """A widening spiral of `radius` [m] across the view while moving `advance` [m] ahead."""
    share = np.linspace(0, 1, int(8 * turns) + 1)
    angle = 2 * np.pi * turns * share
    poses = [
        (advance * s, -radius * s * np.sin(a), radius * s * np.cos(a) * 0.5, 0)
        for s, a in zip(share, angle, strict=True)
    ]
    return _path("spiral", frames, poses)


def lawnmower(
    frames: int = 321, *, length: float = 2.0, width: float = 2.0, lanes: int = 3
) -> CameraPath:
    """Drive `lanes` lanes of `length` [m] back and forth over `width` [m], looking ahead."""
    if lanes < 2:
        raise InvalidCameraPath(f"lawnmower has {lanes} lane(s); it needs at least 2")
    poses = []
    for lane in range(lanes):
        y = width * (0.5 - lane / (lanes - 1))
        ends = (0.0, length) if lane % 2 == 0 else (length, 0.0)
        poses += [(ends[0], y, 0, 0), (ends[1], y, 0, 0)]
    return _path("lawnmower", frames, [(0, 0, 0, 0), *poses])


def survey(
    frames: int = 161, *, distance: float = 1.0, pan: float = 60.0, tilt: float = 15.0
) -> CameraPath:
    """Ahead by `distance` [m] while looking `pan` degrees left, right, and `tilt` down."""
    yaw = [0, pan, 0, -pan, 0]
    keys = []
    for i, angle in enumerate(yaw):
        pitch = rotation_about([0, 1, 0], np.radians(tilt if i else 0.0))
        quat = quat_multiply_wxyz(yaw_quat_wxyz(np.radians(angle)), quat_wxyz_from_matrix(pitch))
        keys.append(Keyframe(i / 4, (distance * i / 4, 0.0, 0.0), tuple(quat.tolist())))
    return CameraPath(tuple(keys), lyra_frames(frames), "level", "survey")


PRESETS: dict[str, Callable[..., CameraPath]] = {
    "dolly": dolly,
    "pull-back": pull_back,
    "pan": pan,
    "truck": truck,
    "pedestal": pedestal,
    "orbit": orbit,
    "zoom": zoom,
    "look-back": look_back,
    "spiral": spiral,
    "lawnmower": lawnmower,
    "survey": survey,
}


def preset(name: str, *, frames: int | None = None, **parameters: float) -> CameraPath:
    """The preset called `name`.

    Args:
        name: A key of PRESETS.
        frames: Frames wanted; rounded up to whole chunks (1 + 80 n). None takes the preset's own.
        **parameters: Distances [m], angles [degrees] and counts of that preset.

    Raises:
        InvalidCameraPath: The name or a parameter is unknown; the text lists what exists.
    """
    maker = PRESETS.get(name)
    if maker is None:
        raise InvalidCameraPath(
            f"unknown camera path preset {name!r}; presets are {', '.join(sorted(PRESETS))}, "
            "or give a path file (.json, trajectory.npz)",
            field="path",
        )
    allowed = [p for p in inspect.signature(maker).parameters if p != "frames"]
    for key in parameters:
        if key not in allowed:
            raise InvalidCameraPath(
                f"preset {name!r} has no parameter {key!r}; it takes {', '.join(allowed)}",
                field="path",
            )
    if "lanes" in parameters:
        parameters["lanes"] = int(parameters["lanes"])
    return maker(**parameters) if frames is None else maker(frames, **parameters)


def _path(
    name: str, frames: int, poses: list[tuple[float, float, float, float]]
) -> CameraPath:
    """Evenly timed keyframes from (x, y, z, yaw in degrees)."""
    last = len(poses) - 1
    keys = tuple(
        Keyframe(
            i / last,
            (float(x), float(y), float(z)),
            tuple(yaw_quat_wxyz(np.radians(yaw)).tolist()),
        )
        for i, (x, y, z, yaw) in enumerate(poses)
    )
    return CameraPath(keys, lyra_frames(frames), "level", name)
