"""A photo with depth -> the planes, colours and grain of the simple world around it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from worldloom.generator.seed import Seed
from worldloom.generator.video.backdrop import FLOOR_REACH_M, WALL_STEP_M, Backdrop, Plane
from worldloom.generator.video.texture import TILE, Grain, make_grain, plain_colour
from worldloom.scene.cameras import pixel_rays, project, unproject
from worldloom.scene.frame import invert_rigid

FLOOR_STEP_M, FLOOR_SPREAD = 0.005, 0.02  # Grid of the floor's grain, and its most contrast.
WALL_SPREAD = 0.012  # Most contrast of the walls' grain: they show things, so little is kept.
WALL_BLEND_M = 0.35  # Height over which the wall's colour is averaged.
WALL_TINT = 0.5  # Share of the wall's own colour by height; the rest is its mean.
WALL_TOP_M = 6.0  # Height up to which the wall's colour follows the photo.
OUTDOOR_SKY = 0.02  # Share of sky pixels above which a photo was taken outdoors.
WALL_BAND_M = (0.3, 2.5)  # Heights at which a background surface is looked for.
BACKGROUND_SHARE = 0.85  # Quantile of a column's distances that counts as background.
WALL_TOLERANCE = 0.12  # Relative distance from the wall plane that still belongs to the wall.
WALL_MIN_COLUMNS = 16  # Image columns with background below which no wall is fitted.
MIN_SURFACE_PX = 64  # Pixels of a surface below which nothing is learnt from it.
SIDE_WALLS = 1.5  # Side and back walls stand at this many wall distances.


def make_backdrop(seed: Seed, seed_number: int) -> Backdrop:
    """Estimate floor, walls and sky of a photo that has depth."""
    points = unproject(seed.depth, seed.K, seed.c2w)
    outdoor = bool(seed.sky.mean() > OUTDOOR_SKY)
    solid = (seed.depth > 0) & ~seed.floor & ~seed.sky
    wall = _fit_wall(points, solid, seed.c2w)
    reach = wall.offset - float(seed.c2w[:2, 3] @ wall.normal)
    top = float(np.percentile(points[solid][:, 2], 95)) if outdoor and solid.any() else np.inf
    floor, floor_colour = _floor_texture(seed, points, seed_number)
    wall_grain, wall_colour = _wall_texture(seed, wall, seed_number)
    sides = () if outdoor else _room(wall, seed.c2w, SIDE_WALLS * abs(reach))
    return Backdrop(
        walls=(wall, *sides),
        wall_top=top,
        floor=floor,
        floor_colour=floor_colour,
        wall=wall_grain,
        wall_colour=wall_colour,
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


def _floor_texture(
    seed: Seed, points: NDArray[np.float64], number: int
) -> tuple[Grain, NDArray[np.float32]]:
    """Grain and mean colour of the seen floor, looked at from above."""
    on = seed.floor & (seed.depth > 0)
    if on.sum() < MIN_SURFACE_PX:
        colour = np.median(seed.rgb[-max(1, len(seed.rgb) // 8) :].reshape(-1, 3), axis=0)
        blank = np.zeros((8, 8, 3), np.float32)
        none = np.zeros((8, 8), bool)
        return make_grain(blank, none, step=FLOOR_STEP_M, spread=0, seed=number), colour
    ground = points[on][:, :2]
    away = np.linalg.norm(ground - seed.c2w[:2, 3], axis=1)
    # A pixel covers away^2 / (focal x height) of the floor; beyond two cells of the grid the
    # floor is a blur along the view, which would spoil the grain.
    reach = np.sqrt(2 * FLOOR_STEP_M * seed.K[1, 1] * max(seed.c2w[2, 3], 0.05))
    sharp = away <= max(np.quantile(away, 0.3), reach)
    low, high = ground[sharp].min(0), ground[sharp].max(0)
    shape = np.clip((high - low) / FLOOR_STEP_M, 8, TILE).astype(int)
    x = low[0] + (np.arange(shape[0]) + 0.5) * FLOOR_STEP_M
    middle = (low[1] + high[1]) / 2
    y = middle + (np.arange(shape[1]) + 0.5 - shape[1] / 2) * FLOOR_STEP_M
    grid = np.stack(np.broadcast_arrays(x[None, :], y[:, None], 0.0), -1)
    rgb, known = _look_up(seed, grid, seed.floor)
    colour = plain_colour(rgb, known) if known.any() else np.median(seed.rgb[on], axis=0)
    grain = make_grain(rgb, known, step=FLOOR_STEP_M, spread=FLOOR_SPREAD, seed=number)
    return grain, colour


def _wall_texture(seed: Seed, wall: Plane, number: int) -> tuple[Grain, NDArray[np.float32]]:
    """Grain of the photo's background, and its colour by height."""
    points = unproject(seed.depth, seed.K, seed.c2w)
    solid = (seed.depth > 0) & ~seed.floor & ~seed.sky
    off = np.abs(points[..., :2] @ wall.normal - wall.offset)
    on = solid & (off < WALL_TOLERANCE * seed.depth)
    if on.sum() < MIN_SURFACE_PX:
        on = solid if solid.any() else np.ones_like(solid)
    colour = _colour_by_height(points[on][:, 2], seed.rgb[on])
    along = wall.along(points[on][:, :2])
    start = float(np.median(along)) - TILE / 2 * WALL_STEP_M
    columns = start + (np.arange(TILE) + 0.5) * WALL_STEP_M
    rows = (np.arange(len(colour)) + 0.5) * WALL_STEP_M
    direction = np.array([-wall.normal[1], wall.normal[0]])
    grid = np.empty((len(rows), len(columns), 3))
    grid[..., :2] = (wall.offset * wall.normal + columns[:, None] * direction)[None]
    grid[..., 2] = rows[:, None]
    rgb, known = _look_up(seed, grid, on)
    grain = make_grain(rgb, known, step=WALL_STEP_M, spread=WALL_SPREAD, seed=number + 1)
    return grain, colour


def _colour_by_height(height: NDArray[np.float64], rgb: NDArray[np.float32]) -> NDArray[np.float32]:
    """Soft vertical run of the median colour, one row per WALL_STEP_M, [rows 3]."""
    from scipy.ndimage import gaussian_filter1d

    top = float(np.clip(np.quantile(height, 0.98), 0.5, WALL_TOP_M))
    middle = np.median(rgb, axis=0)
    row = np.clip(height / WALL_STEP_M, 0, int(top / WALL_STEP_M) - 1).astype(np.int64)
    out = np.tile(middle, (int(top / WALL_STEP_M), 1))
    order = np.argsort(row, kind="stable")
    edges = np.searchsorted(row[order], np.arange(len(out) + 1))
    for i in range(len(out)):
        if edges[i + 1] > edges[i]:
            out[i] = np.median(rgb[order[edges[i] : edges[i + 1]]], axis=0)
    out = gaussian_filter1d(out, WALL_BLEND_M / WALL_STEP_M, axis=0, mode="nearest")
    return (WALL_TINT * out + (1 - WALL_TINT) * middle).astype(np.float32)


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
