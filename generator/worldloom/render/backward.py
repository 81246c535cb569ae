"""A rendered view and the gradient of a loss in its pixels -> gradients of the splats.

The picture is that of `rasterise`; a tape keeps what the way back needs. Gradients are analytic
(the chain rule of alpha blending and of the projected covariance) and are summed in a fixed order:
each tile writes its own entries, one serial loop adds them up, so the number of threads changes
nothing. Harmonics above the constant term are held fixed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numba as nb
import numpy as np
from numpy.typing import ArrayLike, NDArray

from worldloom.render.chain import to_splats
from worldloom.render.harmonics import colours
from worldloom.render.rasterise import (
    ALPHA_MAX,
    ALPHA_MIN,
    CUTOFF,
    OPAQUE,
    Footprints,
    bin_splats,
    project_splats,
)
from worldloom.scene.frame import invert_rigid
from worldloom.scene.splats import SH_C0, Splats

FINE_TILE = 8  # Pixels of a tile's side here: fewer splats that miss a pixel are tried.
PAIR = 9  # Entries of a splat in a tile: colour 3, opacity 1, conic 3, centre 2.


@dataclass(frozen=True)
class Tape:
    """A view and what its gradients need."""

    splats: Splats
    """What was drawn."""
    w2c: NDArray[np.float64]
    """World to camera, [4 4]."""
    K: NDArray[np.float64]
    """Intrinsics in pixels, [3 3]."""
    image: NDArray[np.float32]
    """sRGB over black, [h w 3]."""
    left: NDArray[np.float64]
    """Transmittance that is left behind the last splat, [h w]."""
    last: NDArray[np.int64]
    """One after the last member that was blended, index into `members`, [h w]."""
    rgb: NDArray[np.float32]
    """Colours as seen from here, [n 3]."""
    feet: Footprints
    """Projected splats."""
    starts: NDArray[np.int64]
    """First member of each tile, [tiles + 1]."""
    members: NDArray[np.int32]
    """Splats of the tiles, front to back, [pairs]."""


@dataclass(frozen=True)
class Gradients:
    """Derivatives of the loss, one row for each splat; zero where a splat was not drawn."""

    means: NDArray[np.float64]
    """By the centres [1/m], [n 3]."""
    scales: NDArray[np.float64]
    """By the linear scales [1/m], [n 3]."""
    quats_wxyz: NDArray[np.float64]
    """By the quaternion's components, the length kept, [n 4]."""
    opacities: NDArray[np.float64]
    """By the opacities, [n]."""
    dc: NDArray[np.float64]
    """By the constant harmonics, [n 3]."""
    drawn: NDArray[np.bool_]
    """Which splats are in the picture, [n]."""


def record(splats: Splats, c2w: ArrayLike, K: ArrayLike, size: tuple[int, int]) -> Tape:
    """Draw splats over black and keep the tape; arguments as `rasterise`."""
    width, height = size
    w2c, K = invert_rigid(c2w), np.asarray(K, np.float64)
    feet = project_splats(splats, w2c, K, size)
    starts, members = bin_splats(feet, size, tile=FINE_TILE)
    rgb = colours(splats, np.asarray(c2w, float)[:3, 3])
    image, left, last = _blend(
        feet.mean2d, feet.conic, rgb, splats.opacities, starts, members, width, height, FINE_TILE
    )
    return Tape(splats, w2c, K, image, left, last, rgb, feet, starts, members)


def backward(tape: Tape, d_image: NDArray[np.floating]) -> Gradients:
    """Gradients of the splats from those of the picture, d loss / d image [h w 3]."""
    splats, feet = tape.splats, tape.feet
    pairs = _unblend(
        feet.mean2d, feet.conic, tape.rgb, splats.opacities, tape.starts, tape.members,
        tape.left, tape.last, np.ascontiguousarray(d_image, np.float64), FINE_TILE,
    )  # fmt: skip
    total, drawn = _gather(pairs, tape.members, splats.n)
    means, scales, quats = to_splats(
        splats.means, splats.scales, splats.quats_wxyz, feet.conic, total, drawn, tape.w2c,
        tape.K, *_limits(tape),
    )  # fmt: skip
    dc = total[:, :3] * SH_C0 * (tape.rgb > 0)
    return Gradients(means, scales, quats, total[:, 3], dc, drawn)


def _limits(tape: Tape) -> tuple[float, float]:
    """Where the projection is clamped, as `project_splats` does."""
    height, width = tape.image.shape[:2]
    K = tape.K
    return (
        1.3 * max(K[0, 2], width - K[0, 2]) / K[0, 0],
        1.3 * max(K[1, 2], height - K[1, 2]) / K[1, 1],
    )


