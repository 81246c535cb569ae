"""Pictures of any kind -> float64 sRGB 0..1 [h w 3], checked once so that no metric asks again."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from worldloom.scene.errors import InvalidRequest

Picture = NDArray[np.uint8] | NDArray[np.floating]
"""sRGB, [h w 3]: bytes, or floats 0..1."""
DARK = 1.0 / 255.0  # Pictures whose brightest value is below one grey level show nothing.


def as_unit(picture: Picture, name: str = "picture") -> NDArray[np.float64]:
    """A picture as float64 in 0..1, [h w 3].

    Args:
        picture: sRGB bytes or floats 0..1.
        name: What errors call it.

    Raises:
        InvalidRequest: It is no colour picture, is empty, or holds NaN or infinity.
    """
    if picture.ndim != 3 or picture.shape[2] != 3 or 0 in picture.shape:
        raise InvalidRequest(
            f"{name} has shape {picture.shape}; a metric needs an sRGB picture [h w 3]"
        )
    if picture.dtype == np.uint8:
        return picture / 255.0
    unit = np.asarray(picture, np.float64)
    bad = int((~np.isfinite(unit)).any(-1).sum())
    if bad:
        raise InvalidRequest(
            f"{name} has {bad} of {unit[..., 0].size} pixels with NaN or infinity; "
            "every pixel must be finite. Make or decode it again"
        )
    return np.clip(unit, 0.0, 1.0)


def as_pair(
    picture: Picture, reference: Picture, names: tuple[str, str] = ("picture", "reference")
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Two pictures of one size as float64 in 0..1.

    Raises:
        InvalidRequest: One is unusable, or their sizes differ.
    """
    a, b = as_unit(picture, names[0]), as_unit(reference, names[1])
    if a.shape != b.shape:
        raise InvalidRequest(
            f"{names[0]} is {a.shape[1]} x {a.shape[0]} and {names[1]} is "
            f"{b.shape[1]} x {b.shape[0]} pixels; metrics compare pixels of equal size. "
            "Resize one of them"
        )
    return a, b


def is_black(picture: Picture) -> bool:
    """Whether a picture shows nothing at all."""
    return bool(as_unit(picture).max() < DARK)


def as_batch(pictures: list[NDArray[np.float64]]) -> NDArray[np.float32]:
    """Pictures [h w 3] of one size as a network takes them, float32 [n 3 h w]."""
    return np.stack(pictures).transpose(0, 3, 1, 2).astype(np.float32)
