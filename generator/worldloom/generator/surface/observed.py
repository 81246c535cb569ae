"""Rays of depth maps -> which space was seen: free, surface, or never (numba).

A robot may drive only where a camera looked, and a surface is believed only where its free side
was seen. The record is a bit for every eighth of a block (4 voxels), at the level that the
distance to the camera asks for; it grows with the frames and never forgets.
"""

from __future__ import annotations

import math

import numba as nb
import numpy as np
from numpy.typing import ArrayLike, NDArray

from worldloom.generator.surface.keys import BLOCK, find, find_or_put, new_table, pack, table_of
from worldloom.generator.surface.plan import LevelPlan

RAY_STRIDE = 3  # Pixels between rays; at the far end of a level that is one eighth of a block.
NEAREST_RAYS = 6  # Rays are thinned by 2 for every halving of the distance, so many times.
GROWTH = 2
UNSEEN, FREE, SURFACE = 0, 1, 2
"""Answers of `Observed.look`."""


class Observed:
    """The space that cameras have seen so far."""

    def __init__(self, plan: LevelPlan, origin: float) -> None:
        self.plan = plan
        self.origin = origin
        """World position of the corner of block 0 on every axis [m]."""
        self._coords = np.zeros((1024, 4), np.int32)
        self._bits = np.zeros((1024, 2), np.uint8)
        self._count = 0
        self._keys, self._values = new_table(1024)

    @property
    def coords(self) -> NDArray[np.int32]:
        """Level and coordinates of the blocks of which something was seen, [n 4]."""
        return self._coords[: self._count]

    @property
    def bits(self) -> NDArray[np.uint8]:
        """Bit 4i + 2j + k of an eighth: seen free, and surface, [n 2]."""
        return self._bits[: self._count]

    def add(self, depth: NDArray[np.float32], c2w: ArrayLike, K: ArrayLike) -> None:
        """Record what a frame saw.

        Args:
            depth: z-depth [m], 0 = unknown (says nothing), [h w].
            c2w: Camera to world, OpenCV axes, [4 4].
            K: Intrinsics in pixels, [3 3].
        """
        plan = np.array([self.plan.voxel, self.plan.levels, 0.0, self.plan.near])
        c2w, K = np.asarray(c2w, np.float64), np.asarray(K, np.float64)
        row = 0
        while row < depth.shape[0]:
            self._count, row = _march(
                depth, c2w, K, plan, self.origin, self._keys, self._values,
                self._coords, self._bits, self._count, row,
            )  # fmt: skip
            if row < depth.shape[0]:
                self._grow(GROWTH * len(self._coords))

    def look(self, points: NDArray[np.floating]) -> NDArray[np.uint8]:
        """UNSEEN, FREE or SURFACE at world points [n 3]; FREE wins, since rays went through."""
        points = np.ascontiguousarray(points, np.float64)
        return _look(
            points, self.plan.voxel, self.plan.levels, self.origin,
            self._keys, self._values, self._bits,
        )  # fmt: skip

    def arrays(self) -> dict[str, NDArray]:
        """What a checkpoint keeps."""
        return {"seen_coords": self.coords, "seen_bits": self.bits}

    def restore(self, coords: NDArray[np.int32], bits: NDArray[np.uint8]) -> None:
        """Take over what `arrays` gave."""
        self._coords, self._bits, self._count = coords.copy(), bits.copy(), len(coords)
        self._grow(max(1024, GROWTH * len(coords)))

    def coarsen(self, plan: LevelPlan) -> None:
        """Give up the finest level: `plan` has one level less and voxels twice as large."""
        coords, bits = self.coords.copy(), self.bits.copy()
        fine = coords[:, 0] == 0
        at = 4 * (coords[fine, 1] & 1) + 2 * (coords[fine, 2] & 1) + (coords[fine, 3] & 1)
        # An eighth of a parent is a whole child: free when any of it was seen free.
        bits[fine] = (bits[fine] > 0).astype(np.uint8) << at[:, None].astype(np.uint8)
        coords[fine, 1:] >>= 1
        coords[~fine, 0] -= 1
        unique, inverse = np.unique(coords, axis=0, return_inverse=True)
        merged = np.zeros((len(unique), 2), np.uint8)
        np.bitwise_or.at(merged, inverse.reshape(-1), bits)
        self.plan = plan
        self.restore(unique.astype(np.int32), merged)

    def _grow(self, capacity: int) -> None:
        for name in ("_coords", "_bits"):
            old = getattr(self, name)
            new = np.zeros((capacity, *old.shape[1:]), old.dtype)
            new[: self._count] = old[: self._count]
            setattr(self, name, new)
        self._keys, self._values = table_of(self.coords, capacity=capacity)


