"""Capture folders: checked and packed for engine `capture`; `worldloom capture import` makes one.

A folder is packed as one stored (uncompressed) zip whose bytes depend on the files alone, so that
the same capture is the same request and nothing is sent twice.
"""

from __future__ import annotations

import argparse
import shutil
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from worldloom.cli import console
from worldloom.scene.capture import (
    CAMERAS_FILE,
    CAPTURE_PATH,
    PATTERN_HELP,
    CaptureLayout,
    capture_cameras,
    capture_layout,
    capture_path,
)
from worldloom.scene.errors import InvalidCapture, InvalidRequest
from worldloom.scene.limits import MIB, Limits
from worldloom.scene.path import CameraPath, lyra_frames
from worldloom.scene.worldfolder import storage_errors

PACKED = ".capture.zip"
"""Name of the packed copy in the output folder, while it is needed."""
ZIP_DATE = (1980, 1, 1, 0, 0, 0)  # The zip format's zero: packing again gives the same bytes.
COPY_BYTES = 4 * MIB
DEFAULT_PATH = "pull-back"
"""What --path is when nobody gives it; a capture has its own cameras."""


def check_path_option(path: str) -> None:
    """Refuse a camera path that was asked for, since a capture has its own cameras.

    Raises:
        InvalidRequest: There is one.
    """
    if path not in (DEFAULT_PATH, CAPTURE_PATH):
        raise InvalidRequest(
            f"--path {path} does not go with --engine capture: the world has the cameras of the "
            "capture. Leave --path out",
            field="path",
        )


@contextmanager
def packed_capture(
    source: Path, out: Path, *, frames: int | None
) -> Iterator[tuple[Path, CameraPath]]:
    """A capture as one file, and the path of its request; the packed copy goes at the end.

    Args:
        source: A capture folder, or one that was packed before.
        out: Folder for the packed copy.
        frames: Frames of the world; None takes one for each captured frame, rounded up to whole
            chunks.

    Raises:
        InvalidCapture: The folder is no capture.
        StorageFull: No space is left for the packed copy.
    """
    if source.is_file():
        with source.open("rb") as file:
            names = _zip_names(source, file)
        layout = capture_layout(names)
        yield source, capture_path(lyra_frames(frames or len(layout.frames)))
        return
    layout = check_folder(source)
    archive = out / PACKED
    try:
        pack(source, layout, archive)
        yield archive, capture_path(lyra_frames(frames or len(layout.frames)))
    finally:
        archive.unlink(missing_ok=True)


def check_folder(folder: Path, limits: Limits | None = None) -> CaptureLayout:
    """Check names, sizes and cameras of a capture folder; pictures are not opened.

    Raises:
        InvalidCapture: What is wrong, its value, the limit and the remedy.
    """
    limits = limits or Limits()
    if not folder.is_dir():
        raise InvalidCapture(f"there is no capture folder at {folder}; {PATTERN_HELP}")
    names = [CAMERAS_FILE] if (folder / CAMERAS_FILE).is_file() else []
    for part in ("frames", "depth"):
        if (folder / part).is_dir():
            found = sorted(item.name for item in (folder / part).iterdir())
            # What desktops leave in every folder is nobody's frame.
            names += [f"{part}/{n}" for n in found if not n.startswith(".") and n != "Thumbs.db"]
    layout = capture_layout(names)
    count, size = len(layout.frames), sum((folder / n).stat().st_size for n in layout.names())
    if count > limits.capture_frames:
        raise InvalidCapture(
            f"the capture has {count} frames; the limit is {limits.capture_frames}. Keep every "
            "second or third one",
            field="capture",
        )
    if size > limits.capture_bytes:
        raise InvalidCapture(
            f"the capture has {size / MIB:.0f} MiB; the limit is {limits.capture_bytes // MIB} "
            "MiB. Save the frames as JPEG, or keep fewer",
            field="capture",
        )
    _check_cameras(folder / CAMERAS_FILE, count)
    return layout


def pack(folder: Path, layout: CaptureLayout, archive: Path) -> None:
    """Write the files of a capture folder to a stored zip.

    Raises:
        StorageFull: No space is left.
        StorageUnwritable: The place cannot be written.
    """
    with storage_errors(archive), zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as out:
        for name in layout.names():
            info = zipfile.ZipInfo(name, ZIP_DATE)
            info.external_attr = 0o644 << 16
            info.file_size = (folder / name).stat().st_size
            with (folder / name).open("rb") as source, out.open(info, "w") as target:
                shutil.copyfileobj(source, target, COPY_BYTES)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `worldloom capture`."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    line = "a Tanks-and-Temples, DL3DV or nerfstudio folder -> a capture folder"
    action = actions.add_parser("import", help=line, description=line)
    action.add_argument("folder", type=Path, help="the dataset's folder")
    action.add_argument("--out", type=Path, required=True, metavar="DIR", help="capture folder")
    action.add_argument("--every", type=int, default=1, metavar="N", help="keep every Nth frame")
    action.add_argument(
        "--scale", type=float, default=1.0, metavar="M", help="metres in one unit of its poses"
    )
    action.add_argument("--json", action="store_true", help="one JSON object per line")
    action.add_argument("--verbose", action="store_true", help="log to the error output")


def run(args: argparse.Namespace) -> int:
    """Make a capture folder of a dataset's folder."""
    from worldloom.generator.capture.readers import read_posed_folder
    from worldloom.generator.capture.write import write_capture

    posed = read_posed_folder(args.folder)
    count = write_capture(posed, args.out, every=args.every, scale=args.scale)
    console.say(f"  {count} frames written to {args.out}")
    for text in posed.notes:
        console.say(f"  note: {text}")
    console.say(f"  make its world     worldloom generate {args.out} --engine capture --out WORLD")
    console.emit("capture", folder=str(args.out), frames=count)
    return 0


def _check_cameras(file: Path, frames: int) -> None:
    try:
        with np.load(file, allow_pickle=False) as data:
            arrays = {key: data[key] for key in ("c2w", "K", "up") if key in data}
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise InvalidCapture(
            f"{file} cannot be read ({error}); c2w [n 4 4] and K [n 3 3] are needed"
        ) from error
    missing = [key for key in ("c2w", "K") if key not in arrays]
    if missing:
        raise InvalidCapture(f"{file} has no array {missing[0]}; c2w and K are needed")
    capture_cameras(arrays["c2w"], arrays["K"], arrays.get("up"), frames=frames)


def _zip_names(source: Path, file: object) -> list[str]:
    try:
        with zipfile.ZipFile(file) as archive:  # type: ignore[arg-type]
            return archive.namelist()
    except zipfile.BadZipFile as error:
        raise InvalidCapture(
            f"{source} is neither a capture folder nor a packed capture ({error}); {PATTERN_HELP}"
        ) from error
