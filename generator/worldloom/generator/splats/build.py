"""Keyframes of one chunk -> the splats that the world gains: lift, prune, merge."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from worldloom.generator.splats.covered import Covered
from worldloom.generator.splats.lift import lift_frames
from worldloom.generator.splats.merge import Marks, adaptive_groups, merge_groups
from worldloom.generator.splats.prune import keep_splats
from worldloom.generator.video.frame import ORIGIN_NONE, Frame, known_depth
from worldloom.scene.splats import Splats


@dataclass(frozen=True)
class SplatOptions:
    """How keyframes become splats."""

    prune: bool = True
    """Whether splats that other views contradict are left out."""
    merge: bool = True
    """Whether splats that look alike are joined."""
    error: float = 4e-4
    """Joins are made up to this cost in any case [squared sRGB colour, over the joined pixels]."""
    error_max: float = 2.5e-2
    """Joins cost at most this while there are more splats than `share` allows."""
    share: float = 0.22
    """Splats wanted, of the pixels with a surface in the chunk's frames."""


def chunk_splats(
    frames: Sequence[Frame],
    *,
    covered: Covered,
    context: Sequence[Frame] = (),
    options: SplatOptions = SplatOptions(),
) -> Splats:
    """Splats of the surfaces that `frames` show for the first time; `covered` learns of them.

    The same frames give the same splats on any number of threads.

    Args:
        frames: Keyframes of one chunk, in order, exposure already even.
        covered: What earlier chunks have given.
        context: Older keyframes that may see the same surfaces: witnesses for pruning.
        options: What to prune and merge.
    """
    frames = [usable(frame) for frame in frames]
    before = covered.n
    splats = lift_frames(frames, covered=covered)
    if options.prune:
        keep = keep_splats(splats, [*context, *frames])
        covered.keep_new(before, keep)
        splats = splats.select(keep)
    if not options.merge or splats.n == 0:
        return splats
    fineness = covered.fineness[before:]
    marks = Marks(weight=splats.opacities / fineness**2, footprint=fineness)
    pixels = sum(int((frame.depth > 0).sum()) for frame in frames)
    groups = adaptive_groups(
        splats, wanted=round(options.share * pixels), error=options.error,
        error_max=options.error_max,
    )  # fmt: skip
    return merge_groups(splats, marks, groups)[0]


def usable(frame: Frame) -> Frame:
    """The frame with no surface where a depth or colour is not a number that can be drawn."""
    depth = known_depth(frame.depth)
    shown = np.isfinite(frame.rgb).all(-1) & (depth > 0)
    if shown.all():
        return replace(frame, depth=depth)
    return replace(
        frame,
        rgb=np.where(np.isfinite(frame.rgb), frame.rgb, 0).astype(np.float32),
        depth=np.where(shown, depth, 0).astype(np.float32),
        origin=np.where(shown, frame.origin, ORIGIN_NONE).astype(np.uint8),
    )
