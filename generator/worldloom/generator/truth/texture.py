"""Materials -> colour of a surface point, filtered to the size of the sample (compiled).

A material is a grid of cells with seams (planks, tiles, bricks, windows, checks, stripes) under
value noise in five octaves from 81 cm down to 1 cm. Whatever is finer than the sample's footprint
fades to its mean, as it does on a sensor that gathers light over a pixel.
"""

from __future__ import annotations

import math

import numba as nb
import numpy as np

from worldloom.generator.truth.cast import distance
from worldloom.generator.truth.solids import BOX, SIDE, TOP

OCTAVES_M = np.array([0.81, 0.27, 0.09, 0.03, 0.01])
"""Lattice width of the noise octaves [m]; the finest is the 1 cm of architecture page 3.3."""
OCTAVE_SHARE = np.array([0.34, 0.24, 0.18, 0.14, 0.10])
CONTACT_M, CONTACT_STRENGTH = 0.22, 0.30
"""How far and how much a solid darkens what it stands on or leans against."""
CONTACT_LIFT_M = 0.06  # The darkening is felt this far off the surface, so flush faces do not.


@nb.njit(cache=True, error_model="numpy")
def lattice(i, j, seed):
    """A number 0..1 that belongs to a lattice point: an integer hash, the same everywhere."""
    # Compiled products of 32-bit numbers are 64 bits wide: each is cut back to 32.
    h = np.uint32(i * 0x85EBCA6B) ^ np.uint32(j * 0xC2B2AE35) ^ np.uint32(seed * 0x27D4EB2F)
    h = np.uint32((h ^ (h >> 15)) * 0x2C1B3C6D)
    h = np.uint32((h ^ (h >> 12)) * 0x297A2D39)
    return np.uint32(h ^ (h >> 15)) / 4294967295.0


@nb.njit(cache=True, error_model="numpy")
def value_noise(u, v, seed):
    """Smoothly interpolated lattice values at (u, v), 0..1."""
    i, j = math.floor(u), math.floor(v)
    a, b = u - i, v - j
    i, j = np.int64(i), np.int64(j)
    a, b = a * a * (3.0 - 2.0 * a), b * b * (3.0 - 2.0 * b)
    low = (1 - a) * lattice(i, j, seed) + a * lattice(i + 1, j, seed)
    high = (1 - a) * lattice(i, j + 1, seed) + a * lattice(i + 1, j + 1, seed)
    return (1 - b) * low + b * high


@nb.njit(cache=True, error_model="numpy")
def noise(u, v, footprint, seed):
    """Multi-octave noise around 0 (-0.5..0.5) without what is finer than `footprint` [m]."""
    total = 0.0
    for k in range(len(OCTAVES_M)):
        keep = min(max(OCTAVES_M[k] / footprint - 1.0, 0.0), 1.0)
        if keep > 0:
            octave = value_noise(u / OCTAVES_M[k], v / OCTAVES_M[k], seed + 101 * k) - 0.5
            total += OCTAVE_SHARE[k] * keep * octave
    return total


@nb.njit(cache=True, error_model="numpy")
def square_wave(x, width):
    """+1 on even and -1 on odd unit cells, averaged over `width` around x."""
    half = 0.5 * max(width, 1e-6)
    high, low = x + half, x - half
    high, low = high - 2.0 * math.floor(0.5 * high), low - 2.0 * math.floor(0.5 * low)
    return ((1.0 - abs(high - 1.0)) - (1.0 - abs(low - 1.0))) / (2 * half)


@nb.njit(cache=True, error_model="numpy")
def seam_share(x, cell, seam, width):
    """Share of a sample of `width` around x that lies on the seams between cells (all metres)."""
    if seam <= 0:
        return 0.0
    width = max(width, 1e-6)
    a, b = (x - width / 2) / cell, (x + width / 2) / cell
    edge = 0.5 * seam / cell
    covered = 2 * edge * (math.floor(b) - math.floor(a))
    fa, fb = a - math.floor(a), b - math.floor(b)
    covered += min(fb, edge) + max(fb - (1 - edge), 0.0)
    covered -= min(fa, edge) + max(fa - (1 - edge), 0.0)
    return min(max(covered * cell / width, 0.0), 1.0)


@nb.njit(cache=True, error_model="numpy")
def place(solids, s, face, p):
    """Texture coordinates (u along, v up or across) [m] of a point on a solid's face."""
    cosine, sine = solids.turn[s, 0], solids.turn[s, 1]
    # Centres stay out of the boxes' coordinates, so that a wall made of pieces has one pattern.
    if face == SIDE:
        x, y = p[0] - solids.centre[s, 0], p[1] - solids.centre[s, 1]
        return math.atan2(y, x) * solids.half[s, 0], p[2]
    x, y = cosine * p[0] + sine * p[1], cosine * p[1] - sine * p[0]
    if face >= 4:
        return x, y
    return (y if face < 2 else x), p[2]


