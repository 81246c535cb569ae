"""Posed pictures of a data set -> a capture folder."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np

from worldloom.generator.capture.readers import PosedFolder
from worldloom.scene.cameras import npz_bytes
from worldloom.scene.capture import CAMERAS_FILE, FRAMES_MIN
from worldloom.scene.errors import InvalidCapture
from worldloom.scene.worldfolder import make_folder, storage_errors, write_whole

MILLIMETRE = 1e-3  # Unit of a capture's depth pictures [m].


def write_capture(posed: PosedFolder, out: Path, *, every: int = 1, scale: float = 1.0) -> int:
    """Write a capture folder; returns the number of its frames.

    Args:
        posed: The data set.
        out: Where to; must not hold a capture already.
        every: Keep every so many frames.
        scale: Metres in one unit of the poses (and not of the depth, which says its own).

    Raises:
        InvalidCapture: Too few frames are left, or `out` holds a capture already.
        StorageFull: No space is left.
    """
    if every < 1 or not 0 < scale < np.inf:
        raise InvalidCapture(f"every is {every} and scale {scale:g}; both must be above zero")
    numbers = range(0, posed.n, every)
    if len(numbers) < FRAMES_MIN:
        raise InvalidCapture(
            f"every {every}th of {posed.n} frames leaves {len(numbers)}; {FRAMES_MIN} are needed"
        )
    if (out / CAMERAS_FILE).exists() or (out / "frames").exists():
        raise InvalidCapture(f"{out} holds a capture already; give another folder")
    make_folder(out)
    for place, i in enumerate(numbers):
        suffix = posed.frames[i].suffix.lower()
        _copy(posed.frames[i], out / "frames" / f"{place:05d}{suffix}")
        if (depth := posed.depth[i]) is not None:
            _write_depth(depth, posed.depth_unit_m, out / "depth" / f"{place:05d}")
    c2w = posed.c2w[::every].copy()
    c2w[:, :3, 3] *= scale
    write_whole(out / CAMERAS_FILE, npz_bytes({"c2w": c2w, "K": posed.K[::every]}))
    return len(numbers)


def _write_depth(source: Path, unit_m: float, target: Path) -> None:
    """Millimetres are copied; other units become float metres."""
    if source.suffix.lower() == ".png" and abs(unit_m / MILLIMETRE - 1) < 1e-6:
        _copy(source, target.with_suffix(".png"))
        return
    from PIL import Image

    with Image.open(source) as image:
        metres = np.asarray(image, np.float32) * np.float32(unit_m)
    with storage_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        np.save(target.with_suffix(".npy"), metres)


def _copy(source: Path, target: Path) -> None:
    with storage_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
