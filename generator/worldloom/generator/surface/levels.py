"""Depth maps as they come -> signed distances on sparse 8^3 blocks of several voxel sizes.

Level l has voxels of `voxel * 2^l`. A pixel makes blocks at the level of its distance to the
camera; every block that lies in a picture is updated by it, whatever its level. So surface is fine
where a camera came near and coarse where none did, a later and nearer camera adds finer blocks,
and all levels are means of the same observations.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from worldloom.generator.surface.coarsen import one_level_less
from worldloom.generator.surface.depthmaps import depth_geometry, footprint
from worldloom.generator.surface.integrate import (
    VOTE_MAX,
    VOTE_MIN,
    farthest,
    integrate,
    refine,
    touch,
    unbalanced,
)
from worldloom.generator.surface.keys import BLOCK, SPAN, new_table, table_of
from worldloom.generator.surface.observed import Observed
from worldloom.generator.surface.plan import LevelPlan
from worldloom.generator.surface.silhouettes import front_edges
from worldloom.scene.cameras import npz_bytes
from worldloom.scene.errors import CorruptData, EngineFailed
from worldloom.scene.frame import invert_rigid
from worldloom.scene.worldfolder import write_whole

FACING_MIN = 0.08  # Cosine below which a pixel tells too little of where the surface is.
SILHOUETTE_PX = 1  # So near the end of a surface a slanted pixel may curve away,
SILHOUETTE_FACING = 0.35  # if the cosine is below this (about 70 degrees).
EDGE_FACING = 0.6  # Pixels at the edge itself must face the camera as much as this (53 degrees).
CARVE_RATIO = 4.0  # Votes for free space over votes for surface that delete a voxel (spec 4.2).
FREE_MIN_VOTES = 0.5  # Fewer free-space votes (one look from 1.4 near distances) delete nothing.
OPEN_MIN_VOTES = 0.05  # What cameras only looked through is free space above so many votes.
CARVED, OPEN = -1.0, -2.0
"""Codes in place of weights, see `LevelVolume.measured`."""
GROWTH = 1.5  # Arrays grow by this factor, so that copying stays a small share.
FIELDS = ("tsdf", "weight", "free", "rgb")
OFFSET_VOXELS = 0.5
"""The lattice is shifted by this, so that a floor at z = 0 does not run through its points."""


class LevelVolume:
    """The running fusion of all depth maps so far."""

    def __init__(self, plan: LevelPlan) -> None:
        self.plan = plan
        self.coords = np.zeros((0, 4), np.int32)
        """Level and block coordinates; sample (i, j, k) of block b is at
        `origin + (8 b + ijk) voxel 2^level`."""
        self.tsdf = np.zeros((0, BLOCK**3), np.float32)
        """Signed distance over the truncation of its level, -1..1."""
        self.weight = np.zeros((0, BLOCK**3), np.float32)
        """Votes for surface here; a pixel at near distance that faces the camera gives 1."""
        self.free = np.zeros((0, BLOCK**3), np.float32)
        """Votes that a sample is free space."""
        self.rgb = np.zeros((0, BLOCK**3, 3), np.uint16)
        """Mean sRGB colour, 0..65535."""
        self.origin = OFFSET_VOXELS * plan.voxel
        """World position of sample 0 of block 0 on every axis [m]."""
        self.observed = Observed(plan, self.origin)
        """Which space was seen."""
        self.coarsened = 0
        """How many times the finest level was given up to stay within the block limit."""
        self._count = 0
        self._keys, self._values = new_table(1024)
        self._room = 1024

    @property
    def blocks(self) -> int:
        """Number of blocks in use."""
        return self._count

    @property
    def table(self) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        """The hash of block numbers, see `keys.find`."""
        return self._keys, self._values

    def integrate(
        self,
        depth: NDArray[np.float32],
        rgb: NDArray[np.floating],
        c2w: ArrayLike,
        K: ArrayLike,
        *,
        weight: NDArray[np.float32] | None = None,
    ) -> None:
        """Fuse one frame.

        Args:
            depth: z-depth in metres, [h w]; 0, negative, NaN and inf = none.
            rgb: sRGB 0..1, [h w 3].
            c2w: Camera to world, OpenCV axes, [4 4].
            K: Intrinsics in pixels, [3 3].
            weight: Trust in each pixel, 0..1, [h w]; None trusts all.

        Raises:
            EngineFailed: The camera is not finite, or the world needs more blocks than the memory
                bound allows even at the coarsest level.
        """
        c2w, K = np.asarray(c2w, np.float64), np.asarray(K, np.float64)
        self._check_camera(c2w, K)
        depth = self._usable(depth, c2w, K)
        geometry = depth_geometry(depth, K)
        good = geometry.sound & (geometry.facing > FACING_MIN)
        # Just inside a silhouette the surface curves away from its tangent plane: a pixel there
        # would draw a fin behind the object where no other camera contradicts it.
        brink = _within(front_edges(depth), SILHOUETTE_PX)
        least = np.where(geometry.valid, SILHOUETTE_FACING, EDGE_FACING)
        good &= ~brink | (geometry.facing > least)
        if weight is not None:
            good &= weight > 0
        self.observed.add(depth, c2w, K)
        if not good.any():
            return
        kept = np.where(good, depth, np.float32(0))
        spacing = footprint(depth, K) / np.maximum(geometry.facing, FACING_MIN)
        self._touch(kept, geometry.facing, spacing.astype(np.float32), c2w, K)
        inverse = np.where(good, 1 / np.maximum(depth, 1e-6), 0).astype(np.float32)
        amount = np.clip((self.plan.near * inverse) ** 2, VOTE_MIN, VOTE_MAX)
        if weight is not None:
            amount = amount * weight
        integrate(
            self.tsdf, self.weight, self.free, self.rgb, self.coords, self._count,
            np.where(geometry.valid, inverse, -inverse),
            geometry.facing, geometry.normal, amount.astype(np.float32),
            np.ascontiguousarray(rgb, np.float32), farthest(inverse, geometry.facing),
            invert_rigid(c2w), K, self._numbers(), self.origin,
        )  # fmt: skip

    def measured(self) -> NDArray[np.float32]:
        """Weights [b 512], or CARVED where more cameras looked through than at it, or OPEN.

        Only samples behind a surface can make a floater; one in front of it is free by nature and
        stays as the outer side of the crossing. OPEN samples were only ever looked through.
        """
        n = self._count
        weight = self.weight[:n].copy()
        carved = (self.free[:n] > CARVE_RATIO * weight) & (self.free[:n] > FREE_MIN_VOTES)
        weight[carved & (self.tsdf[:n] < 0) & (weight > 0)] = CARVED
        weight[(weight == 0) & (self.free[:n] > OPEN_MIN_VOTES)] = OPEN
        return weight

    def save(self, file: Path) -> None:
        """Write the state to a checkpoint; equal states give equal bytes.

        Raises:
            StorageFull: No space is left.
        """
        plan = asdict(self.plan)
        arrays = {
            "plan": np.array(list(plan.values()), np.float64),
            "origin": np.array([self.origin, self.coarsened]),
            "coords": self.coords[: self._count],
        }
        arrays |= {name: getattr(self, name)[: self._count] for name in FIELDS}
        write_whole(file, npz_bytes(arrays | self.observed.arrays()))

    @staticmethod
    def load(file: Path) -> LevelVolume:
        """Read the state back.

        Raises:
            CorruptData: The file is not what `save` wrote.
        """
        try:
            with np.load(file, allow_pickle=False) as data:
                voxel, levels, truncation, near, limit = data["plan"].tolist()
                plan = LevelPlan(voxel, int(levels), truncation, near, int(limit))
                volume = LevelVolume(plan)
                volume.origin = volume.observed.origin = float(data["origin"][0])
                volume.coarsened = int(data["origin"][1])
                for name in ("coords", *FIELDS):
                    setattr(volume, name, data[name])
                volume.observed.restore(data["seen_coords"], data["seen_bits"])
        except (KeyError, ValueError, OSError) as error:
            raise CorruptData(f"{file} is not the state of a surface: {error}") from error
        volume._count = len(volume.coords)
        volume._index(max(1024, 2 * volume._count))
        return volume

    def _numbers(self) -> NDArray[np.float64]:
        plan = self.plan
        return np.array([plan.voxel, plan.levels, plan.truncation, plan.near])

    def _check_camera(self, c2w: NDArray[np.float64], K: NDArray[np.float64]) -> None:
        reach = 0.5 * SPAN * BLOCK * self.plan.voxel
        if not (np.isfinite(c2w).all() and np.isfinite(K).all() and K[0, 0] > 0 and K[1, 1] > 0):
            raise EngineFailed("the pose or the intrinsics of a frame are not finite numbers")
        if np.abs(c2w[:3, 3]).max() > reach:
            raise EngineFailed(
                f"a camera is {np.abs(c2w[:3, 3]).max():.0f} m from the start; voxels of "
                f"{self.plan.voxel:.4f} m reach {reach:.0f} m. Use a larger voxel"
            )

    def _usable(
        self, depth: NDArray[np.float32], c2w: NDArray[np.float64], K: NDArray[np.float64]
    ) -> NDArray[np.float32]:
        """Depth [h w] with 0 for all that is no distance, or lies beyond the block index."""
        depth = np.asarray(depth, np.float32)
        reach = 0.2 * SPAN * BLOCK * self.plan.voxel
        with np.errstate(invalid="ignore"):
            fine = np.isfinite(depth) & (depth > 0) & (depth < reach)
        return np.where(fine, depth, np.float32(0))

    def _touch(
        self,
        depth: NDArray[np.float32],
        facing: NDArray[np.float32],
        spacing: NDArray[np.float32],
        c2w: NDArray[np.float64],
        K: NDArray[np.float64],
    ) -> None:
        """Add the blocks that a frame needs, within the memory bound."""
        row, first = 0, self._count
        while row < depth.shape[0]:
            new, row = touch(
                depth, facing, spacing, c2w, K, self._numbers(), self.origin,
                self._keys, self._values, row, self._count, self._room,
            )  # fmt: skip
            if self._count + len(new) > self.plan.max_blocks:
                self._coarsen()
                row, first = 0, self._count
                continue
            self._append(new)
            if row < depth.shape[0]:
                self._index(2 * self._room + 16 * depth.shape[1])
        self._balance(first)
        if self._count > first:
            new = np.arange(first, self._count)
            # A coarse block is started before the finer ones that may begin from it.
            order = new[np.argsort(-self.coords[new, 0], kind="stable")]
            refine(
                self.tsdf, self.weight, self.free, self.rgb, self.coords,
                self._keys, self._values, order,
            )  # fmt: skip

    def _balance(self, first: int) -> None:
        """Add what keeps neighbouring leaves within one level, if blocks were added."""
        unfinished = self._count > first
        levels = int(self.coords[: self._count, 0].max(initial=0)) + 1
        while unfinished and levels > 2:
            new, unfinished = unbalanced(
                self.coords, self._count, levels, self._keys, self._values, self._room
            )
            self._append(new)
            if unfinished:
                self._index(2 * self._room)

    def _append(self, new: NDArray[np.int32]) -> None:
        total = self._count + len(new)
        if total > len(self.coords):
            self._grow(max(total, int(GROWTH * len(self.coords))))
        self.coords[self._count : total] = new
        self._count = total

    def _grow(self, capacity: int) -> None:
        for name in ("coords", *FIELDS):
            old = getattr(self, name)
            new = np.zeros((capacity, *old.shape[1:]), old.dtype)
            new[: self._count] = old[: self._count]
            setattr(self, name, new)

    def _index(self, room: int) -> None:
        """Make the table anew, with space for `room` blocks."""
        self._room = room
        self._keys, self._values = table_of(self.coords[: self._count], capacity=room)

    def _coarsen(self) -> None:
        """Give up the finest level: a quarter of the memory, half the detail nearby."""
        plan = self.plan
        if plan.levels == 1:
            raise EngineFailed(
                f"the surface needs more than {plan.max_blocks} blocks of {BLOCK}^3 voxels of "
                f"{plan.voxel * 100:.1f} cm, the coarsest that was planned. Use quality draft, a "
                "shorter path, or a smaller far limit"
            )
        self.plan = replace(plan, voxel=2 * plan.voxel, levels=plan.levels - 1, near=2 * plan.near)
        fields = {name: getattr(self, name)[: self._count] for name in FIELDS}
        self.coords, fields = one_level_less(self.coords[: self._count], fields)
        for name, array in fields.items():
            setattr(self, name, array)
        self._count = len(self.coords)
        # Votes are counted in units of a look from near distance, which is now twice as far.
        self.weight *= 4
        self.free *= 4
        self.observed.coarsen(self.plan)
        self.coarsened += 1
        self._index(max(1024, 2 * self._count))


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
