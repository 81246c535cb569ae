"""Spherical harmonics -> colour as seen from one place (degrees 0 to 3)."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from worldloom.scene.harmonics_rotation import harmonics_basis
from worldloom.scene.splats import SH_C0, Splats


def colours(splats: Splats, centre: ArrayLike) -> NDArray[np.float32]:
    """Colours [n 3], not below 0, of splats seen from the world point `centre` [3]."""
    value = 0.5 + SH_C0 * splats.sh[:, 0]
    if splats.degree >= 1:
        away = splats.means - np.asarray(centre, np.float32)
        away /= np.maximum(np.linalg.norm(away, axis=1, keepdims=True), 1e-12)
        basis = harmonics_basis(away)[:, : splats.sh.shape[1] - 1].astype(np.float32)
        value = value + np.einsum("nk,nkc->nc", basis, splats.sh[:, 1:])
    return np.maximum(value, 0).astype(np.float32)
