"""Depth maps -> normals, edges and pixel footprints, by the geometry of inverse depth.

On a plane 1/z is linear in the image, so first differences of inverse depth give the plane's
normal exactly and second differences are zero: a floor at a grazing angle is no edge, however fast
its depth changes from row to row.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numba as nb
import numpy as np
from numpy.typing import ArrayLike, NDArray

EDGE_CURVATURE = 0.02
"""Relative second difference of inverse depth above which two pixels are two surfaces."""
NEAREST_M = 1e-6  # Depths below this count as this: no division by zero.


@dataclass(frozen=True)
class DepthGeometry:
    """Local geometry of one depth map, in camera axes."""

    valid: NDArray[np.bool_]
    """Pixels with a surface that is not a depth edge, shape [h w]."""
    normal: NDArray[np.float32]
    """Unit normal towards the camera, OpenCV axes, shape [h w 3]."""
    facing: NDArray[np.float32]
    """Cosine between normal and the direction to the camera, 0..1, shape [h w]."""


def depth_geometry(depth: NDArray[np.float32], K: ArrayLike) -> DepthGeometry:
    """Normals and edges of a z-depth map [h w] in metres (0 = none)."""
    depth = np.ascontiguousarray(depth, np.float32)
    return DepthGeometry(*_geometry(depth, np.asarray(K, np.float64)))


def footprint(depth: NDArray[np.float32], K: ArrayLike) -> NDArray[np.float32]:
    """Size of a pixel on a surface that faces the camera [m], shape [h w]."""
    return (depth / float(np.asarray(K)[0, 0])).astype(np.float32)


@nb.njit(cache=True, error_model="numpy")
def _geometry(depth, K):
    """Validity [h w], normal [h w 3] and cosine [h w] of every pixel."""
    height, width = depth.shape
    valid = np.zeros((height, width), np.bool_)
    normal = np.zeros((height, width, 3), np.float32)
    facing = np.zeros((height, width), np.float32)
    inverses = np.zeros((height, width))
    for row in range(height):
        for column in range(width):
            if depth[row, column] > 0:
                inverses[row, column] = 1.0 / max(depth[row, column], NEAREST_M)
    for row in range(height):
        v = row + 0.5 - K[1, 2]
        for column in range(width):
            if not depth[row, column] > 0:
                continue
            u = column + 0.5 - K[0, 2]
            inverse = inverses[row, column]
            left = inverses[row, column - 1] if column > 0 else 0.0
            right = inverses[row, column + 1] if column + 1 < width else 0.0
            above = inverses[row - 1, column] if row > 0 else 0.0
            below = inverses[row + 1, column] if row + 1 < height else 0.0
            du, edge_u = _slope(inverse, left, right)
            dv, edge_v = _slope(inverse, above, below)
            # Plane n . P = d has 1/z = (n . r) / d: these are n / d, towards larger inverse depth.
            nx, ny, nz = K[0, 0] * du, K[1, 1] * dv, inverse - u * du - v * dv
            length = math.sqrt(nx * nx + ny * ny + nz * nz)
            x, y = u / K[0, 0], v / K[1, 1]
            cosine = (nx * x + ny * y + nz) / (max(length, 1e-12) * math.sqrt(x * x + y * y + 1))
            normal[row, column, 0] = -nx / max(length, 1e-12)
            normal[row, column, 1] = -ny / max(length, 1e-12)
            normal[row, column, 2] = -nz / max(length, 1e-12)
            facing[row, column] = min(max(cosine, 0.0), 1.0)
            valid[row, column] = not edge_u and not edge_v and length > 0 and cosine > 0
    return valid, normal, facing


@nb.njit(cache=True, error_model="numpy", inline="always")
def _slope(inverse, before, after):
    """Difference per pixel of inverse depth along an axis, and whether the surface breaks.

    Of the differences to both neighbours (inverse depths, 0 = none) the smaller is taken, so that
    a pixel beside an edge gets the slope of its own surface. A bend marks both pixels of the jump:
    the ray of the one that keeps a good slope may hit either side too.
    """
    backward, forward = inverse - before, after - inverse
    if before > 0 and after > 0:
        slope = forward if abs(forward) < abs(backward) else backward
        return slope, abs(forward - backward) > EDGE_CURVATURE * inverse
    if after > 0:
        return forward, False
    if before > 0:
        return backward, False
    return 0.0, True
