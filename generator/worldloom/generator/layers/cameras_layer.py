"""Cameras -> `cameras.usda`: /Cameras/Photo (still) and /Cameras/Path (animated).

Written as text, since it is small and people read it. USD cameras look along -Z with +Y up, and
describe the lens by an aperture and a focal length of which only the ratio matters.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from worldloom.generator.videofile import VIDEO_FPS
from worldloom.scene.cameras import Cameras
from worldloom.scene.errors import InvalidCameraPath
from worldloom.scene.frame import FLIP_YZ, quat_wxyz_from_matrix
from worldloom.scene.usdatext import INDENT, usda_number, usda_tuple
from worldloom.scene.worldfolder import write_whole

APERTURE_MM = 20.955  # Horizontal aperture of USD's default camera; fixes the unit of the rest.
CLIPPING_M = (0.01, 10_000.0)
"""USD's own default would cut away everything within a metre of the lens."""

Array = NDArray[np.float64]


def cameras_layer_text(cameras: Cameras) -> bytes:
    """The camera layer; frame k of the video is time code k at the video's frame rate.

    Args:
        cameras: At least one, in frame order; the first is the photo's.

    Raises:
        InvalidCameraPath: There is no camera.
    """
    if cameras.n == 0:
        raise InvalidCameraPath("no cameras to write; a world has at least the photo's")
    first, last = int(cameras.frame_id[0]), int(cameras.frame_id[-1])
    lines = [
        "#usda 1.0",
        "(",
        f'{INDENT}defaultPrim = "Cameras"',
        f"{INDENT}endTimeCode = {last}",
        f"{INDENT}kilogramsPerUnit = 1",
        f"{INDENT}metersPerUnit = 1",
        f"{INDENT}startTimeCode = {first}",
        f"{INDENT}timeCodesPerSecond = {VIDEO_FPS}",
        f'{INDENT}upAxis = "Z"',
        ")",
        "",
        'def Xform "Cameras"',
        "{",
    ]
    lines += [INDENT + line for line in _camera_prim("Photo", cameras.select(slice(0, 1)))]
    lines += ["", *(INDENT + line for line in _camera_prim("Path", cameras)), "}", ""]
    return "\n".join(lines).encode()


def write_cameras_layer(cameras: Cameras, file: Path) -> None:
    """Write the camera layer whole or not at all.

    Raises:
        InvalidCameraPath: There is no camera.
        StorageFull: The disk has no space left.
        StorageUnwritable: The file cannot be written.
    """
    write_whole(file, cameras_layer_text(cameras))


def lens(cameras: Cameras) -> dict[str, Array]:
    """USD's lens attributes [n] of each camera, in tenths of a scene unit (mm by habit).

    The offsets move the principal point: it lies right of the image centre when the window of
    the film that is used lies left of it.
    """
    width, height = cameras.size[:, 0].astype(float), cameras.size[:, 1].astype(float)
    fx, fy = cameras.K[:, 0, 0], cameras.K[:, 1, 1]
    focal = APERTURE_MM * fx / width
    vertical = focal * height / fy
    return {
        "focalLength": focal,
        "horizontalAperture": np.full(cameras.n, APERTURE_MM),
        "horizontalApertureOffset": (0.5 - cameras.K[:, 0, 2] / width) * APERTURE_MM,
        "verticalAperture": vertical,
        "verticalApertureOffset": (cameras.K[:, 1, 2] / height - 0.5) * vertical,
    }


def _camera_prim(name: str, cameras: Cameras) -> list[str]:
    rotation = cameras.c2w[:, :3, :3] @ FLIP_YZ
    quats = _continuous(quat_wxyz_from_matrix(rotation))
    frames = cameras.frame_id
    body = [f"float2 clippingRange = {usda_tuple(CLIPPING_M)}"]
    for key, values in lens(cameras).items():
        # USD stores these as float: rounding here keeps the text free of digits it cannot hold.
        body += _values(f"float {key}", frames, values.round(6), usda_number)
    body += _values("quatd xformOp:orient", frames, quats.round(12), usda_tuple)
    body += _values("double3 xformOp:translate", frames, cameras.centres.round(9), usda_tuple)
    order = '["xformOp:translate", "xformOp:orient"]'
    body.append(f"uniform token[] xformOpOrder = {order}")
    return [f'def Camera "{name}"', "{", *(INDENT + line for line in body), "}"]


def _values(
    name: str, frames: NDArray[np.int64], values: Array, text: Callable[..., str]
) -> list[str]:
    """One value when it never changes, otherwise a sample for each frame."""
    if (values == values[0]).all():
        return [f"{name} = {text(values[0])}"]
    samples = [
        f"{INDENT}{int(frame)}: {text(value)}," for frame, value in zip(frames, values, strict=True)
    ]
    return [f"{name}.timeSamples = {{", *samples, "}"]


def _continuous(quats_wxyz: Array) -> Array:
    """Flip signs [n 4] so that each quaternion is near its predecessor and blends directly."""
    dots = np.sum(quats_wxyz[1:] * quats_wxyz[:-1], axis=1)
    signs = np.cumprod(np.concatenate([[1.0], np.where(dots < 0, -1.0, 1.0)]))
    return quats_wxyz * signs[:, None]
