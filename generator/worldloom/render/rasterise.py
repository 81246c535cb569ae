"""Gaussian splats -> colour, alpha and depth of one view (numba, tile by tile).

Conventions are gsplat's (spec reconstruction 6.2): the projected covariance gets 0.3 px^2 on its
diagonal, contributions below 1/255 are cut, front to back until the pixel is opaque. Each tile is
one serial loop, so the picture does not depend on the number of threads.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numba as nb
import numpy as np
from numpy.typing import ArrayLike, NDArray

from worldloom.render.harmonics import colours
from worldloom.scene.frame import invert_rigid
from worldloom.scene.splats import Splats

TILE = 16  # Pixels of a tile's side, as in the original rasteriser.
BLUR_PX2 = 0.3  # Low-pass variance added to every splat [px^2] (spec reconstruction 6.2).
ALPHA_MIN = 1.0 / 255.0  # Contributions below one grey level are not drawn.
ALPHA_MAX = 0.999
OPAQUE = 1e-4  # Transmittance at which a pixel is finished.
NEAR_M = 0.02  # Splats nearer than this are behind the lens.
CUTOFF = 5.55  # -ln(1/255): beyond this exponent even an opaque splat is invisible.


@dataclass(frozen=True)
class Render:
    """One rendered view."""

    rgb: NDArray[np.float32]
    """Colour over the background, sRGB 0..1, shape [h w 3]."""
    alpha: NDArray[np.float32]
    """Opacity 0..1, shape [h w]."""
    depth: NDArray[np.float32]
    """Expected z-depth of what is drawn [m], 0 where alpha is 0, shape [h w]."""


@dataclass(frozen=True)
class Footprints:
    """Splats as ellipses in the image of one camera."""

    mean2d: NDArray[np.float32]
    """Centres [px], shape [n 2]."""
    conic: NDArray[np.float32]
    """Inverse covariances xx, xy, yy [1/px^2], low-pass included, shape [n 3]."""
    radius: NDArray[np.float32]
    """Half-widths of the box that is drawn [px], 0 for splats out of view, shape [n 2]."""
    depth: NDArray[np.float32]
    """z-depths [m], shape [n]."""


def rasterise(
    splats: Splats,
    c2w: ArrayLike,
    K: ArrayLike,
    size: tuple[int, int],
    *,
    background: tuple[float, float, float] = (0.0, 0.0, 0.0),
    backend: str = "auto",
) -> Render:
    """Draw splats.

    Args:
        splats: What to draw, world frame.
        c2w: Camera to world, OpenCV axes, [4 4].
        K: Intrinsics in pixels, [3 3].
        size: Width and height in pixels.
        background: sRGB colour behind everything.
        backend: `numba`, `gsplat` (needs CUDA) or `auto`.
    """
    if backend == "gsplat" or (backend == "auto" and _cuda_ready()):
        from worldloom.render.cuda import rasterise_cuda

        return rasterise_cuda(splats, c2w, K, size, background=background)
    width, height = size
    w2c = invert_rigid(c2w)
    K = np.asarray(K, np.float64)
    feet = project_splats(splats, w2c, K, size)
    starts, members = bin_splats(feet, size)
    rgb = colours(splats, np.asarray(c2w, float)[:3, 3])
    arrays = (feet.mean2d, feet.conic, rgb, splats.opacities, feet.depth)
    image, alpha, expected = _draw(*arrays, starts, members, width, height)
    image += (1 - alpha)[..., None] * np.asarray(background, np.float32)
    with np.errstate(invalid="ignore", divide="ignore"):
        expected = np.where(alpha > ALPHA_MIN, expected / alpha, 0).astype(np.float32)
    return Render(image, alpha, expected)


def project_splats(
    splats: Splats, w2c: NDArray[np.float64], K: NDArray[np.float64], size: tuple[int, int]
) -> Footprints:
    """Project splats into the picture of (w, h) pixels of a camera, w2c [4 4] and K [3 3]."""
    arrays = (splats.means, splats.scales, splats.quats_wxyz)
    return Footprints(*_project(*arrays, w2c, K, *size))


def bin_splats(
    feet: Footprints, size: tuple[int, int], *, tile: int = TILE
) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Splats of each tile in depth order: first member [tiles + 1], and members [pairs].

    Args:
        feet: Projected splats.
        size: Width and height of the picture in pixels.
        tile: Side of a tile in pixels; tiles are numbered row by row.
    """
    visible = np.nonzero(feet.radius[:, 0] > 0)[0]
    order = visible[np.argsort(feet.depth[visible], kind="stable")].astype(np.int32)
    across, down = -(-size[0] // tile), -(-size[1] // tile)
    return _bin(feet.mean2d, feet.radius, order, across, down, tile)


def _cuda_ready() -> bool:
    """Whether torch is already in use here and sees a GPU; never the reason to import torch."""
    import sys

    torch = sys.modules.get("torch")
    return bool(torch is not None and torch.cuda.is_available())


@nb.njit(parallel=True, cache=True)
def _project(means, scales, quats, w2c, K, width, height):
    """Centres [n 2], inverse covariances [n 3], radii [n 2] in pixels and z-depths [n]."""
    n = means.shape[0]
    mean2d = np.zeros((n, 2), np.float32)
    conic = np.zeros((n, 3), np.float32)
    radius = np.zeros((n, 2), np.float32)
    depth = np.zeros(n, np.float32)
    fx, fy, cx, cy = K[0, 0], K[1, 1], K[0, 2], K[1, 2]
    # Far outside the image the linearised projection explodes; gsplat clamps at 1.3 x the view.
    limit_x, limit_y = 1.3 * max(cx, width - cx) / fx, 1.3 * max(cy, height - cy) / fy
    for i in nb.prange(n):
        x = w2c[0, 0] * means[i, 0] + w2c[0, 1] * means[i, 1] + w2c[0, 2] * means[i, 2] + w2c[0, 3]
        y = w2c[1, 0] * means[i, 0] + w2c[1, 1] * means[i, 1] + w2c[1, 2] * means[i, 2] + w2c[1, 3]
        z = w2c[2, 0] * means[i, 0] + w2c[2, 1] * means[i, 1] + w2c[2, 2] * means[i, 2] + w2c[2, 3]
        if z < NEAR_M:
            continue
        w, a, b, c = quats[i, 0], quats[i, 1], quats[i, 2], quats[i, 3]
        rotation = np.empty((3, 3))
        rotation[0, 0] = 1 - 2 * (b * b + c * c)
        rotation[0, 1] = 2 * (a * b - w * c)
        rotation[0, 2] = 2 * (a * c + w * b)
        rotation[1, 0] = 2 * (a * b + w * c)
        rotation[1, 1] = 1 - 2 * (a * a + c * c)
        rotation[1, 2] = 2 * (b * c - w * a)
        rotation[2, 0] = 2 * (a * c - w * b)
        rotation[2, 1] = 2 * (b * c + w * a)
        rotation[2, 2] = 1 - 2 * (a * a + b * b)
        tx = min(max(x / z, -limit_x), limit_x)
        ty = min(max(y / z, -limit_y), limit_y)
        # Rows of J W: how a world offset moves the pixel.
        cov_xx, cov_xy, cov_yy = BLUR_PX2, 0.0, BLUR_PX2
        for axis in range(3):
            gx, gy = 0.0, 0.0
            for k in range(3):
                jx = fx / z * (w2c[0, k] - tx * w2c[2, k])
                jy = fy / z * (w2c[1, k] - ty * w2c[2, k])
                gx += jx * rotation[k, axis]
                gy += jy * rotation[k, axis]
            gx *= scales[i, axis]
            gy *= scales[i, axis]
            cov_xx += gx * gx
            cov_xy += gx * gy
            cov_yy += gy * gy
        det = cov_xx * cov_yy - cov_xy * cov_xy
        if det <= 0:
            continue
        u, v = fx * x / z + cx, fy * y / z + cy
        # 3.33 sigma is where an opaque splat falls below 1/255.
        rx, ry = math.ceil(3.33 * math.sqrt(cov_xx)), math.ceil(3.33 * math.sqrt(cov_yy))
        if u + rx < 0 or u - rx > width or v + ry < 0 or v - ry > height:
            continue
        mean2d[i, 0], mean2d[i, 1] = u, v
        conic[i, 0], conic[i, 1], conic[i, 2] = cov_yy / det, -cov_xy / det, cov_xx / det
        radius[i, 0], radius[i, 1] = rx, ry
        depth[i] = z
    return mean2d, conic, radius, depth


@nb.njit(cache=True)
def _span(mean2d, radius, i, tiles_x, tiles_y, tile):
    x0 = max(0, int((mean2d[i, 0] - radius[i, 0]) // tile))
    x1 = min(tiles_x - 1, int((mean2d[i, 0] + radius[i, 0]) // tile))
    y0 = max(0, int((mean2d[i, 1] - radius[i, 1]) // tile))
    y1 = min(tiles_y - 1, int((mean2d[i, 1] + radius[i, 1]) // tile))
    return x0, x1, y0, y1


@nb.njit(cache=True)
def _bin(mean2d, radius, order, tiles_x, tiles_y, side):
    """Splats of each tile in depth order: starts [tiles + 1] and members [pairs]."""
    starts = np.zeros(tiles_x * tiles_y + 1, np.int64)
    for o in range(order.shape[0]):
        x0, x1, y0, y1 = _span(mean2d, radius, order[o], tiles_x, tiles_y, side)
        for y in range(y0, y1 + 1):
            for x in range(x0, x1 + 1):
                starts[y * tiles_x + x + 1] += 1
    for tile in range(tiles_x * tiles_y):
        starts[tile + 1] += starts[tile]
    cursor = starts[:-1].copy()
    members = np.zeros(starts[-1], np.int32)
    for o in range(order.shape[0]):
        i = order[o]
        x0, x1, y0, y1 = _span(mean2d, radius, i, tiles_x, tiles_y, side)
        for y in range(y0, y1 + 1):
            for x in range(x0, x1 + 1):
                tile = y * tiles_x + x
                members[cursor[tile]] = i
                cursor[tile] += 1
    return starts, members


@nb.njit(parallel=True, cache=True)
def _draw(mean2d, conic, rgb, opacity, depth, starts, members, width, height):
    """Blend the splats of every tile front to back."""
    image = np.zeros((height, width, 3), np.float32)
    alpha = np.zeros((height, width), np.float32)
    expected = np.zeros((height, width), np.float32)
    tiles_x, tiles_y = -(-width // TILE), -(-height // TILE)
    for tile in nb.prange(tiles_x * tiles_y):
        ty, tx = tile // tiles_x, tile % tiles_x
        for py in range(ty * TILE, min(height, (ty + 1) * TILE)):
            for px in range(tx * TILE, min(width, (tx + 1) * TILE)):
                left = 1.0
                r, g, b, z = 0.0, 0.0, 0.0, 0.0
                for k in range(starts[tile], starts[tile + 1]):
                    i = members[k]
                    dx, dy = px + 0.5 - mean2d[i, 0], py + 0.5 - mean2d[i, 1]
                    power = 0.5 * (conic[i, 0] * dx * dx + conic[i, 2] * dy * dy)
                    power += conic[i, 1] * dx * dy
                    if power < 0 or power > CUTOFF:
                        continue
                    a = min(ALPHA_MAX, opacity[i] * math.exp(-power))
                    if a < ALPHA_MIN:
                        continue
                    weight = a * left
                    r += weight * rgb[i, 0]
                    g += weight * rgb[i, 1]
                    b += weight * rgb[i, 2]
                    z += weight * depth[i]
                    left *= 1 - a
                    if left < OPAQUE:
                        break
                image[py, px, 0], image[py, px, 1], image[py, px, 2] = r, g, b
                alpha[py, px], expected[py, px] = 1 - left, z
    return image, alpha, expected
