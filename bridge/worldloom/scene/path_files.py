"""Camera path files: our JSON, and Lyra's `trajectory.npz` with `captions.json`.

Lyra's file holds world-to-camera matrices (OpenCV axes) and intrinsics; what matters is each pose
relative to the first. Its translations have the scale of that run's first depth, so an import
takes the metres per unit, 1 when unknown. Lyra itself scales them by 1.1 about the file's origin
and does not look at the first pose (spec generation 9.3): that is the reference's quirk.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from worldloom.scene.cameras import Cameras, npz_bytes
from worldloom.scene.errors import InvalidCameraPath, InvalidRequest
from worldloom.scene.frame import invert_rigid
from worldloom.scene.limits import MIB
from worldloom.scene.lyra_moves import Array
from worldloom.scene.lyra_presets import lyra_path
from worldloom.scene.lyra_zoom import ZOOM_SCRIPTS, zoom_path
from worldloom.scene.path import CHUNK_FRAMES, CameraPath, path_from_poses
from worldloom.scene.path_presets import PRESETS, preset

PATH_FILE_BYTES = 64 * MIB
"""Largest path file that is read at all."""
LYRA = "lyra"
"""What a path starts with that asks for one of Lyra's own presets: `lyra:NAME`."""
POSE_SCALE = 1.1
"""Factor of the translations in Lyra's custom-trajectory script (spec generation 9.3)."""


def load_path(
    source: str, *, frames: int | None = None, reference_quirks: bool = False
) -> CameraPath:
    """A path from a preset, one of Lyra's presets, a JSON file or a Lyra npz file.

    Args:
        source: `NAME`, `NAME:key=value,...`, `lyra:NAME`, `lyra:NAME:key=value,...`, or a file.
        frames: Frames wanted; rounded up to whole chunks for presets.
        reference_quirks: Lyra's presets and npz files as the released code treats them.

    Raises:
        InvalidCameraPath: Neither a preset nor a readable path file, or quirks of a path that is
            not Lyra's.
    """
    name, _, options = source.partition(":")
    if name == LYRA and options:
        return _lyra_preset(source, options, frames, reference_quirks)
    if reference_quirks and (name in PRESETS or not source.endswith(".npz")):
        raise InvalidCameraPath(
            f"{source!r} has no reference quirks; only lyra:NAME and a Lyra trajectory.npz have",
            field="path",
        )
    if name in PRESETS:
        return preset(name, frames=frames, **_parameters(source, options))
    path = _read_file(source, reference_quirks)
    return path if frames is None else path.resampled(frames)


def _read_file(source: str, reference_quirks: bool) -> CameraPath:
    file = Path(source)
    if not file.is_file():
        raise InvalidCameraPath(
            f"{source!r} is neither a camera path preset ({', '.join(sorted(PRESETS))}, lyra:NAME) "
            "nor a file",
            field="path",
        )
    if file.stat().st_size > PATH_FILE_BYTES:
        raise InvalidCameraPath(
            f"{source} has {file.stat().st_size / MIB:.0f} MiB; a path file has at most "
            f"{PATH_FILE_BYTES // MIB} MiB",
            field="path",
        )
    if file.suffix == ".npz":
        return import_lyra(file, reference_quirks=reference_quirks)
    try:
        return CameraPath.from_text(file.read_text("utf-8"))
    except UnicodeDecodeError as error:
        raise InvalidCameraPath(f"{source} is not a JSON or npz path file") from error


def _lyra_preset(
    source: str, options: str, frames: int | None, reference_quirks: bool
) -> CameraPath:
    """`NAME[:key=value,...]` of Lyra's presets or of its zoom script."""
    name, _, rest = options.partition(":")
    words: dict[str, str] = {}
    numbers = []
    for part in filter(None, rest.split(",")):
        key, _, value = part.partition("=")
        if key.strip() == "direction":
            words["direction"] = value.strip()
        else:
            numbers.append(part)
    values = _parameters(source, ",".join(numbers))
    script = name in ZOOM_SCRIPTS
    allowed = ("depth", "strength") if script else ("depth", "strength", "fov", "seed")
    unknown = [key for key in values if key not in allowed]
    unknown += ["direction"] if script and words else []
    if unknown:
        allowed = allowed if script else ("direction", *allowed)
        raise InvalidCameraPath(
            f"Lyra preset {name!r} has no parameter {unknown[0]!r}; it takes {', '.join(allowed)}",
            field="path",
        )
    if script:
        return zoom_path(name, frames=frames, reference_quirks=reference_quirks, **values)
    count = {} if frames is None else {"frames": frames}
    return lyra_path(name, **count, **words, **values, reference_quirks=reference_quirks)


