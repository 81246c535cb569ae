"""Which keyframes see the same surface: the pairs that are worth matching."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from worldloom.generator.align.points import Patches, rays_at
from worldloom.scene.cameras import landing
from worldloom.scene.frame import invert_rigid

TARGETS = 8  # Frames in which the patches of one frame are looked for.
NEIGHBOURS = 2  # Of these, the next ones in time on either side are always taken.
OVERLAP_MIN = 0.12  # Share of the patches that must fall into the other frame.
DEPTH_RATIO = 1.25  # As in `match`.
NEAREST_M = 0.02  # Points nearer than this are not looked for.


def overlapping_pairs(
    frames: Sequence[Patches],
    c2w: NDArray[np.float64],
    K: NDArray[np.float64],
    *,
    new_from: int = 0,
    reach: int | None = None,
) -> list[tuple[int, int]]:
    """Ordered pairs (host, target) with at least one frame from `new_from` on.

    Args:
        frames: All keyframes.
        c2w: Their cameras to world, [n 4 4].
        K: Their intrinsics in pixels, [n 3 3].
        new_from: Index of the first frame that has not been matched before.
        reach: Most steps between the frames of a pair; None: any.
    """
    share = np.zeros((len(frames), len(frames)))
    w2c = [invert_rigid(matrix) for matrix in c2w]
    for i, host in enumerate(frames):
        if len(host.z) == 0:
            continue
        points = _world(host, c2w[i], K[i])
        for j, target in enumerate(frames):
            near = reach is None or abs(i - j) <= reach
            if i != j and near and (i >= new_from or j >= new_from):
                share[i, j] = _seen(points, target, w2c[j], K[j])
    pairs = set()
    for i in range(len(frames)):
        near = [j for j in range(i - NEIGHBOURS, i + NEIGHBOURS + 1) if 0 <= j < len(frames)]
        order = near + list(np.argsort(-share[i], kind="stable"))
        chosen: list[int] = []
        for j in order:
            if len(chosen) < TARGETS and j not in chosen and share[i, j] >= OVERLAP_MIN:
                chosen.append(int(j))
        pairs |= {(i, j) for j in chosen}
    return sorted(pairs)


def _world(host: Patches, c2w: NDArray[np.float64], K: NDArray[np.float64]) -> NDArray[np.float64]:
    return (rays_at(host.uv, K) * host.z[:, None]) @ c2w[:3, :3].T + c2w[:3, 3]


def _seen(
    points: NDArray[np.float64],
    target: Patches,
    w2c: NDArray[np.float64],
    K: NDArray[np.float64],
) -> float:
    """Share of world points [n 3] that the target shows at about the same depth."""
    row, column, z, inside = landing(points, K, w2c, target.depth.shape)
    inside &= z > NEAREST_M
    there = target.depth[row, column][inside]
    ratio = there / z[inside]
    same = (there > 0) & (ratio < DEPTH_RATIO) & (ratio > 1 / DEPTH_RATIO)
    return float(same.sum()) / len(points)
