"""Spherical harmonics of cameras -> of the world, degrees 1 and 2, by fitting (spec 2.12).

A function on the sphere is rotated by moving the directions it is asked in, so the rotated
coefficients follow from the basis at enough directions: exact, and without Wigner's matrices. The
basis is that of 3D Gaussian splatting, as the renderer's.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from worldloom.scene.splats import SH_C0

BANDS = (slice(0, 3), slice(3, 8))
"""Places of the functions of degrees 1 and 2 in the basis without the constant one."""
DIRECTIONS = 32  # More than the five of the largest band; a fixed spiral, so nothing is drawn.


def rotate_bands(sh: Tensor, rotation: Tensor) -> Tensor:
    """Coefficients [v ... 9 c] of functions that turn with `rotation` [v 3 3]; the first stays."""
    matrices = np.stack([band_matrix(r) for r in rotation.detach().double().cpu().numpy()])
    turn = torch.from_numpy(matrices).to(sh)
    turn = turn.reshape(len(turn), *(1,) * (sh.ndim - 3), 8, 8)
    return torch.cat([sh[..., :1, :], turn @ sh[..., 1:, :]], -2)


def band_matrix(rotation: ArrayLike) -> NDArray[np.float64]:
    """Matrix [8 8] that takes coefficients of degrees 1 and 2 to those of the turned function.

    The turned function at d is the first one at R^T d.
    """
    directions = spiral(DIRECTIONS)
    here = basis(directions)
    there = basis(directions @ np.asarray(rotation, float))
    out = np.zeros((8, 8))
    for band in BANDS:
        out[band, band] = np.linalg.lstsq(here[:, band], there[:, band], rcond=None)[0]
    return out


def basis(directions: ArrayLike) -> NDArray[np.float64]:
    """The eight functions of degrees 1 and 2 [n 8] in unit directions [n 3]."""
    x, y, z = np.asarray(directions, float).T
    first = [-y, z, -x]
    second = [x * y, -y * z, (2 * z * z - x * x - y * y) / 12**0.5, -x * z, (x * x - y * y) / 2]
    one, two = SH_C0 * 3**0.5, SH_C0 * 15**0.5
    return np.stack([*(one * f for f in first), *(two * f for f in second)], -1)


def spiral(count: int) -> NDArray[np.float64]:
    """Directions [n 3] spread evenly over the sphere."""
    z = 1 - (2 * np.arange(count) + 1) / count
    angle = np.pi * (1 + 5**0.5) * np.arange(count)
    ring = np.sqrt(1 - z * z)
    return np.stack([ring * np.cos(angle), ring * np.sin(angle), z], -1)
