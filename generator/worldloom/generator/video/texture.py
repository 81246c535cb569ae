"""A seen patch of floor or wall -> endless grain of the same kind, fixed in the world.

The grain is random-phase noise: it has the spectrum and the colour correlations of the patch, and
no feature of it that could repeat as a motif. It is one tile, periodic, with its reduced copies,
so that a surface at a distance neither flickers nor smears.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba as nb
import numpy as np
from numpy.typing import NDArray

TILE = 1024  # Side of the periodic tile in grid cells; a power of two for its reduced copies.
STAIN_SPREADS = 3.5  # Deviation from the median brightness, in median deviations, of a stain.
SHADING_SHARE = 0.04  # Scale of the shading that is taken out, as a share of the patch's side.
LIT_QUANTILES = (0.5, 0.85)  # Part of a surface's brightnesses that is its colour in the light.
FEATHER = 6  # Cells over which the border of the known part fades out.


@dataclass(frozen=True)
class Grain:
    """Deviations of colour from the mean of a surface."""

    levels: NDArray[np.float32]
    """The tile and its halvings, one after the other, each row by row, [cells 3]."""
    step: float
    """Side of a grid cell of the tile [m]."""


def make_grain(
    rgb: NDArray[np.float32],
    known: NDArray[np.bool_],
    *,
    step: float,
    spread: float,
    seed: int,
) -> Grain:
    """Grain like that of a partly known patch.

    Args:
        rgb: Colours of the patch on the grid of the surface, [rows columns 3].
        known: Cells of it that were seen, [rows columns].
        step: Side of a grid cell [m].
        spread: Greatest standard deviation of the grain; a patch with more contrast shows things,
            not a surface.
        seed: Number that the phases are drawn from.
    """
    rgb, known = rgb[:TILE, :TILE], known[:TILE, :TILE]
    known = known & ~_stains(rgb, known)
    residual, weight = _without_shading(rgb, known)
    power = float((weight**2).sum())
    if power < 64:
        return Grain(np.zeros((_cells(TILE), 3), np.float32), step)
    noise = np.fft.rfft2(np.random.default_rng(seed).standard_normal((TILE, TILE)))
    spot = np.zeros((TILE, TILE, 3))
    spot[: rgb.shape[0], : rgb.shape[1]] = residual * weight[..., None]
    tile = np.stack(
        [np.fft.irfft2(np.fft.rfft2(spot[..., c]) * noise, (TILE, TILE)) for c in range(3)], -1
    ) / np.sqrt(power)
    tile -= tile.mean((0, 1))
    tile *= min(1.0, spread / max(float(tile.mean(-1).std()), 1e-6))
    return Grain(_pyramid(tile.astype(np.float32)), step)


def plain_colour(rgb: NDArray[np.float32], known: NDArray[np.bool_]) -> NDArray[np.float32]:
    """The colour of a surface in the light, without its stains, [3]."""
    clean = known & ~_stains(rgb, known)
    colours = rgb[clean if clean.any() else known]
    luma = colours.mean(-1)
    # Shadows lie on most floors near things; the brighter half without its glints is the floor.
    low, high = np.quantile(luma, LIT_QUANTILES)
    return colours[(luma >= low) & (luma <= high)].mean(0).astype(np.float32)


def _stains(rgb: NDArray[np.float32], known: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Parts that are not the surface: shadows, wheels, litter; by brightness."""
    from scipy.ndimage import binary_dilation, uniform_filter

    if not known.any():
        return np.zeros_like(known)
    luma = rgb.mean(-1)
    middle = np.median(luma[known])
    spread = np.median(np.abs(luma[known] - middle)) + 0.01
    rough = uniform_filter(np.where(known, np.abs(luma - middle), 0), 9)
    return binary_dilation(rough > STAIN_SPREADS * spread, iterations=4)


def _without_shading(
    rgb: NDArray[np.float32], known: NDArray[np.bool_]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Deviations from the local mean, and weights that fade out at the border of the known part."""
    from scipy.ndimage import distance_transform_edt, gaussian_filter

    sigma = max(2.0, SHADING_SHARE * min(rgb.shape[:2]))
    weight = known.astype(np.float32)
    share = gaussian_filter(weight, sigma)[..., None]
    masked = gaussian_filter(rgb * weight[..., None], (sigma, sigma, 0))
    residual = np.where(known[..., None], rgb - masked / np.maximum(share, 1e-6), 0)
    padded = np.pad(known, 1)
    inside = distance_transform_edt(padded)[1:-1, 1:-1]
    return residual, np.clip(inside / FEATHER, 0, 1).astype(np.float32)


def _pyramid(tile: NDArray[np.float32]) -> NDArray[np.float32]:
    levels = [tile]
    while len(levels[-1]) > 1:
        t = levels[-1]
        levels.append((t[::2, ::2] + t[1::2, ::2] + t[::2, 1::2] + t[1::2, 1::2]) / 4)
    return np.concatenate([level.reshape(-1, 3) for level in levels])


def _cells(side: int) -> int:
    return (4 * side * side - 1) // 3


@nb.njit(cache=True)
def add_grain(levels, step, s, t, footprint, colour):
    """Add the grain at surface coordinates s, t to a colour [3], for a pixel of `footprint` [m].

    Interpolates within and between two levels of the periodic tile.
    """
    top = int(np.log2(TILE))
    level = min(np.log2(max(footprint / step, 1.0)), top)
    low = int(level)
    for number in range(low, min(low + 2, top + 1)):
        share = 1 - (level - low) if number == low else level - low
        n = TILE >> number
        # Levels before this one hold TILE^2 + (TILE/2)^2 + ... cells.
        start = (4 * TILE * TILE - 4 * n * n) // 3
        x, y = s / step / (1 << number) - 0.5, t / step / (1 << number) - 0.5
        x0, y0 = int(np.floor(x)), int(np.floor(y))
        fx, fy = x - x0, y - y0
        for dy in range(2):
            wy = fy if dy else 1 - fy
            for dx in range(2):
                weight = share * wy * (fx if dx else 1 - fx)
                cell = start + ((y0 + dy) % n) * n + (x0 + dx) % n
                for c in range(3):
                    colour[c] += weight * levels[cell, c]
