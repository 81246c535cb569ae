"""Depth maps -> truncated signed distances on sparse blocks of 8^3 voxels (numba).

Distances are measured to the tangent plane of the pixel, with inverse depth interpolated between
pixels, so that a plane seen at any angle is fused without a ripple (spec reconstruction 4.2).
Each block is one serial loop and blocks are numbered in the order in which pixels touch them:
the same frames give the same volume on any number of threads.
"""

from __future__ import annotations

from pathlib import Path

import numba as nb
import numpy as np
from numpy.typing import ArrayLike, NDArray

from worldloom.generator.surface.depthmaps import depth_geometry
from worldloom.scene.cameras import npz_bytes
from worldloom.scene.errors import EngineFailed
from worldloom.scene.frame import invert_rigid
from worldloom.scene.worldfolder import write_whole

BLOCK = 8  # Voxels of a block's side, a NanoVDB leaf.
WEIGHT_MAX = 64.0  # Cap of a voxel's weight (spec reconstruction 4.2).
FACING_MIN = 0.08  # Cosine below which a pixel tells too little of where the surface is.
SILHOUETTE_PX = 2  # So near an edge in the image a slanted pixel may be a silhouette,
SILHOUETTE_FACING = 0.35  # if the cosine is below this (about 70 degrees).
RAMP_FROM = -0.5  # Weights fall from here to 0 at -1, behind the surface (spec 4.2).
CARVE_RATIO = 4.0  # Votes for free space over votes for surface that delete a voxel (spec 4.2).
FREE_MIN_VOTES = 0.02  # Free-space votes below this (one look from 7 m) delete nothing.
JUMP_RATIO = 1.3  # Inverse depths of four neighbours that differ more are not interpolated.
MAX_BLOCKS = 120_000  # 2.5 GB of voxels; a larger world needs a coarser voxel.
GROWTH = 1.5  # Arrays grow by this factor, so that copying stays a small share.


