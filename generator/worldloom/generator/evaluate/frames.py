"""Folders of pictures -> frames as sRGB bytes [h w 3]."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from worldloom.scene.errors import InvalidRequest, NotFound

Frame = NDArray[np.uint8]
ENDINGS = (".png", ".jpg", ".jpeg", ".webp")
FRAMES_MIN = 2  # A single picture is no walk.
ASPECT_SLACK = 0.10  # Frames whose shape differs by more are of something else.
PIXELS_MAX = 50_000_000  # As for photos (limits.photo_pixels).


def picture_files(folder: Path) -> list[Path]:
    """Pictures of a folder, or of its folder `frames`, in the order of their names.

    Raises:
        NotFound: There is no such folder.
        InvalidRequest: It holds fewer than two pictures.
    """
    if not folder.is_dir():
        raise NotFound(f"there is no folder {folder}; give a folder of frames")
    inner = folder / "frames"
    place = inner if inner.is_dir() else folder
    files = sorted(p for p in place.iterdir() if p.suffix.lower() in ENDINGS)
    if len(files) < FRAMES_MIN:
        raise InvalidRequest(
            f"{place} holds {len(files)} pictures ({', '.join(ENDINGS)}); a comparison needs at "
            f"least {FRAMES_MIN} frames of a real walk"
        )
    return files


def read_picture(file: Path) -> Frame:
    """One picture as sRGB bytes.

    Raises:
        InvalidRequest: It cannot be decoded, or is too large.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(file) as image:
            if image.width * image.height > PIXELS_MAX:
                raise InvalidRequest(
                    f"{file} is {image.width} x {image.height} = "
                    f"{image.width * image.height / 1e6:.0f} Mpx; the limit is "
                    f"{PIXELS_MAX / 1e6:.0f} Mpx. Resize it"
                )
            return np.asarray(image.convert("RGB"))
    except (OSError, UnidentifiedImageError, SyntaxError, ValueError) as error:
        raise InvalidRequest(
            f"{file} is no picture that can be decoded ({str(error)[:120]}); replace it"
        ) from error


def fitted(picture: Frame, size: tuple[int, int], name: str) -> Frame:
    """A picture cropped about its middle to the shape of `size` (w, h) and resized to it.

    Raises:
        InvalidRequest: Its shape is too different.
    """
    from PIL import Image

    height, width = picture.shape[:2]
    if (width, height) == size:
        return picture
    wanted, found = size[0] / size[1], width / height
    if abs(found / wanted - 1) > ASPECT_SLACK:
        raise InvalidRequest(
            f"{name} is {width} x {height} pixels and the world's frames are {size[0]} x "
            f"{size[1]}; their shapes differ by {abs(found / wanted - 1):.0%}, at most "
            f"{ASPECT_SLACK:.0%} is cropped away. Crop the real frames to the same view"
        )
    keep_w, keep_h = min(width, round(height * wanted)), min(height, round(width / wanted))
    left, top = (width - keep_w) // 2, (height - keep_h) // 2
    part = Image.fromarray(picture).crop((left, top, left + keep_w, top + keep_h))
    # BOX averages what a coarser pixel covers; enlarging needs no more than bilinear.
    how = Image.Resampling.BOX if keep_w >= size[0] else Image.Resampling.BILINEAR
    return np.asarray(part.resize(size, how))
