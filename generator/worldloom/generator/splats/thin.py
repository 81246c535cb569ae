"""Splats that a network made of overlapping frames -> fewer that say the same.

A network gives a splat for every second pixel of every frame, so each surface comes as often as it
was seen. What older chunks show as finely is left out; the rest is pruned and merged.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from worldloom.generator.splats.build import SplatOptions, usable
from worldloom.generator.splats.covered import FINER, Covered
from worldloom.generator.splats.lift import SIGMA_PX
from worldloom.generator.splats.merge import Marks, adaptive_groups, merge_groups
from worldloom.generator.splats.prune import keep_splats
from worldloom.generator.video.frame import Frame
from worldloom.scene.splats import Splats

DEFAULTS = SplatOptions()
NEAR_FOOTPRINTS = 1.0  # A splat with an older one so near, in its own size, shows nothing new.


def thin_splats(
    splats: Splats,
    frames: Sequence[Frame],
    *,
    covered: Covered,
    options: SplatOptions = DEFAULTS,
) -> Splats:
    """The splats of one chunk that are needed; `covered` learns of them.

    Args:
        splats: What the network gave, in the world.
        frames: Keyframes that may see them: witnesses for pruning.
        covered: What earlier chunks have given.
        options: What to prune and merge.
    """
    splats = splats.select(np.isfinite(splats.means).all(1) & (splats.scales > 0).all(1))
    if options.prune and splats.n:
        splats = splats.select(keep_splats(splats, [usable(frame) for frame in frames]))
    splats = splats.select(~_shown(splats, covered))
    if splats.n == 0:
        return splats
    fineness = _footprint(splats)
    covered.add(splats.means, fineness)
    if not options.merge:
        return splats
    marks = Marks(weight=splats.opacities / fineness**2, footprint=fineness)
    groups = adaptive_groups(
        splats, wanted=round(options.share * splats.n), error=options.error,
        error_max=options.error_max,
    )  # fmt: skip
    return merge_groups(splats, marks, groups)[0]


def _footprint(splats: Splats) -> NDArray[np.float32]:
    """Side of the pixel that a splat stands for [m], from its two larger axes, [n]."""
    axes = np.sort(splats.scales, axis=1)[:, 1:]
    return (np.sqrt(axes[:, 0] * axes[:, 1]) / SIGMA_PX).astype(np.float32)


def _shown(splats: Splats, covered: Covered) -> NDArray[np.bool_]:
    """Splats [n] whose place holds an older one of similar or finer size."""
    from scipy.spatial import cKDTree

    if splats.n == 0 or len(covered.points) == 0:
        return np.zeros(splats.n, bool)
    size = _footprint(splats)
    distance, nearest = cKDTree(covered.points).query(splats.means, workers=-1)
    finer = covered.fineness[nearest] <= FINER * size
    return finer & (distance <= NEAR_FOOTPRINTS * size)
