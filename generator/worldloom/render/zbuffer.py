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


@nb.njit(cache=True)
def _fill(points, faces, K, width, height):
    """Draw all triangles, clipped at the near plane, into a z-buffer."""
    depth = np.zeros((height, width), np.float32)
    face = np.full((height, width), -1, np.int32)
    polygon = np.zeros((4, 3))
    for f in range(faces.shape[0]):
        count = 0
        for k in range(3):
            a, b = points[faces[f, k]], points[faces[f, (k + 1) % 3]]
            if a[2] >= NEAR_M:
                polygon[count] = a
                count += 1
            if (a[2] >= NEAR_M) != (b[2] >= NEAR_M):
                share = (NEAR_M - a[2]) / (b[2] - a[2])
                polygon[count] = a + share * (b - a)
                count += 1
        for k in range(1, count - 1):
            _triangle(polygon[0], polygon[k], polygon[k + 1], f, K, depth, face)
    return depth, face


@nb.njit(cache=True)
def _triangle(a, b, c, number, K, depth, face):
    """Draw one triangle in front of the near plane; 1/z is linear in the image."""
    height, width = depth.shape
    ax, ay = K[0, 0] * a[0] / a[2] + K[0, 2], K[1, 1] * a[1] / a[2] + K[1, 2]
    bx, by = K[0, 0] * b[0] / b[2] + K[0, 2], K[1, 1] * b[1] / b[2] + K[1, 2]
    cx, cy = K[0, 0] * c[0] / c[2] + K[0, 2], K[1, 1] * c[1] / c[2] + K[1, 2]
    area = (bx - ax) * (cy - ay) - (by - ay) * (cx - ax)
    if area == 0:
        return
    x0, x1 = max(0, int(np.floor(min(ax, bx, cx) - 0.5))), min(width - 1, int(max(ax, bx, cx)))
    y0, y1 = max(0, int(np.floor(min(ay, by, cy) - 0.5))), min(height - 1, int(max(ay, by, cy)))
    for y in range(y0, y1 + 1):
        for x in range(x0, x1 + 1):
            px, py = x + 0.5, y + 0.5
            wa = ((bx - px) * (cy - py) - (by - py) * (cx - px)) / area
            wb = ((cx - px) * (ay - py) - (cy - py) * (ax - px)) / area
            wc = 1.0 - wa - wb
            if wa < 0 or wb < 0 or wc < 0:
                continue
            z = 1.0 / (wa / a[2] + wb / b[2] + wc / c[2])
            if depth[y, x] == 0 or z < depth[y, x]:
                depth[y, x] = z
                face[y, x] = number
