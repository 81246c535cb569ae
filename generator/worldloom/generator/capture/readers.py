"""Folders of public posed data sets -> frames with cameras: Tanks-and-Temples, DL3DV, nerfstudio.

All become one thing: camera to world in OpenCV axes, intrinsics in pixels of the pictures as they
lie on the disk, and the pictures' files in the order of their names. Nothing is decoded.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worldloom.scene.cameras import check_poses
from worldloom.scene.errors import InvalidCameraPath, InvalidCapture
from worldloom.scene.frame import FLIP_YZ
from worldloom.scene.limits import MIB

TEXT_BYTES = 256 * MIB
"""Largest trajectory or transforms file that is read."""
PICTURES = (".png", ".jpg", ".jpeg")
FOCAL_GUESS = 0.6
"""Focal length over the width where a Tanks-and-Temples folder does not tell: its cameras, a Sony
A7S II and a DJI X5R at 16:9, calibrate to 0.59 to 0.61 (COLMAP, in the public reconstructions)."""
DEPTH_UNIT_M = 1e-3  # nerfstudio's depth pictures are millimetres unless they say otherwise.
DISTORTION = ("k1", "k2", "k3", "k4", "p1", "p2")
VISIBLE_PX = 2.0  # Distortion at the corner below this is not worth a word [px].


@dataclass(frozen=True)
class PosedFolder:
    """Posed pictures of a data set."""

    c2w: NDArray[np.float64]
    """Camera to world, OpenCV axes, the data set's own world and unit, shape [n 4 4]."""
    K: NDArray[np.float64]
    """Intrinsics in pixels of the files, pixel centres at +0.5, shape [n 3 3]."""
    size: tuple[int, int]
    """Width and height of the pictures [px], from the first one's header."""
    frames: tuple[Path, ...]
    """Picture of each frame."""
    depth: tuple[Path | None, ...]
    """Depth picture of each frame (16 bit), or None."""
    depth_unit_m: float = DEPTH_UNIT_M
    """Metres in one step of the depth pictures."""
    notes: tuple[str, ...] = ()
    """What the user should know, one sentence each."""

    @property
    def n(self) -> int:
        """Number of frames."""
        return len(self.frames)


def read_posed_folder(folder: Path) -> PosedFolder:
    """Read whatever kind of data set lies in `folder`.

    Raises:
        InvalidCapture: It is none that is known, or one of its files is wrong.
    """
    if (folder / "transforms.json").is_file():
        return read_transforms(folder)
    if folder.is_dir() and any(folder.glob("*.log")):
        return read_tanks_and_temples(folder)
    raise InvalidCapture(
        f"{folder} is no posed data set: neither transforms.json (nerfstudio, DL3DV) nor a "
        "trajectory *.log (Tanks and Temples) is in it"
    )


def read_tanks_and_temples(folder: Path, *, focal_px: float | None = None) -> PosedFolder:
    """Read a Tanks-and-Temples folder: one `*.log` trajectory and its pictures.

    Intrinsics come from `intrinsics.txt` (3x3) or COLMAP's `cameras.txt` beside it, else from
    `focal_px`, else a guess that the notes tell.

    Args:
        folder: Holds the log, and the pictures in `images/` or in itself.
        focal_px: Focal length of the pictures [px], where it is known.

    Raises:
        InvalidCapture: A file is missing or malformed.
    """
    logs = sorted(folder.glob("*.log"))
    if not logs:
        raise InvalidCapture(f"{folder} has no trajectory *.log")
    c2w = read_trajectory_log(logs[0])
    place = folder / "images" if (folder / "images").is_dir() else folder
    pictures = sorted(f for f in place.iterdir() if f.suffix.lower() in PICTURES)
    if len(pictures) != len(c2w):
        raise InvalidCapture(
            f"{logs[0].name} has {len(c2w)} poses and {place} has {len(pictures)} pictures; one "
            "pose a picture is needed. Take the log that belongs to this set of pictures"
        )
    size = picture_size(pictures[0])
    K, notes = _tanks_intrinsics(folder, size, focal_px)
    return PosedFolder(
        c2w, np.tile(K, (len(c2w), 1, 1)), size, tuple(pictures), (None,) * len(c2w), notes=notes
    )