class TsdfVolume:
    """The running fusion of all depth maps so far."""

    def __init__(self, voxel: float, trunc: float) -> None:
        self.voxel = float(voxel)
        """Side of a voxel [m]."""
        self.trunc = float(trunc)
        """Distance at which the signed distance is cut [m]."""
        self.coords = np.zeros((0, 3), np.int32)
        """Block coordinates; voxel (i, j, k) of block b is centred at (8 b + ijk + 0.5) voxel."""
        self.tsdf = np.zeros((0, BLOCK**3), np.float32)
        self.weight = np.zeros((0, BLOCK**3), np.float32)
        self.free = np.zeros((0, BLOCK**3), np.float32)
        """Votes that a voxel is free space."""
        self.rgb = np.zeros((0, BLOCK**3, 3), np.float32)
        self._count = 0
        self._low = np.zeros(3, np.int64)
        self._index = np.full((1, 1, 1), -1, np.int32)

    @property
    def blocks(self) -> int:
        """Number of blocks in use."""
        return self._count

    def integrate(
        self, depth: NDArray[np.float32], rgb: NDArray[np.floating], c2w: ArrayLike, K: ArrayLike
    ) -> None:
        """Fuse one frame.

        Args:
            depth: z-depth in metres, 0 = none, [h w].
            rgb: sRGB 0..1, [h w 3].
            c2w: Camera to world, OpenCV axes, [4 4].
            K: Intrinsics in pixels, [3 3].

        Raises:
            EngineFailed: The world needs more blocks than the memory bound allows.
        """
        c2w, K = np.asarray(c2w, np.float64), np.asarray(K, np.float64)
        geometry = depth_geometry(depth, K)
        good = geometry.valid & (geometry.facing > FACING_MIN)
        # Just inside a silhouette the surface curves away from its tangent plane: a pixel there
        # would draw a fin behind the object where no other camera contradicts it.
        brink = _within(~geometry.valid, SILHOUETTE_PX)
        good &= ~brink | (geometry.facing > SILHOUETTE_FACING)
        if not good.any():
            return
        self._reserve(depth, good, c2w, K)
        touched = _touch(
            np.where(good, depth, 0), c2w, K, self.trunc, self.voxel * BLOCK, self._low, self._index
        )
        self._append(touched)
        inverse = np.where(depth > 0, 1 / np.maximum(depth, 1e-6), 0)
        _integrate(
            self.tsdf, self.weight, self.free, self.rgb, self.coords, self._count,
            inverse.astype(np.float32), good, geometry.facing, geometry.normal,
            np.ascontiguousarray(rgb, np.float32), invert_rigid(c2w), K, self.voxel, self.trunc,
        )  # fmt: skip

    def field(self) -> tuple[NDArray[np.int32], NDArray[np.float32], NDArray[np.float32],
                             NDArray[np.float32]]:  # fmt: skip
        """Coordinates [b 3], distances, weights [b 512] and colours [b 512 3] after carving.

        Voxels that cameras looked through more often than they saw a surface there have weight 0.
        """
        n = self._count
        weight = self.weight[:n].copy()
        # Only voxels near a zero crossing can make a floater; a voxel in front of the surface is
        # free space by nature and stays as the outer side of the crossing.
        floater = (self.free[:n] > CARVE_RATIO * weight) & (self.free[:n] > FREE_MIN_VOTES)
        weight[floater & (self.tsdf[:n] < 0)] = 0
        return self.coords[:n], self.tsdf[:n], weight, self.rgb[:n]

    def save(self, file: Path) -> None:
        """Write the state to a checkpoint.

        Raises:
            StorageFull: No space is left.
        """
        n = self._count
        arrays = {
            "scale": np.array([self.voxel, self.trunc]),
            "coords": self.coords[:n],
            "tsdf": self.tsdf[:n],
            "weight": self.weight[:n],
            "free": self.free[:n],
            "rgb": self.rgb[:n],
        }
        write_whole(file, npz_bytes(arrays))

    @staticmethod
    def load(file: Path) -> TsdfVolume:
        """Read the state back."""
        with np.load(file, allow_pickle=False) as data:
            volume = TsdfVolume(*data["scale"])
            for name in ("coords", "tsdf", "weight", "free", "rgb"):
                setattr(volume, name, data[name])
        volume._count = len(volume.coords)
        if volume._count:
            volume._cover(volume.coords.min(0), volume.coords.max(0))
        return volume

    def _reserve(
        self,
        depth: NDArray[np.float32],
        good: NDArray[np.bool_],
        c2w: NDArray[np.float64],
        K: NDArray[np.float64],
    ) -> None:
        """Make the block index reach everything that this frame can touch."""
        far = float(depth[good].max()) + self.trunc
        height, width = depth.shape
        corners = np.array([[0, 0], [width, 0], [0, height], [width, height]], float)
        rays = np.stack(
            [(corners[:, 0] - K[0, 2]) / K[0, 0], (corners[:, 1] - K[1, 2]) / K[1, 1], np.ones(4)],
            -1,
        )
        reach = np.concatenate([c2w[None, :3, 3], (rays * far) @ c2w[:3, :3].T + c2w[:3, 3]])
        side = self.voxel * BLOCK
        low = np.floor((reach.min(0) - self.trunc) / side).astype(np.int64)
        high = np.floor((reach.max(0) + self.trunc) / side).astype(np.int64)
        self._cover(low, high)

    def _cover(self, low: NDArray[np.integer], high: NDArray[np.integer]) -> None:
        """Rebuild the dense index of blocks so that it spans `low` to `high`."""
        low, high = low.astype(np.int64) - 1, high.astype(np.int64) + 1
        old_high = self._low + self._index.shape
        if self._index.size > 1:
            if (low >= self._low).all() and (high < old_high).all():
                return
            low, high = np.minimum(low, self._low), np.maximum(high, old_high - 1)
        self._low = low
        self._index = np.full(high - low + 1, -1, np.int32)
        at = self.coords[: self._count] - low
        self._index[at[:, 0], at[:, 1], at[:, 2]] = np.arange(self._count, dtype=np.int32)

    def _append(self, touched: NDArray[np.int32]) -> None:
        """Add the touched blocks that are new, in their order."""
        total = self._count + len(touched)
        if total > MAX_BLOCKS:
            raise EngineFailed(
                f"the surface needs {total} blocks of {BLOCK}^3 voxels of {self.voxel * 100:.1f} "
                f"cm; the limit is {MAX_BLOCKS}. Use quality draft, or a shorter path"
            )
        if total > len(self.coords):
            self._grow(max(total, int(GROWTH * len(self.coords))))
        self.coords[self._count : total] = touched
        at = touched - self._low
        self._index[at[:, 0], at[:, 1], at[:, 2]] = np.arange(self._count, total, dtype=np.int32)
        self._count = total

    def _grow(self, capacity: int) -> None:
        for name in ("coords", "tsdf", "weight", "free", "rgb"):
            old = getattr(self, name)
            new = np.zeros((capacity, *old.shape[1:]), old.dtype)
            new[: len(old)] = old
            setattr(self, name, new)


