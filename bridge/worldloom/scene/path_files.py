"""Camera path files: our JSON, and Lyra's `trajectory.npz` with `captions.json`.

Lyra's file holds world-to-camera matrices (OpenCV axes) and intrinsics; what matters is each pose
relative to the first. Its translations have the scale of that run's first depth, so an import
takes the metres per unit, 1 when unknown.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from worldloom.scene.cameras import Cameras, npz_bytes
from worldloom.scene.errors import InvalidCameraPath, InvalidRequest
from worldloom.scene.frame import invert_rigid
from worldloom.scene.limits import MIB
from worldloom.scene.path import CameraPath, path_from_poses
from worldloom.scene.path_presets import PRESETS, preset

PATH_FILE_BYTES = 64 * MIB
"""Largest path file that is read at all."""


def load_path(source: str, *, frames: int | None = None) -> CameraPath:
    """A path from a preset (`name` or `name:key=value,key=value`), a JSON or a Lyra npz file.

    Raises:
        InvalidCameraPath: Neither a preset nor a readable path file.
    """
    name, _, options = source.partition(":")
    if name in PRESETS:
        return preset(name, frames=frames, **_parameters(source, options))
    file = Path(source)
    if not file.is_file():
        raise InvalidCameraPath(
            f"{source!r} is neither a camera path preset ({', '.join(sorted(PRESETS))}) nor a file",
            field="path",
        )
    if file.stat().st_size > PATH_FILE_BYTES:
        raise InvalidCameraPath(
            f"{source} has {file.stat().st_size / MIB:.0f} MiB; a path file has at most "
            f"{PATH_FILE_BYTES // MIB} MiB",
            field="path",
        )
    if file.suffix == ".npz":
        path = import_lyra(file)
    else:
        try:
            path = CameraPath.from_text(file.read_text("utf-8"))
        except UnicodeDecodeError as error:
            raise InvalidCameraPath(f"{source} is not a JSON or npz path file") from error
    return path if frames is None else path.resampled(frames)


def import_lyra(file: Path, *, metres_per_unit: float = 1.0) -> CameraPath:
    """Read Lyra's `trajectory.npz` (`w2c` [n 4 4], `intrinsics` [n 3 3], `image_width`).

    Raises:
        InvalidCameraPath: An array is missing or a pose is not rigid.
    """
    try:
        with np.load(file, allow_pickle=False) as data:
            w2c = np.asarray(data["w2c"], float)
            K = np.asarray(data["intrinsics"], float)
            width = float(np.asarray(data["image_width"]).reshape(-1)[0])
    except (OSError, ValueError, KeyError) as error:
        raise InvalidCameraPath(
            f"{file} is not a Lyra trajectory ({error}); it needs w2c [n 4 4], intrinsics [n 3 3] "
            "and image_width",
            field="path",
        ) from error
    if w2c.ndim != 3 or w2c.shape[1:] != (4, 4) or len(w2c) < 2:
        raise InvalidCameraPath(
            f"{file} has w2c of shape {w2c.shape}; it must be [n 4 4] with n >= 2", field="path"
        )
    if not np.isfinite(w2c).all():
        bad = int(np.argmin(np.isfinite(w2c).all((1, 2))))
        raise InvalidCameraPath(
            f"pose {bad} of {file} has a NaN or infinity; every pose must be finite", field="path"
        )
    relative = w2c[0] @ invert_rigid(w2c)
    relative[:, :3, 3] *= metres_per_unit
    focal = np.broadcast_to(K[..., 0, 0], (len(w2c),))
    fov = np.degrees(2 * np.arctan(0.5 * width / focal))
    return path_from_poses(relative, name=file.stem, fov_deg=fov)


def export_lyra(cameras: Cameras) -> bytes:
    """The cameras as Lyra's `trajectory.npz`, relative to the first one (its pose = identity)."""
    relative = cameras.w2c @ cameras.c2w[0]
    width, height = (int(x) for x in cameras.size[0])
    return npz_bytes(
        {
            "w2c": relative.astype(np.float32),
            "intrinsics": cameras.K.astype(np.float32),
            "image_height": np.array(height),
            "image_width": np.array(width),
        }
    )


def load_captions(text: str) -> dict[int, str]:
    """Prompts keyed by frame from Lyra's `captions.json`; plain text becomes one prompt.

    Raises:
        InvalidRequest: The text is JSON but not frame numbers to strings.
    """
    if not text.lstrip().startswith("{"):
        return {0: text.strip()}
    try:
        data = json.loads(text)
        return {int(key): str(value) for key, value in sorted(data.items(), key=_frame_key)}
    except (json.JSONDecodeError, ValueError, AttributeError) as error:
        raise InvalidRequest(
            f"captions cannot be read: {error}; expected {{'0': 'prompt', '81': 'prompt'}}",
            field="prompts",
        ) from error


def export_captions(prompts: dict[int, str]) -> str:
    """Prompts as Lyra's `captions.json`."""
    return json.dumps({str(key): prompts[key] for key in sorted(prompts)}, indent=1) + "\n"


def _frame_key(item: tuple[str, str]) -> int:
    return int(item[0])


def _parameters(source: str, options: str) -> dict[str, float]:
    out: dict[str, float] = {}
    for part in filter(None, options.split(",")):
        key, equals, value = part.partition("=")
        try:
            out[key.strip()] = float(value)
        except ValueError as error:
            raise InvalidCameraPath(
                f"cannot read {part!r} in {source!r}; write preset:key=number,key=number"
                f"{'' if equals else ' (an = is missing)'}",
                field="path",
            ) from error
    return out
