"""Photo bytes -> upright RGB float32 [h w 3] in [0, 1] and a focal prior [px]; depth files too.

Nothing of a user's file is decoded in this process: `photo_child.py` does it in a child of its own
without torch, under limits of memory and time. What comes back is sizes, words and raw pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worldloom.generator.decoder import run_decoder
from worldloom.scene.errors import (
    InvalidDepth,
    InvalidPhoto,
    PhotoTooLarge,
    WorldloomError,
)
from worldloom.scene.limits import Limits

MAX_SIDE = 2048
"""Longer side of a decoded photo [px]; no engine works on more, so larger ones are reduced."""
WALL_SECONDS = 60  # Real time for the child, three times its processor time.
PLAUSIBLE_FOCAL = (0.2, 12.0)
"""Focal length over the longer side: a 136 degree fisheye to a 500 mm lens."""
MIN_VALID_SHARE = 0.1
"""Share of pixels with a depth below which a supplied map says too little."""
LARGEST_MEDIAN_M = 1000.0
"""Median depth above which a map is surely in millimetres, not in metres."""
ASPECT_TOLERANCE = 0.02
"""Largest relative difference in shape between a depth map and its photo."""


@dataclass(frozen=True)
class Photo:
    """A decoded photo."""

    rgb: NDArray[np.float32]
    """Upright sRGB colours in [0, 1], shape [h w 3]; at most MAX_SIDE on the longer side."""
    full_width: int
    full_height: int
    """Size of the upright photo before it was averaged down [px]."""
    focal_px: float | None
    """Focal length from EXIF in pixels of `rgb`, None when the file does not tell."""
    focal_source: str
    """EXIF field that the focal length came from, or an empty string."""
    notes: tuple[str, ...]
    """What was changed in decoding, one sentence each."""


@dataclass(frozen=True)
class DepthFile:
    """A decoded depth map."""

    depth: NDArray[np.float32]
    """z-depth in metres, shape [h w]; 0 where the file says nothing."""
    notes: tuple[str, ...]
    """What was changed in decoding, one sentence each."""


def load_photo(file: Path, *, limits: Limits | None = None, max_side: int = MAX_SIDE) -> Photo:
    """Decode a photo in a child process.

    Args:
        file: PNG, JPEG or WebP.
        limits: Byte and pixel caps.
        max_side: Longer side above which the photo is averaged down [px].

    Raises:
        InvalidPhoto: Missing, empty, damaged, animated, too small, or not a photo.
        PhotoTooLarge: More bytes or pixels than the limits allow; told from the header.
    """
    limits = limits or Limits()
    _check_bytes(file, limits.photo_bytes, "photo")
    caps = {
        "photo_pixels": limits.photo_pixels,
        "photo_min_side": limits.photo_min_side,
        "max_side": max_side,
    }
    head, pixels = _decode(file, "photo", caps)
    width, height = int(head["width"]), int(head["height"])
    bytes_rgb = np.frombuffer(pixels, np.uint8).reshape(height, width, 3)
    longer = max(head["full_width"], head["full_height"])
    focal, notes = head["focal_px"], list(head["notes"])
    if focal is not None and not PLAUSIBLE_FOCAL[0] <= focal / longer <= PLAUSIBLE_FOCAL[1]:
        notes.append(f"EXIF says a focal length of {focal:.0f} px, which no camera has; ignored")
        focal = None
    return Photo(
        rgb=bytes_rgb.astype(np.float32) / np.float32(255),
        full_width=int(head["full_width"]),
        full_height=int(head["full_height"]),
        focal_px=None if focal is None else focal * max(width, height) / longer,
        focal_source=head["focal_source"] if focal is not None else "",
        notes=tuple(notes),
    )


def load_depth(file: Path, *, photo: Photo, limits: Limits | None = None) -> DepthFile:
    """Decode a depth map that belongs to `photo`, in a child process.

    Args:
        file: npy or npz (floats in metres, integers in millimetres), 16-bit PNG in millimetres,
            or EXR in metres.
        photo: The photo; the map needs its shape, though not its resolution.
        limits: Byte and pixel caps.

    Raises:
        InvalidDepth: Missing, damaged, of the wrong shape or unit, or nearly without values.
    """
    limits = limits or Limits()
    _check_bytes(file, limits.depth_bytes, "depth")
    head, raw = _decode(file, "depth", {"photo_pixels": limits.photo_pixels})
    width, height = int(head["width"]), int(head["height"])
    depth = np.frombuffer(raw, np.float32).reshape(height, width)
    _check_shape(file, width, height, photo)
    notes = list(head["notes"])
    valid = np.isfinite(depth) & (depth > 0)
    share = float(valid.mean())
    if share < MIN_VALID_SHARE:
        raise InvalidDepth(
            f"depth {file.name} has a finite value above zero in {share:.1%} of its pixels; at "
            f"least {MIN_VALID_SHARE:.0%} is needed. Zeros, NaN and infinities count as unknown",
            field="depth",
        )
    median = float(np.median(depth[valid]))
    if median > LARGEST_MEDIAN_M:
        raise InvalidDepth(
            f"depth {file.name} has a median of {median:.4g}; metres are needed and the limit is "
            f"{LARGEST_MEDIAN_M:g}. Divide millimetres by 1000",
            field="depth",
        )
    if share < 1.0:
        notes.append(f"{1 - share:.1%} of the depth map has no value (zero, NaN or infinite)")
    return DepthFile(np.where(valid, depth, np.float32(0)), tuple(notes))


def _check_shape(file: Path, width: int, height: int, photo: Photo) -> None:
    full = (photo.full_width, photo.full_height)
    ratio = (width / height) / (full[0] / full[1])
    # One pixel of rounding must pass for maps that are much smaller than the photo.
    slack = max(ASPECT_TOLERANCE, 1.5 / min(width, height))
    if abs(ratio - 1) <= slack and min(width, height) >= 32:
        return
    turned = abs((height / width) / (full[0] / full[1]) - 1) <= slack
    remedy = "Turn it upright as the photo's EXIF orientation says" if turned else (
        "Give a map of the whole photo, at any resolution from 32 px on"
    )  # fmt: skip
    raise InvalidDepth(
        f"depth {file.name} is {width} x {height} px and the photo is {full[0]} x {full[1]}; the "
        f"same shape within {slack:.0%} is needed. {remedy}",
        field="depth",
    )


def _refusal(kind: str) -> type[InvalidPhoto] | type[InvalidDepth]:
    return {"photo": InvalidPhoto, "large": PhotoTooLarge, "depth": InvalidDepth}[kind]


REMEDY = {
    "photo": "Give a still PNG, JPEG or WebP file",
    "large": "Resize it, or raise limits.photo_pixels on the server",
    "depth": "Give an npy, npz, 16-bit PNG (millimetres) or EXR file",
}


def _check_bytes(file: Path, limit: int, kind: str) -> None:
    refusal = _refusal(kind)
    try:
        size = file.stat().st_size
    except OSError as error:
        raise refusal(
            f"{kind} {file} cannot be read ({error.strerror}). Check the path and its permissions",
            field=kind,
        ) from error
    if not file.is_file():
        raise refusal(f"{kind} {file} is not a file. {REMEDY[kind]}", field=kind)
    if size == 0:
        raise refusal(f"{kind} {file.name} is empty (0 bytes). {REMEDY[kind]}", field=kind)
    if size > limit:
        large = PhotoTooLarge if kind == "photo" else InvalidDepth
        raise large(
            f"{kind} {file.name} has {size / 2**20:.1f} MiB; the limit is {limit / 2**20:g} MiB. "
            f"Make it smaller, or raise limits.{kind}_bytes on the server",
            field=kind,
        )


def _decode(file: Path, kind: str, caps: dict[str, int]) -> tuple[dict[str, Any], bytes]:
    """Run the decoding child on `file`; returns its header and the pixels."""

    def refuse(words: str) -> WorldloomError:
        return _refusal(kind)(f"{kind} {file.name} {words}. {REMEDY[kind]}", field=kind)

    child = Path(__file__).with_name("photo_child.py")
    head, pixels = run_decoder(child, kind, caps, file, seconds=WALL_SECONDS, refuse=refuse)
    if "error" in head:
        raise _refusal(head["error"])(
            f"{kind} {file.name} {head['text']}. {REMEDY[head['error']]}", field=kind
        )
    return head, pixels
