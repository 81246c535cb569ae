"""Camera and up -> inverse depth of the floor and of upright planes, in 1 / camera heights.

A point z r of the ray r (with z = 1) lies on the floor one unit below the camera when
up . (z r) = -1; it lies on the upright plane one unit ahead when ahead . (z r) = 1.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from worldloom.scene.cameras import pixel_rays


def ground_inverse(
    K: NDArray[np.floating], up: NDArray[np.floating], height: int, width: int
) -> NDArray[np.float64]:
    """Inverse z-depth [height width] of the floor at unit camera height.

    Negative above the horizon. Divide by the camera height in metres for the inverse depth in 1/m.
    """
    return -(pixel_rays(K, width, height) @ np.asarray(up, float))


def standing_factor(
    K: NDArray[np.floating], up: NDArray[np.floating], height: int, width: int
) -> NDArray[np.float64]:
    """Inverse z-depth [height width] of the upright plane one unit ahead that faces the camera."""
    return pixel_rays(K, width, height) @ ahead_of(up)


def ground_inverse_at(
    u: NDArray[np.floating], v: NDArray[np.floating], K: NDArray, up: NDArray
) -> NDArray[np.float64]:
    """`ground_inverse` at image points u [n], v [n] instead of all pixels."""
    return -(_rays(u, v, K) @ np.asarray(up, float))


def standing_factor_at(
    u: NDArray[np.floating], v: NDArray[np.floating], K: NDArray, up: NDArray
) -> NDArray[np.float64]:
    """`standing_factor` at image points u [n], v [n] instead of all pixels."""
    return _rays(u, v, K) @ ahead_of(up)


def ahead_of(up: NDArray[np.floating]) -> NDArray[np.float64]:
    """Horizontal part of the viewing direction in camera axes, unit length, shape [3]."""
    up = np.asarray(up, float)
    ahead = np.array([0.0, 0.0, 1.0]) - up[2] * up
    return ahead / max(float(np.linalg.norm(ahead)), 1e-9)


def _rays(u: NDArray, v: NDArray, K: NDArray) -> NDArray[np.float64]:
    x, y = (u - K[0, 2]) / K[0, 0], (v - K[1, 2]) / K[1, 1]
    return np.stack([x, y, np.ones_like(x)], -1)
