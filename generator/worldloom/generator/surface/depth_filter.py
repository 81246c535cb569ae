"""Depth maps of many frames -> what of them deserves to be fused, and how much it is trusted.

Spec reconstruction 4.2, Depth maps: no depth edges, no grazing surfaces, and where several frames
look at a place at least two of them must agree on it. What no other frame looks at is kept: a
first frame, or the far end of a view, has no witness.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numba as nb
import numpy as np
from numpy.typing import NDArray

from worldloom.generator.surface.depthmaps import depth_geometry
from worldloom.generator.video.frame import known_depth
from worldloom.scene.frame import invert_rigid

FACING_MIN = 0.17  # Cosine of 80 degrees (spec 4.2).
EDGE_PX = 1  # Pixels beside a depth edge that are dropped with it.
AGREE_SHARE = 0.02  # Relative depth difference of frames that agree (spec 4.2).
WITNESSES = 6  # Frames that are asked about each frame: those that look most alike.
SEVERAL = 2  # So many other frames must look at a place before their word counts.
TURN_MOST = 0.5  # Cosine between viewing directions below which frames see little in common.


class DepthFrame(Protocol):
    """A depth map [h w] in metres with its camera; a Frame is one."""

    depth: NDArray[np.float32]
    c2w: NDArray[np.float64]
    K: NDArray[np.float64]


@dataclass(frozen=True)
class FilteredDepth:
    """One depth map, ready to be fused."""

    depth: NDArray[np.float32]
    """z-depth [m], 0 where there is none or it is not believed, [h w]."""
    weight: NDArray[np.float32]
    """Trust, 0..1: the share of the frames that look at the place and agree, [h w]."""


def filter_depth(
    frames: Sequence[DepthFrame], *, agree_share: float = AGREE_SHARE
) -> list[FilteredDepth]:
    """Keep what is a surface, is not seen edge-on, and is not contradicted.

    NaN, infinite and negative depth count as none.

    Args:
        frames: All frames that may bear witness to each other.
        agree_share: Relative depth difference within which two frames mean the same surface.
    """
    depths = [known_depth(frame.depth) for frame in frames]
    w2c = [invert_rigid(frame.c2w) for frame in frames]
    out = []
    for n, frame in enumerate(frames):
        depth = _own_filter(depths[n], frame)
        agree = np.zeros(depth.shape, np.uint8)
        against = np.zeros(depth.shape, np.uint8)
        for m in _witnesses(frames, n):
            _ask(
                depth, np.asarray(frame.K, np.float64), w2c[m] @ frame.c2w,
                depths[m], np.asarray(frames[m].K, np.float64), agree_share, agree, against,
            )  # fmt: skip
        alone = (agree == 0) & (against >= SEVERAL)
        weight = (1.0 + agree) / (1.0 + agree + against)
        depth[alone] = 0
        weight[depth == 0] = 0
        out.append(FilteredDepth(depth, weight.astype(np.float32)))
    return out


def _own_filter(depth: NDArray[np.float32], frame: DepthFrame) -> NDArray[np.float32]:
    """What a frame can be believed by itself: no edges, nothing edge-on."""
    geometry = depth_geometry(depth, frame.K)
    edge = (depth > 0) & ~geometry.valid
    wide = edge.copy()
    for _ in range(EDGE_PX):
        wide[1:] |= edge[:-1]
        wide[:-1] |= edge[1:]
        wide[:, 1:] |= edge[:, :-1]
        wide[:, :-1] |= edge[:, 1:]
        edge = wide.copy()
    good = geometry.valid & ~wide & (geometry.facing > FACING_MIN)
    return np.where(good, depth, np.float32(0))


def _witnesses(frames: Sequence[DepthFrame], n: int) -> list[int]:
    """The other frames that look most alike: similar direction, then near."""
    here = frames[n].c2w
    rows = []
    for m, frame in enumerate(frames):
        along = float(frame.c2w[:3, 2] @ here[:3, 2])
        away = float(np.linalg.norm(frame.c2w[:3, 3] - here[:3, 3]))
        if m != n and along > TURN_MOST:
            rows.append((away + (1 - along), m))
    return [m for _, m in sorted(rows)[:WITNESSES]]


@nb.njit(cache=True, parallel=True, error_model="numpy")
def _ask(depth, K, there, other, K_other, share, agree, against):
    """Count, for each pixel [h w], whether another frame agrees with it or looks through it.

    `there` takes points of this camera to the other. A surface in front of the point hides it and
    says nothing; a surface behind it says that the point is not there.
    """
    height, width = depth.shape
    for row in nb.prange(height):
        for column in range(width):
            z = depth[row, column]
            if z <= 0:
                continue
            x = (column + 0.5 - K[0, 2]) / K[0, 0] * z
            y = (row + 0.5 - K[1, 2]) / K[1, 1] * z
            q = np.empty(3)
            for r in range(3):
                q[r] = there[r, 0] * x + there[r, 1] * y + there[r, 2] * z + there[r, 3]
            if q[2] <= 0:
                continue
            u = int(np.floor(K_other[0, 0] * q[0] / q[2] + K_other[0, 2]))
            v = int(np.floor(K_other[1, 1] * q[1] / q[2] + K_other[1, 2]))
            if u < 1 or v < 1 or u >= other.shape[1] - 1 or v >= other.shape[0] - 1:
                continue
            # Any pixel within one of the place may show it (spec: reprojection within 1.5 px).
            least, most = np.inf, 0.0
            for i in range(v - 1, v + 2):
                for j in range(u - 1, u + 2):
                    if other[i, j] > 0:
                        least, most = min(least, other[i, j]), max(most, other[i, j])
            if most == 0:
                continue
            if least * (1 - share) <= q[2] <= most * (1 + share):
                agree[row, column] += 1
            elif q[2] < least:
                against[row, column] += 1
