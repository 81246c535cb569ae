"""What a world keeps of its frames: half-resolution keyframes, and small pictures for watchers."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray

from worldloom.generator.video.frame import Frame
from worldloom.scene.cameras import strided

RECORD_STRIDE = 2
"""Keyframes are kept at every second pixel: enough to tell what was seen, a quarter of the size."""
PREVIEW_SIDE = 320  # Longer side of a preview picture [px].
PREVIEW_QUALITY = 70  # JPEG quality of a preview picture; about 10 kB.


def keyframes_npz(frames: list[Frame]) -> bytes:
    """The content of `depth/keyframes.npz` (compressed; equal frames give equal bytes).

    Arrays: frame_id [k], depth [k h w] float32 z-depth in metres (0 = none), origin [k h w] uint8
    (0 none, 1 seen in the photo, 2 made up), rgb [k h w 3] uint8 sRGB, c2w [k 4 4] world metres,
    K [k 3 3] in pixels of these arrays.
    """
    s = RECORD_STRIDE
    arrays = {
        "frame_id": np.array([frame.frame_id for frame in frames], np.int32),
        "depth": np.stack([frame.depth[::s, ::s] for frame in frames]).astype(np.float32),
        "origin": np.stack([frame.origin[::s, ::s] for frame in frames]).astype(np.uint8),
        "rgb": np.stack([to_bytes(frame.rgb[::s, ::s]) for frame in frames]),
        "c2w": np.stack([frame.c2w for frame in frames]).astype(np.float64),
        "K": strided(np.stack([frame.K for frame in frames]), s),
    }
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def to_bytes(rgb: NDArray[np.floating] | NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Colours [h w 3] as uint8; floats are sRGB 0..1."""
    if rgb.dtype == np.uint8:
        return np.ascontiguousarray(rgb)
    return (np.clip(rgb, 0, 1) * 255 + 0.5).astype(np.uint8)


def preview_jpeg(rgb: NDArray[np.floating]) -> bytes:
    """A small JPEG of a frame [h w 3]."""
    from PIL import Image

    image = Image.fromarray(to_bytes(rgb))
    image.thumbnail((PREVIEW_SIDE, PREVIEW_SIDE))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=PREVIEW_QUALITY)
    return buffer.getvalue()