@nb.njit(cache=True)
def _touch(depth, c2w, K, trunc, side, low, index):
    """New blocks [m 3] within the truncation of any pixel's surface, in pixel order."""
    height, width = depth.shape
    found = np.zeros((1024, 3), np.int32)
    count = 0
    steps = max(2, int(np.ceil(2 * trunc / (0.5 * side))) + 1)
    for row in range(height):
        for column in range(width):
            z = depth[row, column]
            if z <= 0:
                continue
            x = (column + 0.5 - K[0, 2]) / K[0, 0]
            y = (row + 0.5 - K[1, 2]) / K[1, 1]
            length = np.sqrt(x * x + y * y + 1)
            for s in range(steps):
                at = z + (2.0 * s / (steps - 1) - 1) * trunc / length
                px, py = x * at, y * at
                bx = int(np.floor(
                    (c2w[0, 0] * px + c2w[0, 1] * py + c2w[0, 2] * at + c2w[0, 3]) / side
                ))  # fmt: skip
                by = int(np.floor(
                    (c2w[1, 0] * px + c2w[1, 1] * py + c2w[1, 2] * at + c2w[1, 3]) / side
                ))  # fmt: skip
                bz = int(np.floor(
                    (c2w[2, 0] * px + c2w[2, 1] * py + c2w[2, 2] * at + c2w[2, 3]) / side
                ))  # fmt: skip
                i, j, k = bx - low[0], by - low[1], bz - low[2]
                if index[i, j, k] != -1:
                    continue
                index[i, j, k] = -2  # Claimed; numbered by the caller.
                if count == found.shape[0]:
                    larger = np.zeros((2 * count, 3), np.int32)
                    larger[:count] = found
                    found = larger
                found[count, 0], found[count, 1], found[count, 2] = bx, by, bz
                count += 1
    return found[:count]


