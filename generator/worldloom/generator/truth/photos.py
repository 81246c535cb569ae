"""Ten single photos of the scenes, from low and high, level and tilted cameras, with exact depth.

They are the tests of everything that estimates a scene from one photo.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from worldloom.generator.truth.render import render_view
from worldloom.generator.truth.scene import TruthScene, scene
from worldloom.generator.truth.walk import camera_pose, photo_camera
from worldloom.scene.cameras import intrinsics

PHOTO_SIZE = (832, 480)

VIEWPOINTS: tuple[tuple[str, float, float, float, float, float, float], ...] = (
    # scene, x, y, camera height [m], yaw, pitch, field of view [degrees]
    ("room", -1.3, 0.0, 1.5, 0.0, -12.0, 72.0),
    ("room", 4.9, -0.6, 1.2, 165.0, -20.0, 80.0),
    ("room", 0.2, -1.9, 0.4, 40.0, -4.0, 75.0),
    ("two_rooms", -0.9, 0.4, 1.1, -4.0, -8.0, 80.0),
    ("two_rooms", 7.7, 0.5, 1.8, 205.0, -30.0, 70.0),
    ("two_rooms", 3.9, 0.6, 0.7, -10.0, 0.0, 85.0),
    ("corridor", -0.7, 0.1, 1.3, 0.0, -15.0, 70.0),
    ("corridor", 6.2, 0.0, 0.5, 92.0, 5.0, 80.0),
    ("street", -1.2, 0.3, 1.6, -3.0, -10.0, 68.0),
    ("street", 12.6, -6.4, 1.0, 150.0, -2.0, 75.0),
)


FLOOR_BELOW = {("street", 9): -0.12}
"""Height of the ground under viewpoints that do not stand at z = 0 [m]: the road."""


@dataclass(frozen=True)
class TruthPhoto:
    """One photo with everything that is known of it."""

    name: str
    """Scene and number, such as `room-0`."""
    rgb: NDArray[np.float32]
    """sRGB 0..1, shape [h w 3]."""
    depth: NDArray[np.float32]
    """z-depth [m], 0 for the sky, shape [h w]."""
    K: NDArray[np.float64]
    """Intrinsics in pixels, shape [3 3]."""
    c2w: NDArray[np.float64]
    """Camera to world, OpenCV axes, z = 0 on the floor below the camera, shape [4 4]."""
    pitch_deg: float
    """Pitch of the camera; negative looks down."""
    camera_height: float
    """Height above the floor [m]."""


def ten_photos(size: tuple[int, int] = PHOTO_SIZE) -> list[TruthPhoto]:
    """Ten photos: pitch -30 to +5 degrees, camera height 0.4 to 1.8 m.

    Args:
        size: Width and height in pixels.
    """
    return [_photo(number, size) for number in range(len(VIEWPOINTS))]


def photo_view(scene: TruthScene, size: tuple[int, int] = PHOTO_SIZE) -> TruthPhoto:
    """The photo that a scene's walk begins with.

    Args:
        scene: The place.
        size: Width and height in pixels.
    """
    camera = photo_camera(scene, size)
    view = render_view(scene, camera.c2w[0], camera.K[0], size)
    return TruthPhoto(
        scene.name, view.rgb, view.depth, camera.K[0], camera.c2w[0], scene.camera_pitch_deg,
        scene.camera_height,
    )  # fmt: skip


def _photo(number: int, size: tuple[int, int]) -> TruthPhoto:
    name, x, y, height, yaw, pitch, fov = VIEWPOINTS[number]
    floor = FLOOR_BELOW.get((name, number), 0.0)
    c2w, K = camera_pose((x, y, height + floor), yaw, pitch), intrinsics(fov, *size)
    view = render_view(scene(name), c2w, K, size)
    c2w[2, 3] = height
    return TruthPhoto(f"{name}-{number}", view.rgb, view.depth, K, c2w, pitch, height)
