"""One chunk's keyframes -> running sums: what is lifted to splats, what is fused to a surface."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from worldloom.generator.align.belief import Belief
from worldloom.generator.checkpoint import Growth
from worldloom.generator.engines import QualityLevel
from worldloom.generator.placement import Placed, between_keyframes, move_chunks, place_keyframes
from worldloom.generator.seams import SplatLifter
from worldloom.generator.seed import Seed
from worldloom.generator.splats.build import chunk_splats
from worldloom.generator.splats.covered import Covered
from worldloom.generator.splats.thin import thin_splats
from worldloom.generator.surface.levels import LevelVolume
from worldloom.generator.surface.plan import plan_levels
from worldloom.generator.video.frame import Frame
from worldloom.scene.cameras import Cameras
from worldloom.scene.splats import Splats

NEAR_PERCENTILE = 10  # Depth percentile that counts as near (spec reconstruction 4.2).
REFUSE_VOXELS = 0.05  # Older frames that moved further than this are fused anew.


@dataclass(frozen=True)
class Recipe:
    """How this job turns keyframes into geometry."""

    level: QualityLevel
    collider_triangles: int
    flatten_floor_m: float = 0.0
    """Height up to which the surface near z = 0 is put onto it; 0 where the floor is free [m]."""
    belief: Belief | None = None
    """How far cameras and depth of new frames are trusted; None: they agree by construction."""


def start_growth(seed: Seed, level: QualityLevel) -> Growth:
    """An empty world whose voxels fit the pixels of the photo."""
    depths = seed.depth[seed.depth > 0]
    near = float(np.percentile(depths, NEAR_PERCENTILE)) if depths.size else 1.0
    plan = plan_levels(near, float(seed.K[0, 0]), level.voxel_m)
    nothing = Cameras(
        np.zeros((0, 4, 4)), np.zeros((0, 3, 3)), np.zeros((0, 2), int), np.zeros(0, int)
    )
    return Growth(
        volume=LevelVolume(plan),
        covered=Covered(),
        cameras=nothing,
        generated=[],
        keyframes=[],
        files=[],
        tiles={},
        weights=seed.weights,
    )


def place_frames(
    growth: Growth,
    frames: list[Frame],
    recipe: Recipe,
    chunk: int,
    *,
    lifter: SplatLifter | None = None,
) -> Placed | None:
    """Take new keyframes in and make all agree; None where the engine's frames need no help.

    What a lifter sees of the cameras is tried beside the commanded ones.
    """
    last = growth.keyframes[-1:]
    growth.generated = growth.generated + frames
    if recipe.belief is None:
        growth.keyframes = growth.keyframes + frames
        return None
    seen = {} if lifter is None or not last else {"seen": lifter.track([*last, *frames])[1:]}
    placed = place_keyframes(
        growth.generated, growth.placement, chunk=chunk, belief=recipe.belief, tracks=seen
    )
    growth.keyframes, growth.placement = placed.keyframes, placed.placement
    growth.files = move_chunks(growth.files, growth.generated, growth.placement)
    return placed


def lift_new(
    growth: Growth, count: int, *, window: Sequence[Frame] = (), lifter: SplatLifter | None = None
) -> Splats:
    """Splats of what the newest `count` keyframes show for the first time.

    Args:
        growth: The world, keyframes placed.
        count: Number of new keyframes.
        window: Frames of the same chunk for the lifter, as generated.
        lifter: Makes the splats; None: every pixel of a keyframe becomes a disc.
    """
    new, context = growth.keyframes[-count:], growth.keyframes[:-count]
    if lifter is None or not window:
        return chunk_splats(new, covered=growth.covered, context=context)
    placed = between_keyframes(window, growth.generated, growth.keyframes)
    return thin_splats(lifter(placed), [*context, *new], covered=growth.covered)


def fuse_new(growth: Growth, count: int, recipe: Recipe, moved: float) -> None:
    """Fuse the newest `count` keyframes, or all anew if the older ones have moved by `moved` m."""
    frames = growth.keyframes[-count:]
    if moved > REFUSE_VOXELS * growth.volume.plan.voxel:
        growth.volume = LevelVolume(growth.volume.plan)
        frames = growth.keyframes
    for frame in frames:
        depth = np.where(frame.depth <= recipe.level.far_m, frame.depth, 0.0)
        growth.volume.integrate(depth.astype(np.float32), frame.rgb, frame.c2w, frame.K)
