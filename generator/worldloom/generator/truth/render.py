"""Scene and camera -> exact picture: 3x3 samples of colour a pixel, depth at the pixel centres."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numba as nb
import numpy as np
from numpy.typing import ArrayLike, NDArray

from worldloom.generator.truth.cast import enter
from worldloom.generator.truth.scene import TruthScene
from worldloom.generator.truth.solids import FACE_SLOTS
from worldloom.generator.truth.texture import albedo, brightness, noise, normal, place
from worldloom.scene.frame import invert_rigid

SUPERSAMPLE = 3  # Samples along each side of a pixel (architecture page 3.3).
TILE = 16  # Pixels of a tile's side; a tile tries only the solids whose picture may touch it.
NEAR_M = 0.05  # Solids that reach behind this plane may be anywhere in the picture.


@dataclass(frozen=True)
class View:
    """What a camera sees."""

    rgb: NDArray[np.float32]
    """sRGB 0..1, mean over the samples of each pixel, shape [h w 3]."""
    depth: NDArray[np.float32]
    """z-depth at the pixel centre [m], 0 for the sky, shape [h w]."""
    surface_id: NDArray[np.int32]
    """Number of the surface at the pixel centre, -1 for the sky, shape [h w]."""


def render_view(
    scene: TruthScene,
    c2w: ArrayLike,
    K: ArrayLike,
    size: tuple[int, int],
    *,
    supersample: int = SUPERSAMPLE,
) -> View:
    """Render one view.

    Args:
        scene: The place.
        c2w: Camera to world, OpenCV axes, [4 4].
        K: Intrinsics in pixels, [3 3].
        size: Width and height in pixels.
        supersample: Samples along each side of a pixel.
    """
    c2w, K = np.ascontiguousarray(c2w, np.float64), np.ascontiguousarray(K, np.float64)
    boxes = _screen_boxes(scene, c2w, K, size)
    sky = np.zeros((2, 3)) if scene.sky is None else scene.sky
    rgb, depth, surface = _render(
        scene.arrays, scene.materials, scene.light, sky, boxes, c2w, K, size, supersample
    )
    return View(rgb, depth, surface)


def depth_view(
    scene: TruthScene, c2w: ArrayLike, K: ArrayLike, size: tuple[int, int]
) -> NDArray[np.float32]:
    """Only the z-depth [h w] of a view; arguments as `render_view`."""
    return render_view(scene, c2w, K, size, supersample=0).depth


def _screen_boxes(
    scene: TruthScene, c2w: NDArray[np.float64], K: NDArray[np.float64], size: tuple[int, int]
) -> NDArray[np.float64]:
    """Image rectangle (u0, v0, u1, v1) that each solid stays in, shape [s 4]; empty if unseen."""
    signs = np.stack(np.meshgrid([-1, 1], [-1, 1], [-1, 1], indexing="ij"), -1).reshape(-1, 3)
    local = scene.arrays.half[:, None] * signs
    cosine, sine = scene.arrays.turn[:, 0, None], scene.arrays.turn[:, 1, None]
    corners = scene.arrays.centre[:, None] + np.stack(
        [
            cosine * local[..., 0] - sine * local[..., 1],
            sine * local[..., 0] + cosine * local[..., 1],
            local[..., 2],
        ],
        -1,
    )
    w2c = invert_rigid(c2w)
    points = corners @ w2c[:3, :3].T + w2c[:3, 3]
    z = np.maximum(points[..., 2], NEAR_M)
    u = K[0, 0] * points[..., 0] / z + K[0, 2]
    v = K[1, 1] * points[..., 1] / z + K[1, 2]
    boxes = np.stack([u.min(1), v.min(1), u.max(1), v.max(1)], -1)
    boxes[points[..., 2].min(1) < NEAR_M] = (0.0, 0.0, size[0], size[1])
    boxes[points[..., 2].max(1) < 0] = (1.0, 1.0, 0.0, 0.0)
    return boxes


@nb.njit(cache=True, error_model="numpy")
def _first(solids, near, count, o, d):
    """First hit among `count` solids: (t, solid, face), solid -1 for none."""
    best, solid, side = math.inf, -1, 0
    for k in range(count):
        t, face = enter(solids, near[k], o, d)
        if t < best:
            best, solid, side = t, near[k], face
    return best, solid, side


@nb.njit(cache=True, error_model="numpy")
def _aim(c2w, K, u, v, d):
    """Write the direction of image point (u, v) into `d` [3]; its camera z is 1."""
    x, y = (u - K[0, 2]) / K[0, 0], (v - K[1, 2]) / K[1, 1]
    for k in range(3):
        d[k] = c2w[k, 0] * x + c2w[k, 1] * y + c2w[k, 2]


@nb.njit(cache=True, error_model="numpy")
def _sky_colour(sky, d, out):
    """Write a plain gradient with soft clouds into `out` [3]."""
    length = math.sqrt(d[0] ** 2 + d[1] ** 2 + d[2] ** 2)
    height = max(d[2] / length, 0.0)
    fade = math.sqrt(height)
    cloud = noise(2 * d[0] / length / (height + 0.2), 2 * d[1] / length / (height + 0.2), 0.1, 5)
    for c in range(3):
        out[c] = (1 - fade) * sky[1, c] + fade * sky[0, c] + 0.25 * fade * cloud


@nb.njit(cache=True, error_model="numpy")
def _surface_colour(solids, materials, s, face, p, n, d, t, pixel, out):
    """Write the unlit colour of a hit into `out`; `pixel` is the sample's angle [rad]."""
    length = math.sqrt(d[0] ** 2 + d[1] ** 2 + d[2] ** 2)
    cosine = max(-(n[0] * d[0] + n[1] * d[1] + n[2] * d[2]) / length, 0.05)
    size = t * pixel
    # The sample is a disc of this size across the view, drawn out by 1/cosine along it.
    if face >= 4 and face != 6:
        a, b = solids.turn[s, 0] / length, solids.turn[s, 1] / length
        along = a * d[0] + b * d[1], a * d[1] - b * d[0]
    else:
        along = math.sqrt(max(1 - cosine * cosine - (d[2] / length) ** 2, 0.0)), d[2] / length
    grow = (1.0 / (cosine * cosine) - 1.0) / max(1.0 - cosine * cosine, 1e-6)
    wu = size * math.sqrt(1.0 + grow * along[0] ** 2)
    wv = size * math.sqrt(1.0 + grow * along[1] ** 2)
    u, v = place(solids, s, face, p)
    seed = 31 * s + 5 * face
    albedo(materials, solids.material[s, face], seed, u, v, wu, wv, size / math.sqrt(cosine), out)