@nb.njit(parallel=True, cache=True)
def _integrate(
    tsdf,
    weight,
    free,
    rgb,
    coords,
    count,
    inverse,
    good,
    facing,
    normal,
    image,
    w2c,
    K,
    voxel,
    trunc,
):
    """Update every voxel that projects onto a good pixel."""
    height, width = inverse.shape
    half = 0.5 * BLOCK * voxel
    reach = np.sqrt(3.0) * half
    for b in nb.prange(count):
        # Skip blocks that lie wholly behind the camera or outside the image.
        mx = coords[b, 0] * BLOCK * voxel + half
        my = coords[b, 1] * BLOCK * voxel + half
        mz = coords[b, 2] * BLOCK * voxel + half
        zc = w2c[2, 0] * mx + w2c[2, 1] * my + w2c[2, 2] * mz + w2c[2, 3]
        if zc < -reach:
            continue
        if zc > 2 * reach:
            xc = w2c[0, 0] * mx + w2c[0, 1] * my + w2c[0, 2] * mz + w2c[0, 3]
            yc = w2c[1, 0] * mx + w2c[1, 1] * my + w2c[1, 2] * mz + w2c[1, 3]
            margin = K[0, 0] * reach / (zc - reach) * 1.5
            uc, vc = K[0, 0] * xc / zc + K[0, 2], K[1, 1] * yc / zc + K[1, 2]
            if uc < -margin or uc > width + margin or vc < -margin or vc > height + margin:
                continue
        for n in range(BLOCK**3):
            i, j, k = n // (BLOCK * BLOCK), (n // BLOCK) % BLOCK, n % BLOCK
            x = (coords[b, 0] * BLOCK + i + 0.5) * voxel
            y = (coords[b, 1] * BLOCK + j + 0.5) * voxel
            z = (coords[b, 2] * BLOCK + k + 0.5) * voxel
            cz = w2c[2, 0] * x + w2c[2, 1] * y + w2c[2, 2] * z + w2c[2, 3]
            if cz < 0.02:
                continue
            cx = w2c[0, 0] * x + w2c[0, 1] * y + w2c[0, 2] * z + w2c[0, 3]
            cy = w2c[1, 0] * x + w2c[1, 1] * y + w2c[1, 2] * z + w2c[1, 3]
            u, v = K[0, 0] * cx / cz + K[0, 2] - 0.5, K[1, 1] * cy / cz + K[1, 2] - 0.5
            column, row = int(np.floor(u + 0.5)), int(np.floor(v + 0.5))
            if column < 0 or row < 0 or column >= width or row >= height:
                continue
            if not good[row, column]:
                continue
            surface = 1.0 / _inverse_at(inverse, good, normal, K, u, v, row, column)
            ray = np.sqrt((cx / cz) ** 2 + (cy / cz) ** 2 + 1)
            cosine = facing[row, column]
            distance = (surface - cz) * ray * cosine
            if distance < -trunc:
                continue
            vote = cosine / (surface * surface)
            if distance > trunc:
                free[b, n] += vote
                continue
            share = distance / trunc
            if share < RAMP_FROM:
                vote *= (share + 1) / (1 + RAMP_FROM)
            if vote <= 0:
                continue
            total = weight[b, n] + vote
            tsdf[b, n] = (weight[b, n] * tsdf[b, n] + vote * share) / total
            for channel in range(3):
                rgb[b, n, channel] = (
                    weight[b, n] * rgb[b, n, channel] + vote * image[row, column, channel]
                ) / total
            weight[b, n] = min(total, WEIGHT_MAX)


@nb.njit(cache=True)
def _inverse_at(inverse, good, normal, K, u, v, row, column):
    """Inverse depth between pixels: of the four around, or of the nearest's tangent plane."""
    height, width = inverse.shape
    x0, y0 = int(np.floor(u)), int(np.floor(v))
    if x0 < 0 or y0 < 0 or x0 + 1 >= width or y0 + 1 >= height:
        return _on_plane(inverse, normal, K, u, v, row, column)
    if not (good[y0, x0] and good[y0, x0 + 1] and good[y0 + 1, x0] and good[y0 + 1, x0 + 1]):
        return _on_plane(inverse, normal, K, u, v, row, column)
    a, b = inverse[y0, x0], inverse[y0, x0 + 1]
    c, d = inverse[y0 + 1, x0], inverse[y0 + 1, x0 + 1]
    if max(a, b, c, d) > JUMP_RATIO * min(a, b, c, d):
        return _on_plane(inverse, normal, K, u, v, row, column)
    fx, fy = u - x0, v - y0
    return (a * (1 - fx) + b * fx) * (1 - fy) + (c * (1 - fx) + d * fx) * fy


@nb.njit(cache=True)
def _on_plane(inverse, normal, K, u, v, row, column):
    """Inverse depth at (u, v) of the tangent plane of a pixel; 1/z goes as normal . ray."""
    nx, ny, nz = normal[row, column, 0], normal[row, column, 1], normal[row, column, 2]
    here = nx * (column + 0.5 - K[0, 2]) / K[0, 0] + ny * (row + 0.5 - K[1, 2]) / K[1, 1] + nz
    there = nx * (u + 0.5 - K[0, 2]) / K[0, 0] + ny * (v + 0.5 - K[1, 2]) / K[1, 1] + nz
    change = there / here if here != 0 else 1.0
    return inverse[row, column] * min(max(change, 1 / JUMP_RATIO), JUMP_RATIO)


def _within(mask: NDArray[np.bool_], pixels: int) -> NDArray[np.bool_]:
    """Pixels [h w] at most `pixels` from a set one, along rows and columns."""
    near = mask.copy()
    for step in range(1, pixels + 1):
        near[:, step:] |= mask[:, :-step]
        near[:, :-step] |= mask[:, step:]
    across = near.copy()
    for step in range(1, pixels + 1):
        near[step:] |= across[:-step]
        near[:-step] |= across[step:]
    return near
