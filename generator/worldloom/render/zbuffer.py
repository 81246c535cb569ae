"""Triangles -> z-depth, face numbers and shading of one view (numba z-buffer)."""

from __future__ import annotations

from dataclasses import dataclass

import numba as nb
import numpy as np
from numpy.typing import ArrayLike, NDArray

from worldloom.scene.cameras import pixel_rays
from worldloom.scene.frame import invert_rigid
from worldloom.scene.mesh import TriMesh

NEAR_M = 0.02  # Nothing nearer than this is drawn; triangles are clipped there.


@dataclass(frozen=True)
class MeshView:
    """What a camera sees of a mesh."""

    depth: NDArray[np.float32]
    """z-depth of the nearest surface [m], 0 where there is none, shape [h w]."""
    face: NDArray[np.int32]
    """Number of the face seen, -1 where there is none, shape [h w]."""


def view_mesh(mesh: TriMesh, c2w: ArrayLike, K: ArrayLike, size: tuple[int, int]) -> MeshView:
    """Nearest surface at every pixel centre.

    Args:
        mesh: World frame.
        c2w: Camera to world, OpenCV axes, [4 4].
        K: Intrinsics in pixels, [3 3].
        size: Width and height in pixels.
    """
    width, height = size
    w2c = invert_rigid(c2w)
    local = mesh.vertices.astype(np.float64) @ w2c[:3, :3].T + w2c[:3, 3]
    depth, face = _fill(local, mesh.faces, np.asarray(K, np.float64), width, height)
    return MeshView(depth, face)


def depth_of_mesh(
    mesh: TriMesh, c2w: ArrayLike, K: ArrayLike, size: tuple[int, int]
) -> NDArray[np.float32]:
    """z-depth [h w] of a mesh in metres, 0 where nothing is seen; arguments as `view_mesh`."""
    return view_mesh(mesh, c2w, K, size).depth


def shade_mesh(
    mesh: TriMesh, c2w: ArrayLike, K: ArrayLike, size: tuple[int, int]
) -> NDArray[np.float32]:
    """A picture [h w 3] of the bare geometry: front faces grey by slope, back faces red."""
    view = view_mesh(mesh, c2w, K, size)
    normals = mesh.normals()[np.maximum(view.face, 0)]
    rays = pixel_rays(K, size[0], size[1]) @ np.asarray(c2w, float)[:3, :3].T
    rays /= np.linalg.norm(rays, axis=-1, keepdims=True)
    facing = -np.sum(normals * rays, -1)
    light = 0.30 + 0.45 * np.abs(facing) + 0.20 * np.maximum(normals[..., 2], 0)
    tint = np.where((facing > 0)[..., None], [0.86, 0.90, 0.98], [0.95, 0.25, 0.2])
    picture = np.clip(light[..., None] * tint, 0, 1)
    picture[view.face < 0] = (0.09, 0.10, 0.12)
    return picture.astype(np.float32)


@nb.njit(cache=True, error_model="numpy")
def _fill(points, faces, K, width, height):
    """Draw all triangles, clipped at the near plane, into a z-buffer."""
    depth = np.zeros((height, width), np.float32)
    face = np.full((height, width), -1, np.int32)
    image = _projected(points, K)
    polygon, corners = np.zeros((4, 3)), np.zeros((4, 3))
    for f in range(faces.shape[0]):
        i, j, k = faces[f, 0], faces[f, 1], faces[f, 2]
        if image[i, 2] > 0 and image[j, 2] > 0 and image[k, 2] > 0:
            _triangle(image[i], image[j], image[k], f, depth, face)
            continue
        if image[i, 2] == 0 and image[j, 2] == 0 and image[k, 2] == 0:
            continue
        count = 0
        for n in range(3):
            a, b = points[faces[f, n]], points[faces[f, (n + 1) % 3]]
            if a[2] >= NEAR_M:
                polygon[count] = a
                count += 1
            if (a[2] >= NEAR_M) != (b[2] >= NEAR_M):
                share = (NEAR_M - a[2]) / (b[2] - a[2])
                polygon[count] = a + share * (b - a)
                polygon[count, 2] = NEAR_M
                count += 1
        corners[:count] = _projected(polygon[:count], K)
        for n in range(1, count - 1):
            _triangle(corners[0], corners[n], corners[n + 1], f, depth, face)
    return depth, face


@nb.njit(cache=True, error_model="numpy")
def _projected(points, K):
    """Image position [px] and 1/z [1/m] of points in camera axes [n 3]; zeros before the plane."""
    out = np.zeros(points.shape)
    for n in range(points.shape[0]):
        if points[n, 2] >= NEAR_M:
            inverse = 1.0 / points[n, 2]
            out[n, 0] = K[0, 0] * points[n, 0] * inverse + K[0, 2]
            out[n, 1] = K[1, 1] * points[n, 1] * inverse + K[1, 2]
            out[n, 2] = inverse
    return out


@nb.njit(cache=True, error_model="numpy")
def _triangle(a, b, c, number, depth, face):
    """Draw one projected triangle (u, v, 1/z each); 1/z is linear in the image."""
    height, width = depth.shape
    # Pixel centres from the first that is not left of (above) all corners.
    x0 = max(0, int(np.ceil(min(a[0], b[0], c[0]) - 0.5)))
    x1 = min(width - 1, int(np.floor(max(a[0], b[0], c[0]) - 0.5)))
    y0 = max(0, int(np.ceil(min(a[1], b[1], c[1]) - 0.5)))
    y1 = min(height - 1, int(np.floor(max(a[1], b[1], c[1]) - 0.5)))
    if x0 > x1 or y0 > y1:
        return
    area = (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])
    if area == 0:
        return
    for y in range(y0, y1 + 1):
        for x in range(x0, x1 + 1):
            px, py = x + 0.5, y + 0.5
            wa = ((b[0] - px) * (c[1] - py) - (b[1] - py) * (c[0] - px)) / area
            wb = ((c[0] - px) * (a[1] - py) - (c[1] - py) * (a[0] - px)) / area
            wc = 1.0 - wa - wb
            if wa < 0 or wb < 0 or wc < 0:
                continue
            z = 1.0 / (wa * a[2] + wb * b[2] + wc * c[2])
            if depth[y, x] == 0 or z < depth[y, x]:
                depth[y, x] = z
                face[y, x] = number
