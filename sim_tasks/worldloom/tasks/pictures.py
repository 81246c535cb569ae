"""A world -> the pictures that a person looks at: photo, depth, splats, collider, map."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worldloom.scene.cameras import Cameras
from worldloom.scene.frame import look_at
from worldloom.scene.splats import Splats
from worldloom.tasks.world import NavWorld

JPEG_QUALITY = 85
DEPTH_NEAR_M = 0.5  # Nearest depth of the colour scale [m].


def encode(rgb: NDArray[np.floating] | NDArray[np.uint8], *, side: int = 900) -> bytes:
    """A picture [h w 3] (bytes, or sRGB 0..1) as JPEG of at most `side` pixels."""
    from PIL import Image

    if rgb.dtype != np.uint8:
        rgb = (np.clip(rgb, 0, 1) * 255 + 0.5).astype(np.uint8)
    image = Image.fromarray(np.ascontiguousarray(rgb))
    image.thumbnail((side, side))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=JPEG_QUALITY)
    return buffer.getvalue()


def encode_photo(file: Path, *, side: int = 900) -> bytes:
    """The photo, upright, as JPEG of at most `side` pixels."""
    from PIL import Image, ImageOps

    with Image.open(file) as image:
        upright = ImageOps.exif_transpose(image).convert("RGB")
    return encode(np.asarray(upright), side=side)


def colour_depth(depth: NDArray[np.floating]) -> NDArray[np.float32]:
    """Depth [h w] in metres as colours [h w 3]: near is red, far is blue, none is dark."""
    import matplotlib

    inverse = np.where(depth > 0, 1 / np.maximum(depth, DEPTH_NEAR_M), 0)
    known = depth > 0
    low, high = np.quantile(inverse[known], [0.01, 0.99]) if known.any() else (0.0, 1.0)
    scaled = np.clip((inverse - low) / max(high - low, 1e-9), 0, 1)
    colours = matplotlib.colormaps["turbo"](scaled)[..., :3].astype(np.float32)
    colours[~known] = (0.08, 0.09, 0.11)
    return colours


def read_splats(world: NavWorld) -> Splats:
    """All live splats of a world, where they stand."""
    from pxr import Usd

    parts = []
    for entry in world.manifest.live("splats"):
        stage = Usd.Stage.Open(str(world.folder / entry.path))
        for prim in stage.Traverse():
            if prim.GetTypeName() == "ParticleField3DGaussianSplat":
                part = _splats_of(prim)
                parts.append(part if entry.move is None else part.transformed(entry.move))
    return Splats.concat(parts)


def _splats_of(prim: Any) -> Splats:
    def get(name: str) -> NDArray[np.float32]:
        return np.asarray(prim.GetAttribute(name).Get(), np.float32)

    means = get("positions").reshape(-1, 3)
    quats = np.roll(get("orientations").reshape(-1, 4), 1, axis=1)
    sh = get("radiance:sphericalHarmonicsCoefficients").reshape(len(means), -1, 3)
    return Splats(means, get("scales").reshape(-1, 3), quats, get("opacities"), sh)


def viewpoints(cameras: Cameras, *, robot_height: float) -> list[tuple[str, NDArray[np.float64]]]:
    """Named camera poses worth looking from: along the path, beside it, and as the robot sees."""
    last = cameras.n - 1
    start, eye = cameras.c2w[0], cameras.centres[last]
    ahead = start[:3, 2] * [1, 1, 0]
    ahead /= max(np.linalg.norm(ahead), 1e-9)
    left = np.array([-ahead[1], ahead[0], 0.0])
    target = start[:3, 3] * [1, 1, 0] + 3.0 * ahead + [0, 0, 0.4]
    beside = eye * [1, 1, 0] + 0.6 * left + [0, 0, eye[2]]
    low = eye * [1, 1, 0] + 0.8 * ahead + [0, 0, max(0.3, 2 * robot_height)]
    return [
        ("Path, frame 0", start),
        (f"Path, frame {last // 2}", cameras.c2w[last // 2]),
        (f"Path, frame {last}", cameras.c2w[last]),
        ("New view, 0.6 m beside the path", look_at(beside, target)),
        ("New view, near the floor", look_at(low, target)),
    ]
