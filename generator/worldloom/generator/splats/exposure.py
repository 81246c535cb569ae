"""Keyframes of uneven exposure -> one gain a frame and channel that makes them agree.

A surface point that two frames see should have one colour. For every pair of frames that share
enough of them the logarithm of the colour ratio is taken; the log gains are the robust least
squares solution over all pairs (spec reconstruction 8.8), with frame 0 as the reference.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from worldloom.generator.video.frame import Frame, known_depth
from worldloom.scene.cameras import landing, unproject
from worldloom.scene.frame import invert_rigid

PROBE_STEP = 6  # Every 6th pixel of every 6th row is asked: 2,800 of 416 x 240.
POINTS_MIN = 60  # Pairs with fewer common points say nothing.
DEPTH_AGREES = 0.04  # Relative depth difference of one surface.
RANGE = (0.06, 0.94)  # Colours outside are clipped or too dark to compare.
WINDOW = 2  # Colours are means over 5 x 5 pixels: half a pixel of misplacement must not matter.
ROUNDS = 8  # Of reweighting.
HUBER = 0.03  # Log ratio from which a pair counts less: 3 %.
PRIOR = 1e-3  # Weight of "no change", in pairs: holds frames that share nothing.
GAIN_MAX = 2.0  # Larger gains are a wrong match, not an exposure.


@dataclass(frozen=True)
class _Pairs:
    first: NDArray[np.int64]
    second: NDArray[np.int64]
    ratio: NDArray[np.float64]
    """Median of log colour of the first minus that of the second, [p 3]."""
    weight: NDArray[np.float64]
    """Certainty, [p]."""


def solve_exposure(frames: Sequence[Frame]) -> NDArray[np.float64]:
    """Gain [n 3] per frame and channel; 1 for frame 0 and for frames that share nothing.

    Args:
        frames: Keyframes with depth and aligned cameras.
    """
    n = len(frames)
    pairs = _pairs(frames)
    if len(pairs.ratio) == 0:
        return np.ones((n, 3))
    log_gain = np.stack([_solve(pairs, pairs.ratio[:, c], n) for c in range(3)], 1)
    log_gain = np.clip(log_gain, -np.log(GAIN_MAX), np.log(GAIN_MAX))
    return np.exp(log_gain)


def apply_exposure(frame: Frame, gain: NDArray[np.floating]) -> Frame:
    """The frame with its colours times `gain` [3], kept in 0..1."""
    rgb = np.clip(frame.rgb * np.asarray(gain, np.float32), 0, 1).astype(np.float32)
    return replace(frame, rgb=rgb)


def _solve(pairs: _Pairs, ratio: NDArray[np.float64], n: int) -> NDArray[np.float64]:
    """Log gains [n] with gain_i - gain_j = -ratio, Huber weights, the first one 0."""
    gain = np.zeros(n)
    for _ in range(ROUNDS):
        rest = np.abs(gain[pairs.first] - gain[pairs.second] + ratio)
        w = pairs.weight * np.minimum(1, HUBER / np.maximum(rest, 1e-12))
        normal, right = np.eye(n) * PRIOR, np.zeros(n)
        np.add.at(normal, (pairs.first, pairs.first), w)
        np.add.at(normal, (pairs.second, pairs.second), w)
        np.add.at(normal, (pairs.first, pairs.second), -w)
        np.add.at(normal, (pairs.second, pairs.first), -w)
        np.add.at(right, pairs.first, -w * ratio)
        np.add.at(right, pairs.second, w * ratio)
        gain[1:] = np.linalg.solve(normal[1:, 1:], right[1:])
    return gain


def _pairs(frames: Sequence[Frame]) -> _Pairs:
    """All pairs of frames that see enough of the same surface."""
    colours = [_smooth(frame) for frame in frames]
    depths = [known_depth(frame.depth) for frame in frames]
    found = []
    for i, frame in enumerate(frames):
        points, own = _probes(frame, depths[i], colours[i])
        for j, other in enumerate(frames):
            if j == i or len(points) < POINTS_MIN:
                continue
            theirs, seen = _look_up(points, other, depths[j], colours[j])
            usable = seen & _fair(own) & _fair(theirs)
            if usable.sum() < POINTS_MIN:
                continue
            log = np.log(own[usable]) - np.log(theirs[usable])
            found.append((i, j, np.median(log, 0), np.sqrt(usable.mean())))
    if not found:
        nothing = np.zeros(0, np.int64)
        return _Pairs(nothing, nothing, np.zeros((0, 3)), np.zeros(0))
    first, second, ratio, weight = zip(*found, strict=True)
    return _Pairs(np.array(first), np.array(second), np.array(ratio), np.array(weight))


def _smooth(frame: Frame) -> NDArray[np.float32]:
    """Mean colours of 5 x 5 pixels, [h w 3]."""
    from scipy.ndimage import uniform_filter

    rgb = np.where(np.isfinite(frame.rgb), frame.rgb, 0).astype(np.float32)
    side = 2 * WINDOW + 1
    return uniform_filter(rgb, (side, side, 1), mode="nearest")


def _probes(
    frame: Frame, depth: NDArray[np.float32], colour: NDArray[np.float32]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Points [m 3] in the world and colours [m 3] of a grid of pixels."""
    grid = np.zeros(depth.shape, bool)
    grid[PROBE_STEP // 2 :: PROBE_STEP, PROBE_STEP // 2 :: PROBE_STEP] = True
    chosen = grid & (depth > 0)
    return unproject(depth, frame.K, frame.c2w)[chosen], colour[chosen].astype(np.float64)


def _look_up(
    points: NDArray[np.float64],
    frame: Frame,
    depth: NDArray[np.float32],
    colour: NDArray[np.float32],
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Colours [m 3] that a frame shows at points [m 3], and where it sees their surface, [m]."""
    row, column, z, inside = landing(points, frame.K, invert_rigid(frame.c2w), depth.shape)
    seen = inside & (np.abs(depth[row, column] - z) <= DEPTH_AGREES * z)
    return colour[row, column].astype(np.float64), seen


def _fair(colour: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Colours [m 3] that are neither clipped nor too dark."""
    return ((colour > RANGE[0]) & (colour < RANGE[1])).all(1)