def import_lyra(
    file: Path, *, metres_per_unit: float = 1.0, reference_quirks: bool = False
) -> CameraPath:
    """Read Lyra's `trajectory.npz` (`w2c` [n 4 4], `intrinsics` [n 3 3], `image_width`).

    Args:
        file: The file.
        metres_per_unit: Metres in one unit of its translations.
        reference_quirks: Scale the translations by POSE_SCALE about the file's origin and take
            the poses as they stand, as Lyra does, instead of making the first one the photo's.

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
    if reference_quirks:
        w2c[:, :3, 3] *= POSE_SCALE
    relative = (np.eye(4) if reference_quirks else w2c[0]) @ invert_rigid(w2c)
    relative[:, :3, 3] *= metres_per_unit
    focal = np.broadcast_to(K[..., 0, 0], (len(w2c),))
    fov = np.degrees(2 * np.arctan(0.5 * width / focal))
    return path_from_poses(relative, name=file.stem, fov_deg=fov)


def lyra_cameras_as_released(
    w2c: ArrayLike,
    K: ArrayLike,
    source_hw: tuple[int, int],
    target_hw: tuple[int, int],
    *,
    frames: int,
    pose_scale: float = POSE_SCALE,
) -> tuple[Array, Array]:
    """What Lyra's custom-trajectory script makes of the arrays of a trajectory file.

    Args:
        w2c: World-to-camera poses of the file, scene units, shape [n 4 4].
        K: Intrinsics in pixels at `source_hw`, shape [n 3 3].
        source_hw: Height and width that `K` belongs to.
        target_hw: Height and width of the video.
        frames: Frames to take from the beginning.
        pose_scale: Factor of the translations.

    Returns:
        Poses [frames 4 4] scaled about the world's origin, and intrinsics [frames 3 3] scaled in
        x and y on their own.

    Raises:
        InvalidCameraPath: The file has fewer frames.
    """
    w2c, K = np.array(w2c, float), np.asarray(K, float)
    if len(w2c) < frames or len(K) < frames:
        raise InvalidCameraPath(
            f"the trajectory has {min(len(w2c), len(K))} frames, {frames} are asked for. Ask for "
            "fewer, or lengthen the file",
            field="path.frames",
        )
    w2c[:, :3, 3] *= pose_scale
    return w2c[:frames], rescaled_intrinsics(K[:frames], source_hw, target_hw)


def rescaled_intrinsics(
    K: ArrayLike,
    source_hw: tuple[int, int],
    target_hw: tuple[int, int],
    *,
    crop_hw: tuple[int, int] | None = None,
) -> Array:
    """Intrinsics [... 3 3] in pixels after an image was resized and then cropped in the middle."""
    scale_y, scale_x = target_hw[0] / source_hw[0], target_hw[1] / source_hw[1]
    out = np.array(K, float)
    out[..., 0, :] *= scale_x
    out[..., 1, :] *= scale_y
    if crop_hw is not None:
        out[..., 0, 2] -= (target_hw[1] - crop_hw[1]) // 2
        out[..., 1, 2] -= (target_hw[0] - crop_hw[0]) // 2
    return out


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


def caption_of_chunk(
    prompts: Mapping[int, str], chunk: int, *, frames: int | None = None
) -> str:
    """The prompt of a chunk: that of the largest key up to the chunk's first new frame.

    Spec generation 1.5: chunk k makes the frames from 80 k + 1 on, so a key 80 or 81 takes effect
    with chunk 1. A single prompt serves the whole video; one that starts later also serves what
    comes before the first key.

    Args:
        prompts: Prompts by frame.
        chunk: Number of the chunk, from 0.
        frames: Frames of the video; later keys do not count. None counts all.
    """
    keys = sorted(key for key in prompts if frames is None or key < frames)
    if not keys:
        return ""
    due = [key for key in keys if key <= CHUNK_FRAMES * chunk + 1]
    return prompts[due[-1] if due else keys[0]]


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
