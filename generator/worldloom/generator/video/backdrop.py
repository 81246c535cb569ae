"""A simple closed world around the photo: floor, walls, sky, each with its colour and grain.

What no frame has seen is taken from here. The backdrop is fixed in the world, so made-up parts
agree between all cameras: the floor is the plane z = 0 continued below the horizon, a wall stands
where the photo's background stands and is continued to both sides, and outdoors the sky goes on.
`backdrop_fit` makes one from a photo.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba as nb
import numpy as np
from numpy.typing import ArrayLike, NDArray

from worldloom.generator.video.texture import Grain, add_grain

WALL_STEP_M = 0.01  # Grid of the walls' grain and of their colour by height [m].
FLOOR_REACH_M = 25.0  # The floor is continued to this distance outdoors; beyond lies haze.
CORNER_SHADE, CORNER_M = 0.25, 0.15  # Darkness of corners, and how far it reaches [m].


@dataclass(frozen=True)
class Plane:
    """A vertical wall: points with normal . (x, y) = offset; the normal points at the room."""

    normal: NDArray[np.float64]
    """Unit normal in the ground plane, [2]."""
    offset: float

    def along(self, xy: NDArray[np.float64]) -> NDArray[np.float64]:
        """Coordinate along the wall [m] of ground points [... 2]."""
        return xy[..., 0] * -self.normal[1] + xy[..., 1] * self.normal[0]


@dataclass(frozen=True)
class Backdrop:
    """What is made up where nothing was seen."""

    walls: tuple[Plane, ...]
    """Walls of the room; the first one carries the photo's background."""
    wall_top: float
    """Height of the walls [m]; infinite indoors."""
    floor: Grain
    floor_colour: NDArray[np.float32]
    """Mean colour of the floor, [3]."""
    wall: Grain
    wall_colour: NDArray[np.float32]
    """Colour of the walls by height, one row per WALL_STEP_M, [rows 3]."""
    sky: NDArray[np.float32]
    """Colour of the sky from the horizon up, [rows 3] for 0 to 90 degrees."""

    def view(
        self, c2w: ArrayLike, K: ArrayLike, size: tuple[int, int], wanted: NDArray[np.bool_]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_]]:
        """Colour [h w 3], z-depth [h w] (0 = sky) and floor [h w] at the `wanted` pixels."""
        walls = np.array([[*w.normal, w.offset] for w in self.walls]).reshape(-1, 3)
        rgb = np.zeros((size[1], size[0], 3), np.float32)
        depth = np.zeros((size[1], size[0]), np.float32)
        floor = np.zeros((size[1], size[0]), np.bool_)
        _view(
            np.asarray(c2w, np.float64), np.asarray(K, np.float64), wanted, walls,
            float(self.wall_top), self.floor.levels, self.floor.step, self.floor_colour,
            self.wall.levels, self.wall.step, self.wall_colour, self.sky, rgb, depth, floor,
        )  # fmt: skip
        return rgb, depth, floor


@nb.njit(cache=True)
def _view(
    c2w, K, wanted, walls, wall_top, floor_grain, floor_step, floor_colour,
    wall_grain, wall_step, wall_colour, sky, rgb, depth, floor,
):  # fmt: skip
    """Trace the wanted pixels to the first plane that they hit, and colour them."""
    height, width = wanted.shape
    eye = c2w[:3, 3]
    ray = np.zeros(3)
    for row in range(height):
        y = (row + 0.5 - K[1, 2]) / K[1, 1]
        for column in range(width):
            if not wanted[row, column]:
                continue
            x = (column + 0.5 - K[0, 2]) / K[0, 0]
            for axis in range(3):
                ray[axis] = c2w[axis, 0] * x + c2w[axis, 1] * y + c2w[axis, 2]
            slant = np.sqrt(x * x + y * y + 1)
            d, surface = _trace(eye, ray, walls, wall_top)
            colour = rgb[row, column]
            if surface < 0:
                up = np.degrees(np.arcsin(min(max(ray[2] / slant, 0.0), 1.0)))
                colour[:] = sky[min(int(up), len(sky) - 1)]
                continue
            px, py, pz = eye[0] + d * ray[0], eye[1] + d * ray[1], eye[2] + d * ray[2]
            if surface == 0:
                # Half way between the short and the long side of a pixel flat on the floor.
                size = d / K[0, 0] * np.sqrt(slant / max(-ray[2], 1e-3))
                colour[:] = floor_colour
                add_grain(floor_grain, floor_step, px, py, size, colour)
            else:
                nx, ny = walls[surface - 1, 0], walls[surface - 1, 1]
                facing = max(-(ray[0] * nx + ray[1] * ny), 1e-3)
                size = d / K[0, 0] * np.sqrt(slant / facing)
                colour[:] = wall_colour[min(max(int(pz / WALL_STEP_M), 0), len(wall_colour) - 1)]
                add_grain(wall_grain, wall_step, py * nx - px * ny, pz, size, colour)
            shade = _corner_shade(px, py, pz, surface, walls)
            for c in range(3):
                colour[c] = min(max(colour[c] * shade, 0.0), 1.0)
            depth[row, column], floor[row, column] = d, surface == 0


@nb.njit(cache=True)
def _trace(eye, ray, walls, wall_top):
    """z-depth of a ray with z = 1 in the camera, and its surface: -1 sky, 0 floor, 1.. walls."""
    d, surface = np.inf, -1
    if ray[2] < -1e-9:
        at = -eye[2] / ray[2]
        if at * np.hypot(ray[0], ray[1]) < FLOOR_REACH_M:
            d, surface = at, 0
    for k in range(len(walls)):
        speed = ray[0] * walls[k, 0] + ray[1] * walls[k, 1]
        if speed >= 0:
            continue
        at = (walls[k, 2] - eye[0] * walls[k, 0] - eye[1] * walls[k, 1]) / speed
        if 0 < at < d and eye[2] + at * ray[2] <= wall_top:
            d, surface = at, k + 1
    return d, surface


@nb.njit(cache=True)
def _corner_shade(x, y, z, surface, walls):
    """Light, 0..1, that reaches a point near other surfaces than its own."""
    shade = 1.0 if surface == 0 else 1 - CORNER_SHADE * np.exp(-max(z, 0.0) / CORNER_M)
    for k in range(len(walls)):
        if k + 1 != surface:
            gap = max(x * walls[k, 0] + y * walls[k, 1] - walls[k, 2], 0.0)
            shade *= 1 - CORNER_SHADE * np.exp(-gap / CORNER_M)
    return shade
