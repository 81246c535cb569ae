"""How fine a surface is fused where: voxel, levels and truncation by distance to the cameras."""

from __future__ import annotations

import math
from dataclasses import dataclass

from worldloom.scene.errors import EngineFailed

VOXEL_PER_FOOTPRINT = 1.5  # Voxel over pixel footprint (spec reconstruction 4.2).
TRUNCATION_VOXELS = 4.0  # Truncation distance in voxels (spec reconstruction 4.2).
LEVELS = 6  # The coarsest voxel is 32 times the finest (spec reconstruction 4.2: 5 to 7).
MAX_LEVELS = 8  # What the keys of the block index have room for.
MAX_BLOCKS = 120_000  # 1.1 GB of voxels.
VOXELS_TO_NEAR = 25  # A scene of a few centimetres gets a voxel that is small for it.
FAR_FIELD_M = 12.0  # Surface that no camera came nearer than this is far field.


@dataclass(frozen=True)
class LevelPlan:
    """The voxel pyramid of one world: level l has voxels of `voxel * 2^l`."""

    voxel: float
    """Side of a voxel of level 0 [m]."""
    levels: int = LEVELS
    """Number of levels."""
    truncation: float = TRUNCATION_VOXELS
    """Distance at which signed distances are cut, in voxels of their level."""
    near: float = 4.0
    """Level l is for surface that was seen from `near * 2^l` to twice that [m]; 0 also nearer."""
    max_blocks: int = MAX_BLOCKS
    """Most blocks of 8^3 voxels in memory; beyond, the finest level is given up."""

    def __post_init__(self) -> None:
        """Raise EngineFailed for a plan that cannot be worked with."""
        if not (0 < self.voxel < math.inf and 0 < self.near < math.inf):
            raise EngineFailed(
                f"a surface needs a voxel and a near distance above 0; these are {self.voxel} m "
                f"and {self.near} m. Check the depth of the first frame"
            )
        if not 1 <= self.levels <= MAX_LEVELS:
            raise EngineFailed(f"a surface has 1 to {MAX_LEVELS} levels; {self.levels} were asked")

    def voxel_at(self, level: int) -> float:
        """Side of a voxel of a level [m]."""
        return self.voxel * 2**level

    def truncation_at(self, level: int) -> float:
        """Distance at which signed distances of a level are cut [m]."""
        return self.truncation * self.voxel_at(level)

    def level_of(self, distance: float) -> int:
        """Level of a surface point at `distance` [m] from the camera (spec 4.2, Levels)."""
        level = math.floor(math.log2(max(1.0, distance / self.near)))
        return min(level, self.levels - 1)

    @property
    def far_level(self) -> int:
        """First level whose surface was seen from no nearer than `FAR_FIELD_M`."""
        return max(1, math.ceil(math.log2(max(FAR_FIELD_M / self.near, 1.0))))


def plan_levels(
    near_depth: float, focal_px: float, voxel_m: tuple[float, float], *, levels: int = LEVELS
) -> LevelPlan:
    """The plan that fits the pixels of a photo.

    The voxel is 1.5 pixel footprints at near depth, within bounds; coarser levels begin where the
    voxel no longer exceeds the footprint by as much.

    Args:
        near_depth: Depth that counts as near [m]; the spec takes the 10th percentile.
        focal_px: Focal length of the frames [px].
        voxel_m: Smallest and largest voxel of level 0 [m].
        levels: Number of levels.

    Raises:
        EngineFailed: The depth or the focal length is not a positive number.
    """
    if not (0 < near_depth < math.inf and 0 < focal_px < math.inf):
        raise EngineFailed(
            f"the near depth is {near_depth} m and the focal length {focal_px} px; both must be "
            "numbers above 0. Check the depth and the intrinsics of the first frame"
        )
    smallest = min(voxel_m[0], near_depth / VOXELS_TO_NEAR)
    voxel = min(max(VOXEL_PER_FOOTPRINT * near_depth / focal_px, smallest), voxel_m[1])
    return LevelPlan(voxel, levels, near=voxel * focal_px / VOXEL_PER_FOOTPRINT)
