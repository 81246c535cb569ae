"""Spherical harmonics -> colour as seen from one place (degrees 0 to 3)."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from worldloom.scene.splats import SH_C0, Splats

# Constants of the real spherical harmonics in the order of the 3DGS layout.
SH_C1 = 0.4886025119029199
SH_C2 = (1.0925484305920792, -1.0925484305920792, 0.31539156525252005, -1.0925484305920792,
         0.5462742152960396)  # fmt: skip
SH_C3 = (-0.5900435899266435, 2.890611442640554, -0.4570457994644658, 0.3731763325901154,
         -0.4570457994644658, 1.445305721320277, -0.5900435899266435)  # fmt: skip


def colours(splats: Splats, centre: ArrayLike) -> NDArray[np.float32]:
    """Colours [n 3], not below 0, of splats seen from the world point `centre` [3]."""
    value = 0.5 + SH_C0 * splats.sh[:, 0]
    if splats.degree >= 1:
        basis = _basis(splats.means - np.asarray(centre, np.float32))
        value = value + np.einsum("nk,nkc->nc", basis, splats.sh[:, 1 : 1 + basis.shape[1]])
    return np.maximum(value, 0).astype(np.float32)


def _basis(direction: NDArray[np.float32]) -> NDArray[np.float32]:
    """The 15 functions of degrees 1 to 3 [n 15] in the directions [n 3]."""
    d = direction / np.maximum(np.linalg.norm(direction, axis=1, keepdims=True), 1e-12)
    x, y, z = d.T
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
    return np.stack(first + second + third, 1).astype(np.float32)
