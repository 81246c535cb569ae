"""A rotation of the world -> the same rotation of spherical harmonics, exactly, up to degree 3.

The functions of one degree span a space that rotations keep, so the rotated coefficients follow
from values in a few fixed directions: with Y(d) the basis and c the coefficients, the turned
colour in direction d is Y(R^T d) c = Y(d) c', which is solved for c' (spec reconstruction 2.12).
The basis here is the one of the renderers (3DGS layout, degree by degree).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

# Constants of the real spherical harmonics in the order of the 3DGS layout.
SH_C1 = 0.4886025119029199
SH_C2 = (1.0925484305920792, -1.0925484305920792, 0.31539156525252005, -1.0925484305920792,
         0.5462742152960396)  # fmt: skip
SH_C3 = (-0.5900435899266435, 2.890611442640554, -0.4570457994644658, 0.3731763325901154,
         -0.4570457994644658, 1.445305721320277, -0.5900435899266435)  # fmt: skip
DIRECTIONS = 32
"""Directions of the fit; sixteen would do, more are better conditioned."""
COEFFICIENTS = (1, 4, 9, 16)  # Of the degrees 0 to 3.


def harmonics_basis(directions: ArrayLike) -> NDArray[np.floating]:
    """The 15 functions of degrees 1 to 3, [n 15], in unit directions [n 3]."""
    x, y, z = np.asarray(directions).T
    xx, yy, zz = x * x, y * y, z * z
    first = [-SH_C1 * y, SH_C1 * z, -SH_C1 * x]
    second = [
        SH_C2[0] * x * y,
        SH_C2[1] * y * z,
        SH_C2[2] * (2 * zz - xx - yy),
        SH_C2[3] * x * z,
        SH_C2[4] * (xx - yy),
    ]
    third = [
        SH_C3[0] * y * (3 * xx - yy),
        SH_C3[1] * x * y * z,
        SH_C3[2] * y * (4 * zz - xx - yy),
        SH_C3[3] * z * (2 * zz - 3 * xx - 3 * yy),
        SH_C3[4] * x * (4 * zz - xx - yy),
        SH_C3[5] * z * (xx - yy),
        SH_C3[6] * x * (xx - 3 * yy),
    ]
    return np.stack(first + second + third, 1)


def rotate_harmonics(sh: ArrayLike, rotation: ArrayLike) -> NDArray[np.float32]:
    """Coefficients of the turned world.

    Args:
        sh: Particle-major coefficients, [n k 3] with k = 1, 4, 9 or 16.
        rotation: Old world to new world, proper, [3 3].
    """
    sh = np.asarray(sh)
    out = np.array(sh, np.float32)
    k = sh.shape[1]
    if k == 1 or len(sh) == 0:
        return out
    turn = rotation_of_harmonics(rotation)[: k - 1, : k - 1]
    out[:, 1:] = np.einsum("ij,njc->nic", turn, sh[:, 1:].astype(np.float64))
    return out


def rotation_of_harmonics(rotation: ArrayLike) -> NDArray[np.float64]:
    """Matrix [15 15] that turns the coefficients of degrees 1 to 3; blocks of 3, 5 and 7."""
    rotation = np.asarray(rotation, np.float64)
    directions = _fixed_directions()
    here, there = harmonics_basis(directions), harmonics_basis(directions @ rotation)
    out = np.zeros((15, 15))
    for low, high in ((0, 3), (3, 8), (8, 15)):
        fit, _, _, _ = np.linalg.lstsq(here[:, low:high], there[:, low:high], rcond=None)
        out[low:high, low:high] = fit
    return out


def _fixed_directions() -> NDArray[np.float64]:
    """Evenly spread unit vectors on a golden spiral, [32 3]."""
    k = np.arange(DIRECTIONS) + 0.5
    z = 1 - 2 * k / DIRECTIONS
    angle = np.pi * (1 + 5**0.5) * k
    radius = np.sqrt(1 - z * z)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle), z], 1)
