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
SMOOTH, BENT, BROKEN = 0, 1, 2
NEAREST_M = 1e-6  # Depths below this count as this: no division by zero.


@dataclass(frozen=True)
class DepthGeometry:
    """Local geometry of one depth map, in camera axes."""

    valid: NDArray[np.bool_]
    """Pixels with a surface that is neither a depth edge nor a crease, shape [h w]."""
    sound: NDArray[np.bool_]
    """Those, and pixels at an edge or crease whose own surface goes on smoothly on one side: their
    plane is known although their picture may hold two surfaces, shape [h w]."""
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
    """Validity and soundness [h w], normal [h w 3] and cosine [h w] of every pixel."""
    height, width = depth.shape
    valid = np.zeros((height, width), np.bool_)
    sound = np.zeros((height, width), np.bool_)
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
            left2 = inverses[row, column - 2] if column > 1 else 0.0
            right2 = inverses[row, column + 2] if column + 2 < width else 0.0
            above2 = inverses[row - 2, column] if row > 1 else 0.0
            below2 = inverses[row + 2, column] if row + 2 < height else 0.0
            du, state_u = _slope(inverse, left2, left, right, right2)
            dv, state_v = _slope(inverse, above2, above, below, below2)
            # Plane n . P = d has 1/z = (n . r) / d: these are n / d, towards larger inverse depth.
            nx, ny, nz = K[0, 0] * du, K[1, 1] * dv, inverse - u * du - v * dv
            length = math.sqrt(nx * nx + ny * ny + nz * nz)
            x, y = u / K[0, 0], v / K[1, 1]
            cosine = (nx * x + ny * y + nz) / (max(length, 1e-12) * math.sqrt(x * x + y * y + 1))
            normal[row, column, 0] = -nx / max(length, 1e-12)
            normal[row, column, 1] = -ny / max(length, 1e-12)
            normal[row, column, 2] = -nz / max(length, 1e-12)
            facing[row, column] = min(max(cosine, 0.0), 1.0)
            if length > 0 and cosine > 0:
                valid[row, column] = state_u == SMOOTH and state_v == SMOOTH
                sound[row, column] = state_u != BROKEN and state_v != BROKEN
    return valid, sound, normal, facing


@nb.njit(cache=True, error_model="numpy", inline="always")
def _slope(inverse, before2, before, after, after2):
    """Difference per pixel of inverse depth along an axis, and how the surface goes on there.

    Arguments are inverse depths of five pixels in a row, 0 = none. On smooth surface the smaller of
    the differences to both neighbours is taken. A bend marks both pixels of a jump or a crease: the
    ray of either may hit both surfaces. There the slope is that of the side on which three pixels
    lie on one plane; without such a side nothing is known.
    """
    backward, forward = inverse - before, after - inverse
    limit = EDGE_CURVATURE * inverse
    if before > 0 and after > 0:
        smaller = forward if abs(forward) < abs(backward) else backward
        if abs(forward - backward) <= limit:
            return smaller, SMOOTH
        own_before = before2 > 0 and abs(backward - (before - before2)) <= limit
        own_after = after2 > 0 and abs((after2 - after) - forward) <= limit
        if own_before and not own_after:
            return backward, BENT
        if own_after and not own_before:
            return forward, BENT
        return smaller, BENT if own_before else BROKEN
    if after > 0:
        return forward, SMOOTH
    if before > 0:
        return backward, SMOOTH
    return 0.0, BROKEN
