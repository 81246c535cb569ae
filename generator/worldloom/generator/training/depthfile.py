"""`<id>.zip` of EXR files, or `<id>.npz` -> the depth of every frame of a clip (spec 8.6)."""

from __future__ import annotations

import tempfile
import zipfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from worldloom.scene.errors import CorruptData, InvalidRequest, NotFound

MEMBER_BYTES = 64 << 20  # Largest EXR file of one frame; 4k floats are 35 MB.
CHANNEL = "Z"


def read_depths(folder: Path, name: str, count: int) -> NDArray[np.float32]:
    """z-depths of the frames 0 to count - 1 of a clip, [count h w]; 0 where there is none.

    Raises:
        NotFound: The clip has no depth.
        InvalidRequest: It is EXR and the module that reads it is not installed.
        CorruptData: It cannot be read, or lacks a frame.
    """
    packed, plain = folder / f"{name}.zip", folder / f"{name}.npz"
    if packed.is_file():
        frames = _from_zip(packed, count)
    elif plain.is_file():
        frames = _from_npz(plain, count)
    else:
        raise NotFound(f"{folder} has neither {packed.name} nor {plain.name}; estimate its depth")
    return np.nan_to_num(frames, nan=0.0, posinf=0.0, neginf=0.0).astype(np.float32)


def _from_npz(file: Path, count: int) -> NDArray:
    from worldloom.generator.training.data import read_indexed

    frames = read_indexed(file, count)
    if frames.ndim != 3:
        raise CorruptData(f"{file} has depths of shape {list(frames.shape)}; they must be [n h w]")
    return frames


def _from_zip(file: Path, count: int) -> NDArray:
    try:
        import OpenEXR  # noqa: F401
    except ImportError:
        raise InvalidRequest(
            f"{file} holds EXR files and OpenEXR is not installed; pip install 'worldloom[exr]', "
            "or store the depths as npz"
        ) from None
    try:
        with zipfile.ZipFile(file) as archive, tempfile.TemporaryDirectory() as scratch:
            return np.stack([_member(archive, Path(scratch), t) for t in range(count)])
    except (zipfile.BadZipFile, KeyError, OSError, ValueError) as error:
        raise CorruptData(
            f"{file} has no readable depth for each of {count} frames ({str(error)[:120]}); "
            "write 00000.exr and so on, all of one size"
        ) from error


def _member(archive: zipfile.ZipFile, scratch: Path, number: int) -> NDArray:
    """One frame; the library reads files only, so it is unpacked under a name of ours."""
    import OpenEXR

    info = archive.getinfo(f"{number:05d}.exr")
    if info.file_size > MEMBER_BYTES:
        raise ValueError(f"{info.filename} unpacks to {info.file_size} bytes, more than 64 MiB")
    file = scratch / "frame.exr"
    file.write_bytes(archive.read(info))
    try:
        channels = OpenEXR.File(str(file), separate_channels=True).channels()
    except Exception as error:
        raise ValueError(f"{info.filename} is damaged: {str(error)[:80]}") from error
    if CHANNEL not in channels:
        raise ValueError(f"{info.filename} has no channel {CHANNEL}")
    return np.asarray(channels[CHANNEL].pixels, np.float32)
