"""Files that a request needs -> references by content, checked before anything is sent."""

from __future__ import annotations

from pathlib import Path

from worldloom.scene.errors import InvalidPhoto, PhotoTooLarge
from worldloom.scene.limits import MIB, Limits
from worldloom.scene.request import InputRef
from worldloom.scene.worldfolder import file_sha256


def check_photo(file: Path, limits: Limits | None = None) -> Path:
    """Refuse a photo that is missing, empty or too large before anything is started.

    Raises:
        InvalidPhoto: Missing, a folder, or empty.
        PhotoTooLarge: Above the byte limit.
    """
    limits = limits or Limits()
    if not file.exists():
        raise InvalidPhoto(f"there is no photo at {file}; give a PNG, JPEG or WebP file")
    if not file.is_file():
        hint = " For a capture folder add --engine capture" if file.is_dir() else ""
        raise InvalidPhoto(f"{file} is not a file; give a PNG, JPEG or WebP file.{hint}")
    size = file.stat().st_size
    if size == 0:
        raise InvalidPhoto(f"{file} has 0 bytes; it is empty. Copy the photo again")
    if size > limits.photo_bytes:
        raise PhotoTooLarge(
            f"{file} has {size / MIB:.0f} MiB; the limit is {limits.photo_bytes // MIB} MiB. "
            "Resize it or save it as JPEG"
        )
    return file


def input_ref(role: str, file: Path) -> InputRef:
    """Name a file by its content."""
    return InputRef(role, file_sha256(file), file.stat().st_size, file.suffix.lower().lstrip("."))