def read_trajectory_log(file: Path) -> NDArray[np.float64]:
    """Poses [n 4 4] (camera to world, OpenCV axes) of a `.log`: an id line, then four rows each.

    Raises:
        InvalidCapture: The text is no such file, or a pose is not rigid.
    """
    lines = [line.split() for line in _text(file).splitlines() if line.strip()]
    if not lines or len(lines) % 5:
        raise InvalidCapture(
            f"{file} has {len(lines)} lines; a trajectory has five for each pose (an id line and "
            "four rows)"
        )
    try:
        rows = [[float(x) for x in line] for k, line in enumerate(lines) if k % 5]
        c2w = np.array(rows, float).reshape(-1, 4, 4)
    except ValueError as error:
        raise InvalidCapture(f"{file} is no trajectory ({error})") from error
    return _rigid(c2w, file)


def read_transforms(folder: Path) -> PosedFolder:
    """Read a nerfstudio or DL3DV folder: `transforms.json`, OpenGL axes, pictures, maybe depth.

    Pictures are looked for where the file says, else in `images_2`, `images_4`, `images_8`
    (DL3DV); intrinsics are scaled to the pictures that are found.

    Raises:
        InvalidCapture: A file is missing or malformed.
    """
    file = folder / "transforms.json"
    try:
        data: Any = json.loads(_text(file))
        frames = sorted(data["frames"], key=lambda frame: _natural(frame["file_path"]))
        poses = np.array([frame["transform_matrix"] for frame in frames], float)
        names = [str(frame["file_path"]) for frame in frames]
        numbers = [_numbers(data | frame) for frame in frames]
    except (KeyError, TypeError, ValueError, json.JSONDecodeError) as error:
        raise InvalidCapture(
            f"{file} cannot be read: {type(error).__name__} {error}; frames with file_path and "
            "transform_matrix, fl_x, w and h are needed"
        ) from error
    if not frames:
        raise InvalidCapture(f"{file} has no frames")
    if poses.ndim == 3 and poses.shape[1:] == (3, 4):
        poses = np.concatenate([poses, np.tile([[[0, 0, 0, 1.0]]], (len(poses), 1, 1))], 1)
    # OpenGL camera axes (right, up, backward) -> OpenCV's (right, down, forward).
    poses[:, :3, :3] = poses[:, :3, :3] @ FLIP_YZ
    c2w = _rigid(poses, file)
    pictures = tuple(_picture(folder, name) for name in names)
    size = picture_size(pictures[0])
    K = np.stack([_matrix(n, size) for n in numbers])
    depth = tuple(_depth_picture(folder, frame) for frame in frames)
    unit = float(data.get("depth_unit_scale_factor", DEPTH_UNIT_M))
    return PosedFolder(c2w, K, size, pictures, depth, unit, _distortion_notes(numbers[0], size))


def picture_size(file: Path) -> tuple[int, int]:
    """Width and height of a picture [px], from its header.

    Raises:
        InvalidCapture: It is no PNG or JPEG.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(file, formats=["PNG", "JPEG"]) as image:
            return image.size
    except (UnidentifiedImageError, OSError) as error:
        raise InvalidCapture(f"{file} is no PNG or JPEG ({error})") from error


def _tanks_intrinsics(
    folder: Path, size: tuple[int, int], focal_px: float | None
) -> tuple[NDArray[np.float64], tuple[str, ...]]:
    width, height = size
    plain, colmap = folder / "intrinsics.txt", folder / "cameras.txt"
    if plain.is_file():
        try:
            return np.array([float(x) for x in _text(plain).split()], float).reshape(3, 3), ()
        except ValueError as error:
            raise InvalidCapture(f"{plain} is no 3x3 matrix ({error})") from error
    if colmap.is_file():
        return _colmap_matrix(colmap, size), ()
    notes: tuple[str, ...] = ()
    if focal_px is None:
        focal_px = FOCAL_GUESS * width
        notes = (
            f"no intrinsics.txt or cameras.txt: the focal length is taken to be {focal_px:.0f} px "
            f"({FOCAL_GUESS:g} of the width)",
        )
    return np.array([[focal_px, 0, width / 2], [0, focal_px, height / 2], [0, 0, 1.0]]), notes


def _colmap_matrix(file: Path, size: tuple[int, int]) -> NDArray[np.float64]:
    """The first camera of COLMAP's `cameras.txt`: id, model, width, height, parameters."""
    rows = [line.split() for line in _text(file).splitlines() if line.strip() and line[0] != "#"]
    try:
        model, width, height = rows[0][1], float(rows[0][2]), float(rows[0][3])
        values = [float(x) for x in rows[0][4:]]
        one_focal = model.startswith("SIMPLE") or model.startswith("RADIAL")
        fx, fy, cx, cy = [values[0], *values[:3]] if one_focal else values[:4]
    except (IndexError, ValueError) as error:
        raise InvalidCapture(f"{file} is no COLMAP cameras.txt ({error})") from error
    return _matrix({"fl_x": fx, "fl_y": fy, "cx": cx, "cy": cy, "w": width, "h": height}, size)


