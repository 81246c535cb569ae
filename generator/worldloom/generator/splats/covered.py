"""What has splats already, and which frame sees a surface finest: the choice of pixels to lift.

Fineness is the side of a square with the area that a pixel covers on the surface, z / f /
sqrt(cosine): a floor seen at a low angle is coarse however near its rays begin.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numba as nb
import numpy as np
from numpy.typing import ArrayLike, NDArray

from worldloom.generator.surface.depthmaps import depth_geometry
from worldloom.scene.cameras import npz_bytes, unproject
from worldloom.scene.frame import invert_rigid
from worldloom.scene.worldfolder import write_whole

FACING_MIN = 0.05  # Cosine below which a surface is seen edge-on (about 87 degrees).
FINER = 1.6
"""A second look is worth new splats when its pixels are this much finer on the surface."""
NEAREST_M = 1e-3  # Points nearer than this are behind the lens, even in a world of 5 cm.
REACH_PX = 0.8  # A splat covers pixel centres within this, so that new neighbours leave no gap.
SAME_SURFACE_PX = 2.0  # Distance from the tangent plane, in footprints, that is still the surface.
SAME_SURFACE = 0.005  # The same relative to the depth: noise of a good frame, at any scale.


class Covered:
    """Which surfaces have splats already, and how fine: the centres and their footprints."""

    def __init__(self) -> None:
        self.points = np.zeros((0, 3), np.float32)
        self.fineness = np.zeros(0, np.float32)

    def add(self, points: NDArray[np.float32], fineness: NDArray[np.float32]) -> None:
        """Remember new splats: centres [n 3] and sides of their pixels on the surface [n], m."""
        self.points = np.concatenate([self.points, points])
        self.fineness = np.concatenate([self.fineness, fineness])

    @property
    def n(self) -> int:
        """Number of splats that are remembered."""
        return len(self.points)

    def keep_new(self, first: int, keep: NDArray[np.bool_]) -> None:
        """Forget those of the splats from number `first` on that `keep` [n - first] denies."""
        index = np.concatenate([np.arange(first), first + np.nonzero(keep)[0]])
        self.points, self.fineness = self.points[index], self.fineness[index]

    def save(self, file: Path) -> None:
        """Write the state to a checkpoint.

        Raises:
            StorageFull: No space is left.
        """
        write_whole(file, npz_bytes({"points": self.points, "fineness": self.fineness}))

    @staticmethod
    def load(file: Path) -> Covered:
        """Read the state back."""
        covered = Covered()
        with np.load(file, allow_pickle=False) as data:
            covered.points, covered.fineness = data["points"], data["fineness"]
        return covered


@dataclass(frozen=True)
class Look:
    """One frame's surfaces as the choice of pixels needs them."""

    depth: NDArray[np.float32]
    """z-depth, 0 = none [m], shape [h w]."""
    points: NDArray[np.float32]
    """Surface point of every pixel, world frame [m], shape [h w 3]."""
    normal: NDArray[np.float32]
    """Unit normal towards the camera, camera axes, shape [h w 3]."""
    normal_world: NDArray[np.float32]
    """The same in the world frame, shape [h w 3]."""
    fineness: NDArray[np.float32]
    """Side of a pixel on the surface [m], 0 where no splat may be made, shape [h w]."""
    w2c: NDArray[np.float64]
    """World to camera, shape [4 4]."""
    K: NDArray[np.float64]
    """Intrinsics in pixels, shape [3 3]."""


def look_at_frame(
    depth: NDArray[np.float32], origin: NDArray[np.uint8], c2w: ArrayLike, K: ArrayLike
) -> Look:
    """Prepare a frame; arguments as `lift`."""
    c2w, K = np.asarray(c2w, np.float64), np.asarray(K, np.float64)
    depth = np.ascontiguousarray(depth, np.float32)
    geometry = depth_geometry(depth, K)
    usable = geometry.valid & (geometry.facing > FACING_MIN) & (origin > 0)
    fineness = depth / K[0, 0] / np.sqrt(np.maximum(geometry.facing, FACING_MIN))
    return Look(
        depth=depth,
        points=unproject(depth, K, c2w).astype(np.float32),
        normal=geometry.normal,
        normal_world=(geometry.normal @ c2w[:3, :3].T).astype(np.float32),
        fineness=np.where(usable, fineness, 0).astype(np.float32),
        w2c=invert_rigid(c2w),
        K=K,
    )