@nb.njit(cache=True, inline="always")
def _alpha(mean2d, conic, opacity, i, x, y):
    """Offset and opacity of splat `i` at image point (x, y); 0 where it is not drawn."""
    dx, dy = x - mean2d[i, 0], y - mean2d[i, 1]
    power = 0.5 * (conic[i, 0] * dx * dx + conic[i, 2] * dy * dy) + conic[i, 1] * dx * dy
    if power < 0 or power > CUTOFF:
        return dx, dy, 0.0, 0.0
    fall = math.exp(-power)
    a = min(ALPHA_MAX, opacity[i] * fall)
    return dx, dy, (a if a >= ALPHA_MIN else 0.0), fall


@nb.njit(parallel=True, cache=True)
def _blend(mean2d, conic, rgb, opacity, starts, members, width, height, tile):
    """Blend front to back: image, transmittance left and end of the blended members."""
    image = np.zeros((height, width, 3), np.float32)
    rest = np.ones((height, width))
    last = np.zeros((height, width), np.int64)
    across, down = -(-width // tile), -(-height // tile)
    for t in nb.prange(across * down):
        ty, tx = t // across, t % across
        for py in range(ty * tile, min(height, (ty + 1) * tile)):
            for px in range(tx * tile, min(width, (tx + 1) * tile)):
                left, r, g, b = 1.0, 0.0, 0.0, 0.0
                end = starts[t]
                for k in range(starts[t], starts[t + 1]):
                    i = members[k]
                    _, _, a, _ = _alpha(mean2d, conic, opacity, i, px + 0.5, py + 0.5)
                    if a == 0:
                        continue
                    weight = a * left
                    r += weight * rgb[i, 0]
                    g += weight * rgb[i, 1]
                    b += weight * rgb[i, 2]
                    left *= 1 - a
                    end = k + 1
                    if left < OPAQUE:
                        break
                image[py, px, 0], image[py, px, 1], image[py, px, 2] = r, g, b
                rest[py, px], last[py, px] = left, end
    return image, rest, last


@nb.njit(parallel=True, cache=True)
def _unblend(mean2d, conic, rgb, opacity, starts, members, rest, last, d_image, tile):
    """Gradients of every member of every tile, [pairs 9], back to front."""
    height, width = rest.shape
    pairs = np.zeros((members.shape[0], PAIR))
    across, down = -(-width // tile), -(-height // tile)
    for t in nb.prange(across * down):
        ty, tx = t // across, t % across
        for py in range(ty * tile, min(height, (ty + 1) * tile)):
            for px in range(tx * tile, min(width, (tx + 1) * tile)):
                left = rest[py, px]
                d0, d1, d2 = d_image[py, px, 0], d_image[py, px, 1], d_image[py, px, 2]
                if d0 == 0 and d1 == 0 and d2 == 0:
                    continue
                behind = 0.0  # Colour behind the present splat, times the pixel's gradient.
                for k in range(last[py, px] - 1, starts[t] - 1, -1):
                    i = members[k]
                    dx, dy, a, fall = _alpha(mean2d, conic, opacity, i, px + 0.5, py + 0.5)
                    if a == 0:
                        continue
                    left /= 1 - a
                    own = rgb[i, 0] * d0 + rgb[i, 1] * d1 + rgb[i, 2] * d2
                    by_alpha = left * (own - behind)
                    behind = a * own + (1 - a) * behind
                    pair = pairs[k]
                    weight = a * left
                    pair[0] += weight * d0
                    pair[1] += weight * d1
                    pair[2] += weight * d2
                    if a >= ALPHA_MAX:
                        continue
                    pair[3] += fall * by_alpha
                    by_power = -a * by_alpha
                    pair[4] += 0.5 * dx * dx * by_power
                    pair[5] += dx * dy * by_power
                    pair[6] += 0.5 * dy * dy * by_power
                    pair[7] -= (conic[i, 0] * dx + conic[i, 1] * dy) * by_power
                    pair[8] -= (conic[i, 1] * dx + conic[i, 2] * dy) * by_power
    return pairs


@nb.njit(cache=True)
def _gather(pairs, members, n):
    """Sum the entries of each splat in the order of the tiles: [n 9], and which occur, [n]."""
    total = np.zeros((n, PAIR))
    drawn = np.zeros(n, np.bool_)
    for k in range(len(members)):
        i = members[k]
        drawn[i] = True
        for c in range(PAIR):
            total[i, c] += pairs[k, c]
    return total, drawn
