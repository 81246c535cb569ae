"""Depth maps -> normals, edges and pixel footprints, by the geometry of inverse depth.

On a plane 1/z is linear in the image, so first differences of inverse depth give the plane's
normal exactly and second differences are zero: a floor at a grazing angle is no edge, however fast
its depth changes from row to row.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

EDGE_CURVATURE = 0.02
"""Relative second difference of inverse depth above which two pixels are two surfaces."""


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
    K = np.asarray(K, np.float64)
    known = depth > 0
    inverse = np.where(known, 1 / np.maximum(depth, 1e-6), 0).astype(np.float32)
    du, edge_u = _slope(inverse, known, axis=1)
    dv, edge_v = _slope(inverse, known, axis=0)
    height, width = depth.shape
    u = (np.arange(width, dtype=np.float32) + 0.5 - K[0, 2])[None, :]
    v = (np.arange(height, dtype=np.float32) + 0.5 - K[1, 2])[:, None]
    # Plane n . P = d has 1/z = (n . r) / d: these three are n / d, towards larger inverse depth.
    normal = np.stack([K[0, 0] * du, K[1, 1] * dv, inverse - u * du - v * dv], -1)
    length = np.linalg.norm(normal, axis=-1, keepdims=True)
    normal = -normal / np.maximum(length, 1e-12)
    rays = np.stack(np.broadcast_arrays(u / K[0, 0], v / K[1, 1], np.float32(1.0)), -1)
    rays = rays / np.linalg.norm(rays, axis=-1, keepdims=True)
    facing = -np.sum(normal * rays, -1)
    valid = known & ~edge_u & ~edge_v & (length[..., 0] > 0) & (facing > 0)
    return DepthGeometry(valid, normal.astype(np.float32), np.clip(facing, 0, 1).astype(np.float32))


def footprint(depth: NDArray[np.float32], K: ArrayLike) -> NDArray[np.float32]:
    """Size of a pixel on a surface that faces the camera [m], shape [h w]."""
    return (depth / float(np.asarray(K)[0, 0])).astype(np.float32)


def _slope(
    inverse: NDArray[np.float32], known: NDArray[np.bool_], *, axis: int
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Difference per pixel of inverse depth along an axis, and where the surface breaks.

    Of the differences to both neighbours the smaller is taken, so that a pixel beside an edge
    gets the slope of its own surface.
    """
    inverse, known = np.moveaxis(inverse, axis, 0), np.moveaxis(known, axis, 0)
    step = np.zeros_like(inverse)
    step[:-1] = inverse[1:] - inverse[:-1]
    both = np.zeros_like(known)
    both[:-1] = known[1:] & known[:-1]
    forward, has_forward = step, both
    backward, has_backward = np.roll(step, 1, 0), np.roll(both, 1, 0)
    backward[0], has_backward[0] = 0, False
    slope = np.where(np.abs(forward) < np.abs(backward), forward, backward)
    slope = np.where(has_forward & has_backward, slope, np.where(has_forward, forward, backward))
    bend = np.abs(forward - backward) > EDGE_CURVATURE * inverse
    # A bend marks both pixels of the jump; the one whose other neighbour lies on its own surface
    # keeps a good slope but its ray may hit either side, so it is dropped too.
    edge = (bend & has_forward & has_backward) | ~(has_forward | has_backward)
    return np.moveaxis(slope, 0, axis), np.moveaxis(edge, 0, axis)