def _numbers(frame: Mapping[str, Any]) -> dict[str, float]:
    """Intrinsics of one frame in pixels of its stated size."""
    width, height = float(frame["w"]), float(frame["h"])
    if "fl_x" in frame:
        focal = float(frame["fl_x"])
    else:
        focal = 0.5 * width / math.tan(0.5 * float(frame["camera_angle_x"]))
    out = {"w": width, "h": height, "fl_x": focal, "fl_y": float(frame.get("fl_y", focal))}
    out |= {"cx": float(frame.get("cx", width / 2)), "cy": float(frame.get("cy", height / 2))}
    return out | {key: float(frame.get(key, 0.0)) for key in DISTORTION}


def _matrix(numbers: Mapping[str, float], size: tuple[int, int]) -> NDArray[np.float64]:
    sx, sy = size[0] / numbers["w"], size[1] / numbers["h"]
    return np.array(
        [
            [numbers["fl_x"] * sx, 0, numbers["cx"] * sx],
            [0, numbers["fl_y"] * sy, numbers["cy"] * sy],
            [0, 0, 1.0],
        ]
    )


def _distortion_notes(numbers: Mapping[str, float], size: tuple[int, int]) -> tuple[str, ...]:
    """Says how far the lens bends the corner, where that can be seen."""
    x, y = 0.5 * numbers["w"] / numbers["fl_x"], 0.5 * numbers["h"] / numbers["fl_y"]
    r2 = x * x + y * y
    bend = abs(numbers["k1"] * r2 + numbers["k2"] * r2**2) * math.hypot(*size) / 2
    if bend < VISIBLE_PX:
        return ()
    return (
        f"the lens bends the corners by {bend:.0f} px, which is not undone; undistort the pictures "
        "for a sharper world",
    )


def _picture(folder: Path, name: str) -> Path:
    """The picture that a frame names, maybe reduced and without its ending."""
    relative = _inside(folder, name)
    places = [relative]
    if len(relative.parts) == 2:
        places += [PurePosixPath(f"images_{k}") / relative.name for k in (2, 4, 8)]
    for place in places:
        for file in (folder / place, *(folder / f"{place}{end}" for end in PICTURES)):
            if file.is_file():
                return file
    raise InvalidCapture(f"{folder} has no picture {name!r}, which transforms.json names")


def _depth_picture(folder: Path, frame: Mapping[str, Any]) -> Path | None:
    name = frame.get("depth_file_path")
    if name is None:
        return None
    file = folder / _inside(folder, str(name))
    if not file.is_file():
        raise InvalidCapture(f"{folder} has no depth {name!r}, which transforms.json names")
    return file


def _inside(folder: Path, name: str) -> PurePosixPath:
    """A relative name that stays in its folder.

    Raises:
        InvalidCapture: It does not.
    """
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts:
        raise InvalidCapture(f"{folder}/transforms.json names {name[:120]!r}, outside its folder")
    return path


def _natural(name: str) -> Sequence[tuple[int, str]]:
    """A sort key by which frame_2 comes before frame_10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


def _rigid(c2w: NDArray[np.float64], file: Path) -> NDArray[np.float64]:
    if c2w.ndim != 3 or c2w.shape[1:] != (4, 4):
        raise InvalidCapture(f"{file} has poses of shape {list(c2w.shape)}; [n 4 4] is needed")
    try:
        check_poses(c2w)
    except InvalidCameraPath as error:
        raise InvalidCapture(f"{file}: {error}") from error
    return c2w


def _text(file: Path) -> str:
    if file.stat().st_size > TEXT_BYTES:
        raise InvalidCapture(f"{file} is larger than {TEXT_BYTES // MIB} MiB")
    return file.read_text("utf-8", "replace")