@nb.njit(cache=True, parallel=True, error_model="numpy")
def _render(solids, materials, light, sky, boxes, c2w, K, size, ss):
    width, height = size
    rgb = np.zeros((height, width, 3), np.float32)
    depth = np.zeros((height, width), np.float32)
    surface = np.full((height, width), -1, np.int32)
    across, down = (width + TILE - 1) // TILE, (height + TILE - 1) // TILE
    for tile in nb.prange(across * down):
        x0, y0 = tile % across * TILE, tile // across * TILE
        x1, y1 = min(x0 + TILE, width), min(y0 + TILE, height)
        near, count = np.zeros(len(boxes), np.int64), 0
        for s in range(len(boxes)):
            inside = boxes[s, 0] <= x1 and boxes[s, 2] >= x0
            if inside and boxes[s, 1] <= y1 and boxes[s, 3] >= y0:
                near[count] = s
                count += 1
        _tile(
            solids, materials, light, sky, near[:count], c2w, K, ss, (x0, y0, x1, y1),
            rgb, depth, surface,
        )  # fmt: skip
    return rgb, depth, surface


@nb.njit(cache=True, error_model="numpy")
def _tile(solids, materials, light, sky, near, c2w, K, ss, box, rgb, depth, surface):
    """Render the pixels of one tile into the three images."""
    o, d, p, n = c2w[:3, 3].copy(), np.zeros(3), np.zeros(3), np.zeros(3)
    scratch, colour = np.zeros(3), np.zeros(3)
    pixel = 1.0 / (K[0, 0] * max(ss, 1))
    for y in range(box[1], box[3]):
        for x in range(box[0], box[2]):
            _aim(c2w, K, x + 0.5, y + 0.5, d)
            t, s0, face0 = _first(solids, near, len(near), o, d)
            lit = 1.0
            if s0 >= 0:
                depth[y, x], surface[y, x] = t, s0 * FACE_SLOTS + face0
                if ss > 0:
                    for c in range(3):
                        p[c] = o[c] + t * d[c]
                    normal(solids, s0, face0, p, n)
                    lit = brightness(solids, light, s0, p, n, scratch)
            for k in range(ss * ss):
                _aim(c2w, K, x + (k % ss + 0.5) / ss, y + (k // ss + 0.5) / ss, d)
                t, s, face = _first(solids, near, len(near), o, d)
                if s < 0:
                    _sky_colour(sky, d, colour)
                    level = 1.0
                else:
                    for c in range(3):
                        p[c] = o[c] + t * d[c]
                    normal(solids, s, face, p, n)
                    # Light changes slowly on a face: samples of the centre's face share its value.
                    same = s == s0 and face == face0
                    level = lit if same else brightness(solids, light, s, p, n, scratch)
                    _surface_colour(solids, materials, s, face, p, n, d, t, pixel, colour)
                for c in range(3):
                    rgb[y, x, c] += min(max(level * colour[c], 0.0), 1.0) / (ss * ss)