@nb.njit(cache=True, error_model="numpy")
def _march(depth, c2w, K, plan, origin, keys, values, coords, bits, count, start):
    """Mark what lies on the rays of one frame; returns the blocks and the row to go on with."""
    height, width = depth.shape
    voxel, levels, near = plan[0], int(plan[1]), plan[3]
    room = coords.shape[0]
    for row in range(start, height, RAY_STRIDE):
        for column in range(0, width, RAY_STRIDE):
            z = depth[row, column]
            if z <= 0:
                continue
            # Near the camera a few rays fill all of space: the others begin farther out.
            thin = 0
            while (
                thin < NEAREST_RAYS
                and not ((row // RAY_STRIDE) >> thin) & 1
                and not ((column // RAY_STRIDE) >> thin) & 1
            ):
                thin += 1
            x = (column + 0.5 - K[0, 2]) / K[0, 0]
            y = (row + 0.5 - K[1, 2]) / K[1, 1]
            length = math.sqrt(x * x + y * y + 1)
            end = z * length
            at = 0.0 if thin == NEAREST_RAYS else near / (1 << thin)
            ray = np.empty(3)
            for r in range(3):
                ray[r] = (c2w[r, 0] * x + c2w[r, 1] * y + c2w[r, 2]) / length
            done = False
            while not done:
                level, reach = 0, 2 * near
                while level < levels - 1 and min(at, end) >= reach:
                    level, reach = level + 1, 2 * reach
                half = 0.5 * BLOCK * voxel * (1 << level)
                # The last mark of every ray is the surface itself.
                done = at >= end - half
                here = end if done else at
                ci = math.floor((c2w[0, 3] + ray[0] * here - origin) / half)
                cj = math.floor((c2w[1, 3] + ray[1] * here - origin) / half)
                ck = math.floor((c2w[2, 3] + ray[2] * here - origin) / half)
                key = pack(level, ci >> 1, cj >> 1, ck >> 1)
                b = find(keys, values, key)
                if b < 0:
                    if count == room:
                        return count, row
                    b = find_or_put(keys, values, key, np.int32(count))
                    coords[b, 0], coords[b, 1] = level, ci >> 1
                    coords[b, 2], coords[b, 3] = cj >> 1, ck >> 1
                    count += 1
                octant = ((ci & 1) << 2) | ((cj & 1) << 1) | (ck & 1)
                bits[b, 1 if done else 0] |= np.uint8(1 << octant)
                at += half
    return count, height


@nb.njit(cache=True, parallel=True)
def _look(points, voxel, levels, origin, keys, values, bits):
    out = np.zeros(points.shape[0], np.uint8)
    for n in nb.prange(points.shape[0]):
        for level in range(levels):
            half = 0.5 * BLOCK * voxel * (1 << level)
            i = math.floor((points[n, 0] - origin) / half)
            j = math.floor((points[n, 1] - origin) / half)
            k = math.floor((points[n, 2] - origin) / half)
            b = find(keys, values, pack(level, i >> 1, j >> 1, k >> 1))
            if b < 0:
                continue
            octant = ((i & 1) << 2) | ((j & 1) << 1) | (k & 1)
            if (bits[b, 0] >> octant) & 1:
                out[n] = 1
                break
            if (bits[b, 1] >> octant) & 1:
                out[n] = 2
    return out
