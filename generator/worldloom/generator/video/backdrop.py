"""The photo -> a simple closed world around it: floor, walls, sky, each with its texture.

What no frame has seen is taken from here. The backdrop is fixed in the world, so made-up parts
agree between all cameras: the floor is the plane z = 0 continued below the horizon, a wall stands
where the photo's background stands and is continued to both sides, and outdoors the sky goes on.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from worldloom.generator.seed import Seed
from worldloom.generator.video.texture import Texture, make_texture
from worldloom.scene.cameras import pixel_rays, project, unproject
from worldloom.scene.frame import invert_rigid

FLOOR_STEP_M, FLOOR_CELL_M = 0.01, 0.35
WALL_STEP_M, WALL_CELL_M = 0.02, 0.8
OUTDOOR_SKY = 0.02  # Share of sky pixels above which a photo was taken outdoors.
FLOOR_REACH_M = 25.0  # The floor is continued to this distance outdoors; beyond lies haze.
WALL_BAND_M = (0.3, 2.5)  # Heights at which a background surface is looked for.
BACKGROUND_SHARE = 0.85  # Quantile of a column's distances that counts as background.
WALL_TOLERANCE = 0.12  # Relative distance from the wall plane that still belongs to the wall.
WALL_MIN_COLUMNS = 16  # Image columns with background below which no wall is fitted.
SIDE_WALLS = 1.5  # Side and back walls stand at this many wall distances.


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
    floor: Texture
    wall: Texture
    wall_start: float
    """Coordinate along the first wall of the texture's first column [m]."""
    sky: NDArray[np.float32]
    """Colour of the sky from the horizon up, [rows 3] for 0 to 90 degrees."""

    def view(
        self, c2w: ArrayLike, K: ArrayLike, size: tuple[int, int], wanted: NDArray[np.bool_]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Colour [h w 3] and z-depth [h w] (0 = sky) of the backdrop at the `wanted` pixels."""
        c2w = np.asarray(c2w, np.float64)
        rays = pixel_rays(K, *size)[wanted] @ c2w[:3, :3].T
        eye = c2w[:3, 3]
        depth, surface = self._trace(eye, rays)
        points = eye + rays * depth[:, None]
        rgb = self._colour(points, rays, surface)
        full_rgb, full_depth = np.zeros((*wanted.shape, 3), np.float32), np.zeros(wanted.shape)
        full_rgb[wanted] = rgb
        full_depth[wanted] = np.where(np.isfinite(depth), depth, 0)
        return full_rgb, full_depth.astype(np.float32)

    def _trace(
        self, eye: NDArray[np.float64], rays: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """z-depth and surface number of each ray: -1 sky, 0 floor, 1.. walls."""
        with np.errstate(divide="ignore", invalid="ignore"):
            depth = np.where(rays[:, 2] < -1e-9, -eye[2] / rays[:, 2], np.inf)
            reach = depth * np.hypot(rays[:, 0], rays[:, 1])
            depth = np.where(reach < FLOOR_REACH_M, depth, np.inf)
            surface = np.where(np.isfinite(depth), 0, -1)
            for number, wall in enumerate(self.walls, 1):
                speed = rays[:, :2] @ wall.normal
                at = (wall.offset - eye[:2] @ wall.normal) / speed
                height = eye[2] + at * rays[:, 2]
                hit = (speed < 0) & (at > 0) & (at < depth) & (height <= self.wall_top)
                depth, surface = np.where(hit, at, depth), np.where(hit, number, surface)
        return depth, surface

    def _colour(
        self,
        points: NDArray[np.float64],
        rays: NDArray[np.float64],
        surface: NDArray[np.int64],
    ) -> NDArray[np.float32]:
        rgb = np.zeros((len(points), 3), np.float32)
        on_floor = surface == 0
        rgb[on_floor] = self.floor.sample(points[on_floor, 0], points[on_floor, 1])
        for number, wall in enumerate(self.walls, 1):
            on = surface == number
            along = wall.along(points[on, :2]) - self.wall_start
            rows = self.wall.rgb.shape[0] * self.wall.step
            rgb[on] = self.wall.sample(along, np.clip(rows - points[on, 2], 0, rows))
        in_sky = surface < 0
        up = rays[in_sky, 2] / np.linalg.norm(rays[in_sky], axis=1)
        row = np.degrees(np.arcsin(np.clip(up, 0, 1))).astype(np.int64)
        rgb[in_sky] = self.sky[np.clip(row, 0, len(self.sky) - 1)]
        return np.clip(rgb, 0, 1)


def make_backdrop(seed: Seed, seed_number: int) -> Backdrop:
    """Estimate floor, walls and sky of a photo that has depth."""
    points = unproject(seed.depth, seed.K, seed.c2w)
    outdoor = bool(seed.sky.mean() > OUTDOOR_SKY)
    solid = (seed.depth > 0) & ~seed.floor & ~seed.sky
    wall = _fit_wall(points, solid, seed.c2w)
    reach = wall.offset - float(seed.c2w[:2, 3] @ wall.normal)
    top = float(np.percentile(points[solid][:, 2], 95)) if outdoor and solid.any() else np.inf
    texture, start = _wall_texture(seed, wall, seed_number)
    sides = () if outdoor else _room(wall, seed.c2w, SIDE_WALLS * abs(reach))
    return Backdrop(
        walls=(wall, *sides),
        wall_top=top,
        floor=_floor_texture(seed, points, seed_number),
        wall=texture,
        wall_start=start,
        sky=_sky(seed),
    )


def _fit_wall(
    points: NDArray[np.float64], solid: NDArray[np.bool_], c2w: NDArray[np.float64]
) -> Plane:
    """The vertical plane of the photo's background, by iteratively reweighted lines."""
    low, high = WALL_BAND_M
    band = solid & (points[..., 2] > low) & (points[..., 2] < high)
    columns = np.nonzero(band.any(0))[0]
    if len(columns) < WALL_MIN_COLUMNS:
        band = solid
        columns = np.nonzero(band.any(0))[0]
    forward = c2w[:2, 2] / max(np.linalg.norm(c2w[:2, 2]), 1e-9)
    if len(columns) < WALL_MIN_COLUMNS:
        return Plane(-forward, float(-(c2w[:2, 3] @ forward) - FLOOR_REACH_M))
    ahead = np.where(band, (points[..., :2] - c2w[:2, 3]) @ forward, np.nan)[:, columns]
    far = np.nanquantile(ahead, BACKGROUND_SHARE, axis=0)
    rows = np.nanargmin(np.abs(ahead - far), axis=0)
    xy = points[rows, columns, :2]
    lateral = np.array([-forward[1], forward[0]])
    a, d = (xy - c2w[:2, 3]) @ lateral, (xy - c2w[:2, 3]) @ forward
    weight = np.ones(len(a))
    for _ in range(20):
        slope, base = np.polyfit(a, d, 1, w=np.sqrt(weight))
        weight = 1 / np.maximum(np.abs(d - slope * a - base), 0.02 * np.median(d))
    slope = float(np.clip(slope, -0.6, 0.6))
    base = float(np.median(d - slope * a))
    normal = slope * lateral - forward
    normal /= np.linalg.norm(normal)
    return Plane(normal, float((c2w[:2, 3] + base * forward) @ normal))


def _room(wall: Plane, c2w: NDArray[np.float64], reach: float) -> tuple[Plane, ...]:
    """Side walls and a back wall, square to the first one."""
    eye, along = c2w[:2, 3], np.array([-wall.normal[1], wall.normal[0]])
    normals = (along, -along, -wall.normal)
    return tuple(Plane(n, float(eye @ n - reach)) for n in normals)


def _floor_texture(seed: Seed, points: NDArray[np.float64], number: int) -> Texture:
    """The seen floor from above; the nearest pixel of the photo gives each grid cell."""
    on = seed.floor & (seed.depth > 0)
    if on.sum() < 64:
        colour = np.full((8, 8, 3), 0.5, np.float32)
        colour[:] = seed.rgb[-max(1, len(seed.rgb) // 8) :].mean((0, 1))
        return make_texture(
            colour, np.ones((8, 8), bool), step=FLOOR_STEP_M, cell_m=0.04, free_rows=True,
            seed=number,
        )  # fmt: skip
    ground = points[on][:, :2]
    near = np.linalg.norm(ground - seed.c2w[:2, 3], axis=1)
    # Beyond a pixel of two grid cells the floor is a blur that would spoil the texture.
    sharp = near <= max(np.quantile(near, 0.5), 2 * FLOOR_STEP_M * seed.K[0, 0])
    low, high = ground[sharp].min(0), ground[sharp].max(0)
    high = np.minimum(high, low + 8.0)
    shape = np.maximum(((high - low) / FLOOR_STEP_M).astype(int), 8)
    x = low[0] + (np.arange(shape[0]) + 0.5) * FLOOR_STEP_M
    y = low[1] + (np.arange(shape[1]) + 0.5) * FLOOR_STEP_M
    grid = np.stack(np.broadcast_arrays(x[None, :], y[:, None], 0.0), -1)
    rgb, known = _look_up(seed, grid, seed.floor)
    return make_texture(
        rgb, known, step=FLOOR_STEP_M, cell_m=FLOOR_CELL_M, free_rows=True, seed=number
    )


def _wall_texture(seed: Seed, wall: Plane, number: int) -> tuple[Texture, float]:
    """The seen background on the wall's own grid (rows from the top), and where it starts."""
    points = unproject(seed.depth, seed.K, seed.c2w)
    solid = (seed.depth > 0) & ~seed.floor & ~seed.sky
    off = np.abs(points[..., :2] @ wall.normal - wall.offset)
    on = solid & (off < WALL_TOLERANCE * seed.depth)
    chosen = points[on] if on.sum() > 64 else points[solid] if solid.any() else points[:1, :1, :]
    along = wall.along(chosen.reshape(-1, 3)[:, :2])
    start, end = np.quantile(along, [0.01, 0.99])
    top = float(np.clip(np.quantile(chosen.reshape(-1, 3)[:, 2], 0.98), 0.5, 6.0))
    end = min(max(end, start + 16 * WALL_STEP_M), start + 20.0)
    columns = start + (np.arange(int((end - start) / WALL_STEP_M)) + 0.5) * WALL_STEP_M
    rows = top - (np.arange(max(8, int(top / WALL_STEP_M))) + 0.5) * WALL_STEP_M
    direction = np.array([-wall.normal[1], wall.normal[0]])
    ground = wall.offset * wall.normal + columns[:, None] * direction
    grid = np.empty((len(rows), len(columns), 3))
    grid[..., :2], grid[..., 2] = ground[None], rows[:, None]
    rgb, known = _look_up(seed, grid, on)
    if not known.any():
        rgb[:], known[:] = seed.rgb[seed.depth > 0].mean(0) if (seed.depth > 0).any() else 0.5, True
    texture = make_texture(
        rgb, known, step=WALL_STEP_M, cell_m=WALL_CELL_M, free_rows=False, seed=number
    )
    return texture, float(start)


def _look_up(
    seed: Seed, grid: NDArray[np.float64], allowed: NDArray[np.bool_]
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Colours of the photo at world points [rows columns 3], and which are known."""
    height, width = seed.depth.shape
    uv, z = project(grid, seed.K, invert_rigid(seed.c2w))
    with np.errstate(invalid="ignore"):
        column = np.floor(np.nan_to_num(uv[..., 0], nan=-1.0)).astype(np.int64)
        row = np.floor(np.nan_to_num(uv[..., 1], nan=-1.0)).astype(np.int64)
    inside = (z > 0) & (column >= 0) & (row >= 0) & (column < width) & (row < height)
    row, column = np.clip(row, 0, height - 1), np.clip(column, 0, width - 1)
    known = inside & allowed[row, column]
    return np.where(known[..., None], seed.rgb[row, column], 0).astype(np.float32), known


def _sky(seed: Seed) -> NDArray[np.float32]:
    """Mean colour of the sky by elevation, 90 rows; a pale blue-grey when none was seen."""
    out = np.full((90, 3), (0.74, 0.80, 0.88), np.float32)
    if not seed.sky.any():
        return out
    height, width = seed.sky.shape
    rays = pixel_rays(seed.K, width, height) @ np.asarray(seed.c2w)[:3, :3].T
    up = rays[..., 2] / np.linalg.norm(rays, axis=-1)
    row = np.clip(np.degrees(np.arcsin(np.clip(up, 0, 1))), 0, 89).astype(int)[seed.sky]
    count = np.bincount(row, minlength=90)
    for channel in range(3):
        total = np.bincount(row, seed.rgb[seed.sky][:, channel], minlength=90)
        seen = np.nonzero(count)[0]
        out[:, channel] = np.interp(np.arange(90), seen, total[seen] / count[seen])
    return out
