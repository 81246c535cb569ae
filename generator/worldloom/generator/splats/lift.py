"""A frame -> pixel-aligned Gaussian discs for the surfaces that no earlier frame gave splats to.

Each disc lies in the surface: its two axes are the images of a pixel's sides on the tangent plane,
so that neighbouring discs just overlap at any slant (spec reconstruction 8, row 13).
"""

from __future__ import annotations

from pathlib import Path

import numba as nb
import numpy as np
from numpy.typing import ArrayLike, NDArray

from worldloom.generator.surface.depthmaps import DepthGeometry, depth_geometry
from worldloom.scene.cameras import npz_bytes, unproject
from worldloom.scene.frame import invert_rigid, quat_wxyz_from_matrix
from worldloom.scene.splats import Splats
from worldloom.scene.worldfolder import write_whole

SIGMA_PX = 0.55
"""Standard deviation of a disc in pixels of its own frame; larger blurs, smaller leaves gaps."""
THICKNESS = 0.1  # Of the smaller in-plane axis: discs, but never degenerate.
OPACITY = 0.95
FACING_MIN = 0.05  # Cosine below which a surface is seen edge-on (about 87 degrees).
STRETCH_MAX = 8.0  # Longest in-plane axis in pixel footprints; slanter surfaces get gaps instead.
FINER = 1.6
"""A second look is worth new splats when its pixels are this much finer on the surface."""
REACH_PX = 0.8  # A splat covers pixel centres within this, so that new neighbours leave no gap.
SAME_SURFACE_PX = 2.0  # Distance from the tangent plane, in footprints, that is still the surface.
SAME_SURFACE_M = 0.01  # The same in metres: depth noise of a good frame.


class Covered:
    """Which surfaces have splats already, and how fine: the centres and their footprints."""

    def __init__(self) -> None:
        self.points = np.zeros((0, 3), np.float32)
        self.footprint = np.zeros(0, np.float32)

    def add(self, points: NDArray[np.float32], footprint: NDArray[np.float32]) -> None:
        """Remember new splats: centres [n 3] and pixel footprints [n], metres."""
        self.points = np.concatenate([self.points, points])
        self.footprint = np.concatenate([self.footprint, footprint])

    def save(self, file: Path) -> None:
        """Write the state to a checkpoint.

        Raises:
            StorageFull: No space is left.
        """
        arrays = {"points": self.points, "footprint": self.footprint}
        write_whole(file, npz_bytes(arrays))

    @staticmethod
    def load(file: Path) -> Covered:
        """Read the state back."""
        covered = Covered()
        with np.load(file, allow_pickle=False) as data:
            covered.points, covered.footprint = data["points"], data["footprint"]
        return covered


def lift(
    rgb: NDArray[np.floating],
    depth: NDArray[np.float32],
    origin: NDArray[np.uint8],
    c2w: ArrayLike,
    K: ArrayLike,
    *,
    covered: Covered,
) -> Splats:
    """Splats of the pixels of a frame that show new surface; `covered` learns of them.

    Args:
        rgb: sRGB 0..1, [h w 3].
        depth: z-depth in metres, 0 = none, [h w].
        origin: 0 none, 1 seen in the photo, 2 made up, [h w]; pixels of 0 are left out.
        c2w: Camera to world, OpenCV axes, [4 4].
        K: Intrinsics in pixels, [3 3].
        covered: What earlier frames have given.
    """
    c2w, K = np.asarray(c2w, np.float64), np.asarray(K, np.float64)
    geometry = depth_geometry(depth, K)
    points = unproject(depth, K, c2w).astype(np.float32)
    new = geometry.valid & (geometry.facing > FACING_MIN) & (origin > 0)
    if len(covered.points):
        new &= ~_covered_pixels(
            covered.points, covered.footprint, points, geometry.normal @ c2w[:3, :3].T,
            depth, invert_rigid(c2w), K,
        )  # fmt: skip
    if not new.any():
        return Splats.empty()
    scales, axes = _discs(depth, geometry, new, K)
    quats = quat_wxyz_from_matrix(c2w[:3, :3] @ axes)
    centres = points[new]
    covered.add(centres, (depth[new] / K[0, 0]).astype(np.float32))
    count = len(centres)
    return Splats.from_rgb(centres, scales, quats, np.full(count, OPACITY), rgb[new])


