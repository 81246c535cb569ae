"""Several tracks of cameras for the same frames -> the one with which their depth agrees best.

Spec reconstruction 3.3. The cost of a track over pairs of frames that overlap by 30 % or more: the
median of |z_warped - z| / z, and 0.2 (1 - correlation of grey levels). A window keeps the track of
the window before unless another is better by 5 %.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from worldloom.generator.video.frame import Frame
from worldloom.scene.cameras import landing, unproject
from worldloom.scene.errors import InvalidRequest
from worldloom.scene.frame import invert_rigid

OVERLAP_MIN = 0.30  # Share of a frame that must fall into the other (spec 3.3).
COLOUR_SHARE = 0.2  # Weight of the photometric part (spec 3.3).
HYSTERESIS = 0.05  # A new track must be better by this share (spec 3.3).
PROBE_STRIDE = 6  # Every so many pixels of every so many rows is warped.
HIDDEN_RATIO = 1.2  # A surface so much nearer or farther is another one.
LEAST_POINTS = 40  # Pairs with fewer common points say nothing.
LUMA = np.array([0.299, 0.587, 0.114])  # Rec. 601 weights.


@dataclass(frozen=True)
class Choice:
    """The chosen track of one window."""

    name: str
    costs: dict[str, float]
    """Cost of every track; inf where no pair of frames says anything."""


def track_cost(frames: Sequence[Frame], c2w: ArrayLike) -> float:
    """How badly frames agree when their cameras stand at `c2w` [n 4 4]; inf if nothing overlaps."""
    cameras = np.asarray(c2w, float)
    depth_miss, colour_miss = [], []
    for i, host in enumerate(frames):
        grid = np.zeros(host.depth.shape, bool)
        grid[PROBE_STRIDE // 2 :: PROBE_STRIDE, PROBE_STRIDE // 2 :: PROBE_STRIDE] = True
        chosen = grid & np.isfinite(host.depth) & (host.depth > 0)
        points = unproject(host.depth, host.K, cameras[i])[chosen]
        grey = host.rgb[chosen] @ LUMA
        for j, target in enumerate(frames):
            if i == j or len(points) == 0:
                continue
            found = _compare(points, grey, target, cameras[j])
            if found is not None:
                depth_miss.append(found[0])
                colour_miss.append(found[1])
    if not depth_miss:
        return float("inf")
    return float(np.median(depth_miss) + COLOUR_SHARE * (1 - np.median(colour_miss)))


def choose_track(
    frames: Sequence[Frame],
    tracks: Mapping[str, ArrayLike],
    *,
    before: str | None = None,
) -> Choice:
    """The track of cameras with which the frames agree best.

    Args:
        frames: Frames of one window with depth.
        tracks: Cameras to world [n 4 4] by name; the first is taken when nothing can be told.
        before: Track of the window before; it stays unless another is 5 % better.

    Raises:
        InvalidRequest: There is no track, or one has another number of cameras than frames.
    """
    if not tracks:
        raise InvalidRequest("no camera track was given to choose from; give at least one")
    for name, cameras in tracks.items():
        if np.shape(cameras) != (len(frames), 4, 4):
            raise InvalidRequest(
                f"track {name!r} has shape {np.shape(cameras)}; {len(frames)} frames need "
                f"({len(frames)}, 4, 4)"
            )
    costs = {name: track_cost(frames, cameras) for name, cameras in tracks.items()}
    best = min(costs, key=lambda name: costs[name])
    if before in costs and costs[best] > (1 - HYSTERESIS) * costs[before]:
        best = before
    return Choice(best, costs)


def _compare(
    points: NDArray[np.float64], grey: NDArray[np.float64], target: Frame, c2w: NDArray[np.float64]
) -> tuple[float, float] | None:
    """Median relative depth miss and grey correlation of warped points; None with too few."""
    row, column, z, inside = landing(points, target.K, invert_rigid(c2w), target.depth.shape)
    if inside.mean() < OVERLAP_MIN:
        return None
    row, column, warped = row[inside], column[inside], z[inside]
    there = target.depth[row, column]
    same = np.isfinite(there) & (there > 0)
    ratio = warped / np.where(same, there, 1)
    same &= (ratio < HIDDEN_RATIO) & (ratio > 1 / HIDDEN_RATIO)
    if same.sum() < LEAST_POINTS:
        return None
    seen, own = (target.rgb[row, column] @ LUMA)[same], grey[inside][same]
    spread = float(seen.std() * own.std())
    alike = float(((seen - seen.mean()) * (own - own.mean())).mean()) / spread if spread else 0.0
    return float(np.median(np.abs(ratio[same] - 1))), alike