def seen_finer(look: Look, other: Look) -> NDArray[np.bool_]:
    """Pixels [h w] of `look` whose surface `other` sees `FINER` times finer or better."""
    return _seen_finer(
        look.points, look.fineness, other.depth, other.points, other.normal_world,
        other.fineness, other.w2c, other.K,
    )  # fmt: skip


def has_splats(look: Look, covered: Covered) -> NDArray[np.bool_]:
    """Pixels [h w] of `look` whose surface holds a splat of similar or finer footprint."""
    return _covered_pixels(
        covered.points, covered.fineness, look.points, look.normal_world, look.depth,
        look.fineness, look.w2c, look.K,
    )  # fmt: skip


@nb.njit(cache=True, inline="always")
def _image(w2c, K, x, y, z):
    """Image position and z-depth of a world point; u, v mean nothing when z <= NEAREST_M."""
    cz = w2c[2, 0] * x + w2c[2, 1] * y + w2c[2, 2] * z + w2c[2, 3]
    if cz <= NEAREST_M:
        return -1.0, -1.0, cz
    cx = w2c[0, 0] * x + w2c[0, 1] * y + w2c[0, 2] * z + w2c[0, 3]
    cy = w2c[1, 0] * x + w2c[1, 1] * y + w2c[1, 2] * z + w2c[1, 3]
    return K[0, 0] * cx / cz + K[0, 2], K[1, 1] * cy / cz + K[1, 2], cz


@nb.njit(cache=True, inline="always")
def _off_plane(points, normals, r, c, x, y, z):
    """Distance of a point from the tangent plane of pixel (r, c)."""
    off = (x - points[r, c, 0]) * normals[r, c, 0]
    off += (y - points[r, c, 1]) * normals[r, c, 1]
    off += (z - points[r, c, 2]) * normals[r, c, 2]
    return abs(off)


@nb.njit(parallel=True, cache=True)
def _seen_finer(points, fineness, depth, other, normals, finer, w2c, K):
    height, width = fineness.shape
    rows, columns = depth.shape
    seen = np.zeros((height, width), np.bool_)
    for r in nb.prange(height):
        for c in range(width):
            if fineness[r, c] <= 0:
                continue
            x, y, z = points[r, c, 0], points[r, c, 1], points[r, c, 2]
            u, v, cz = _image(w2c, K, x, y, z)
            if cz <= NEAREST_M or u < 0 or v < 0 or u >= columns or v >= rows:
                continue
            row, column = int(v), int(u)
            fine = finer[row, column]
            if fine <= 0 or FINER * fine >= fineness[r, c]:
                continue
            tolerance = depth[row, column] * max(SAME_SURFACE, SAME_SURFACE_PX / K[0, 0])
            seen[r, c] = _off_plane(other, normals, row, column, x, y, z) <= tolerance
    return seen


@nb.njit(cache=True)
def _covered_pixels(known, fine, points, normals, depth, fineness, w2c, K):
    """A splat covers the pixel it falls on and its neighbours, if it lies on their plane."""
    height, width = depth.shape
    covered = np.zeros((height, width), np.bool_)
    for i in range(known.shape[0]):
        x, y, z = known[i, 0], known[i, 1], known[i, 2]
        u, v, cz = _image(w2c, K, x, y, z)
        if cz <= NEAREST_M or u < -1 or v < -1 or u > width or v > height:
            continue
        column, row = int(np.floor(u)), int(np.floor(v))
        tolerance = cz * max(SAME_SURFACE, SAME_SURFACE_PX / K[0, 0])
        for r in range(max(0, row - 1), min(height, row + 2)):
            for c in range(max(0, column - 1), min(width, column + 2)):
                if covered[r, c] or fine[i] > FINER * fineness[r, c]:
                    continue
                if abs(u - c - 0.5) > REACH_PX or abs(v - r - 0.5) > REACH_PX:
                    continue
                covered[r, c] = _off_plane(points, normals, r, c, x, y, z) <= tolerance
    return covered