@nb.njit(cache=True, error_model="numpy")
def normal(solids, s, face, p, out):
    """Write the outward unit normal of a face into `out` [3]."""
    cosine, sine = solids.turn[s, 0], solids.turn[s, 1]
    out[0], out[1], out[2] = 0.0, 0.0, 0.0
    if face == SIDE:
        out[0] = (p[0] - solids.centre[s, 0]) / solids.half[s, 0]
        out[1] = (p[1] - solids.centre[s, 1]) / solids.half[s, 0]
    elif face >= 4:
        out[2] = 1.0 if face == TOP else -1.0
    else:
        sign = 1.0 if face % 2 else -1.0
        out[0] = sign * (cosine if face < 2 else -sine)
        out[1] = sign * (sine if face < 2 else cosine)


@nb.njit(cache=True, error_model="numpy")
def albedo(materials, m, seed, u, v, wu, wv, footprint, out):
    """Write the colour of material `m` at (u, v) into `out` [3].

    `wu`, `wv` are the sample's extents along u and v [m], `footprint` its mean extent.
    """
    cu, cv = materials.cell[m, 0], materials.cell[m, 1]
    shift, checks = materials.mix[m, 0], materials.mix[m, 1]
    tint, rough = materials.mix[m, 2], materials.mix[m, 3]
    row = math.floor(v / cv)
    # Columns are centred on the origin, so that a very wide cell has no edge in sight.
    along = u + cu * (0.5 + shift * row)
    share = seam_share(along, cu, materials.seam[m, 0], wu)
    share = 1.0 - (1.0 - share) * (1.0 - seam_share(v, cv, materials.seam[m, 1], wv))
    if checks > 0:
        wave = square_wave(along / cu, wu / cu) * square_wave(v / cv, wv / cv)
        share = max(share, checks * 0.5 * (1.0 - wave))
    level = 1.0
    if tint > 0:
        fade = min(1.0, 0.5 * min(cu, cv) / footprint)
        cell = lattice(np.int64(math.floor(along / cu)), np.int64(row), seed + 7)
        level += tint * fade * (cell - 0.5)
    level += 2.0 * rough * noise(u / materials.stretch[m], v, footprint, seed)
    for c in range(3):
        mixed = (1 - share) * materials.color[m, c] + share * materials.second[m, c]
        out[c] = mixed * level


@nb.njit(cache=True, error_model="numpy")
def brightness(solids, light, s, p, n, lifted):
    """Light that a point with normal `n` on solid `s` gives back; `lifted` [3] is scratch."""
    ambient, lamp, reach = light.ambient, light.lamp, light.reach
    if reach > 0:
        d0, d1, d2 = lamp[0] - p[0], lamp[1] - p[1], lamp[2] - p[2]
        length = math.sqrt(d0 * d0 + d1 * d1 + d2 * d2) + 1e-9
        strength = (n[0] * d0 + n[1] * d1 + n[2] * d2) / length / (1.0 + (length / reach) ** 2)
    else:
        strength = n[0] * lamp[0] + n[1] * lamp[1] + n[2] * lamp[2]
    # A third of the light wraps around: bare Lambert faces look like paper cut-outs.
    total = ambient + (1.0 - ambient) * (0.67 * max(strength, 0.0) + 0.33 * 0.5 * (1 + n[2]))
    for k in range(3):
        lifted[k] = p[k] + CONTACT_LIFT_M * n[k]
    for other in range(len(solids.kind)):
        if other != s:
            d = max(distance(solids, other, lifted), 0.0)
            if d < 4 * CONTACT_M:
                facing = contact_facing(solids, other, lifted, n, d)
                total *= 1.0 - CONTACT_STRENGTH * facing * math.exp(-d / CONTACT_M)
    return total


@nb.njit(cache=True, error_model="numpy")
def contact_facing(solids, s, p, n, d):
    """How far a neighbouring solid stands before the surface: 0 flush or behind, 1 beside."""
    if d <= 1e-9:
        return 1.0
    cosine, sine = solids.turn[s, 0], solids.turn[s, 1]
    x, y = p[0] - solids.centre[s, 0], p[1] - solids.centre[s, 1]
    x, y, z = cosine * x + sine * y, cosine * y - sine * x, p[2] - solids.centre[s, 2]
    half = solids.half[s]
    dz = min(max(z, -half[2]), half[2]) - z
    if solids.kind[s] == BOX:
        dx = min(max(x, -half[0]), half[0]) - x
        dy = min(max(y, -half[1]), half[1]) - y
    else:
        r = max(math.sqrt(x * x + y * y), 1e-9)
        dx, dy = x * (min(r, half[0]) / r - 1), y * (min(r, half[0]) / r - 1)
    toward = n[0] * (cosine * dx - sine * dy) + n[1] * (sine * dx + cosine * dy) + n[2] * dz
    return min(max(1.0 + toward / d, 0.0), 1.0)