def _discs(
    depth: NDArray[np.float32],
    geometry: DepthGeometry,
    chosen: NDArray[np.bool_],
    K: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """In-plane axes of the chosen pixels: deviations [n 3] in metres and axes [n 3 3] (camera).

    The sides of a pixel on the tangent plane are t_u = z/fx (e_x - n_x/(n.r) r) and the same for
    v; the disc's covariance is SIGMA_PX^2 (t_u t_u^T + t_v t_v^T).
    """
    rows, columns = np.nonzero(chosen)
    z = depth[chosen].astype(np.float64)
    n = geometry.normal[chosen].astype(np.float64)
    ray = np.stack(
        [
            (columns + 0.5 - K[0, 2]) / K[0, 0],
            (rows + 0.5 - K[1, 2]) / K[1, 1],
            np.ones(len(rows)),
        ],
        -1,
    )
    along = np.sum(n * ray, -1, keepdims=True)
    side_u = (z / K[0, 0])[:, None] * (np.array([1.0, 0, 0]) - n[:, :1] / along * ray)
    side_v = (z / K[1, 1])[:, None] * (np.array([0, 1.0, 0]) - n[:, 1:2] / along * ray)
    first = side_u / np.linalg.norm(side_u, axis=1, keepdims=True)
    second = np.cross(n, first)
    # The covariance in the basis (first, second) is 2 x 2; its eigenvectors have a closed form.
    a = np.sum(side_u * first, -1) ** 2 + np.sum(side_v * first, -1) ** 2
    b = np.sum(side_v * first, -1) * np.sum(side_v * second, -1)
    c = np.sum(side_v * second, -1) ** 2
    angle = 0.5 * np.arctan2(2 * b, a - c)
    cosine, sine = np.cos(angle)[:, None], np.sin(angle)[:, None]
    major, minor = cosine * first + sine * second, -sine * first + cosine * second
    half, root = (a + c) / 2, np.sqrt(((a - c) / 2) ** 2 + b * b)
    long_, short = np.sqrt(half + root), np.sqrt(np.maximum(half - root, 0))
    limit = STRETCH_MAX * z / K[0, 0]
    deviations = SIGMA_PX * np.stack([np.minimum(long_, limit), np.minimum(short, limit)], -1)
    thin = THICKNESS * deviations.min(1, keepdims=True)
    axes = np.stack([major, minor, np.cross(major, minor)], -1)
    return np.concatenate([deviations, thin], 1), axes


@nb.njit(cache=True)
def _covered_pixels(known, fine, points, normals, depth, w2c, K):  # noqa: ANN001, ANN202
    """Pixels [h w] whose surface holds a known splat of similar or finer footprint.

    A splat covers the pixel it falls on and its neighbours, if it lies on their tangent plane.
    """
    height, width = depth.shape
    covered = np.zeros((height, width), np.bool_)
    for i in range(known.shape[0]):
        x, y, z = known[i, 0], known[i, 1], known[i, 2]
        cz = w2c[2, 0] * x + w2c[2, 1] * y + w2c[2, 2] * z + w2c[2, 3]
        if cz <= 0.01:
            continue
        cx = w2c[0, 0] * x + w2c[0, 1] * y + w2c[0, 2] * z + w2c[0, 3]
        cy = w2c[1, 0] * x + w2c[1, 1] * y + w2c[1, 2] * z + w2c[1, 3]
        u, v = K[0, 0] * cx / cz + K[0, 2], K[1, 1] * cy / cz + K[1, 2]
        column, row = int(np.floor(u)), int(np.floor(v))
        if column < -1 or column > width or row < -1 or row > height:
            continue
        pixel = cz / K[0, 0]
        if fine[i] > FINER * pixel:
            continue
        tolerance = max(SAME_SURFACE_M, SAME_SURFACE_PX * pixel)
        for r in range(max(0, row - 1), min(height, row + 2)):
            for c in range(max(0, column - 1), min(width, column + 2)):
                if covered[r, c] or depth[r, c] <= 0:
                    continue
                if abs(u - c - 0.5) > REACH_PX or abs(v - r - 0.5) > REACH_PX:
                    continue
                off = (x - points[r, c, 0]) * normals[r, c, 0]
                off += (y - points[r, c, 1]) * normals[r, c, 1]
                off += (z - points[r, c, 2]) * normals[r, c, 2]
                covered[r, c] = abs(off) <= tolerance
    return covered
