"""The depth network's answer for a window -> depth and poses in the run's own units.

Spec generation 3.3. The network sees frames and the run's cameras; its depth and its
predicted cameras have units of their own. As released the scale comes from the camera centres
alone, which fails when the camera only turns (11.1, 1); the guards here are used unless
`reference_quirks` is set. Frames are OpenCV, `w2c` is world to camera, depth is along z. A scale is
always the network's units in one unit of the run: depth in the run's units is depth / scale.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from worldloom.generator.video.lyra.depth_window import usable_depth
from worldloom.scene.errors import EngineFailed
from worldloom.scene.frame import invert_rigid

Array = NDArray[np.float64]

STILL_VARIANCE = 1e-10
"""Summed variance of camera centres [units^2] below which offsets are added, as released."""
SPREAD = 1e-6
"""Amplitude of those offsets [units]."""
SPREAD_TURNS = (1.0e-5, 1.3e-5, 0.7e-5)
"""Turns a frame of the offsets' sine, cosine and sine."""
RANSAC_VIEWS, RANSAC_ROUNDS, RANSAC_SEED = 10, 10, 42
"""Views from which outliers are looked for, how often, and the seed."""
BASELINE_SHARE = 0.01
"""Guard: spread of the centres as a share of the median depth that a scale can be read from."""
SCALE_STEP = 2.0
"""Guard: a window's scale may differ from what is known by this factor at most, either way."""
OVERLAP_PIXELS = 64
"""Guard: fewest pixels valid in both depths that a ratio is taken from."""


@dataclass(frozen=True)
class Similarity:
    """x -> scale * rotation @ x + translation."""

    scale: float
    rotation: Array
    """Rotation [3 3]."""
    translation: Array
    """Translation [3] in target units."""

    def apply(self, points: Array) -> Array:
        """Points [n 3] of the source in the target."""
        return self.scale * points @ self.rotation.T + self.translation


@dataclass(frozen=True)
class WindowScale:
    """The scale of one window and where it comes from."""

    value: float
    """Network units in one unit of the run, above 0."""
    source: str
    """`poses`, `overlap`, `running` (the last window's) or `network` (taken as it is: 1)."""
    bounded: bool = False
    """The value was cut to the bound around what is known."""


@dataclass(frozen=True)
class PredictedPoses:
    """The network's own cameras in the world of the run."""

    w2c: Array
    """World to camera of every frame of the window, run units, shape [n 4 4]."""
    scale: WindowScale
    """Network units in one unit of the run; the window's depth is divided by it."""


def spread_centres(w2c: ArrayLike) -> Array:
    """Poses [n 4 4] with the released offsets on their centres where these all but coincide."""
    w2c = np.array(w2c, float)
    centres = invert_rigid(w2c)[:, :3, 3]
    if len(w2c) > 1 and centres.var(0, ddof=1).sum() >= STILL_VARIANCE:
        return w2c
    x, y, z = (2 * np.pi * turns * np.arange(len(w2c)) for turns in SPREAD_TURNS)
    offsets = SPREAD * np.stack([np.sin(x), np.cos(y), np.sin(z)], -1)
    w2c[:, :3, 3] -= np.einsum("nij,nj->ni", w2c[:, :3, :3], offsets)
    return w2c


def umeyama(source: ArrayLike, target: ArrayLike) -> Similarity:
    """The similarity that takes points [n 3] closest to others [n 3] in least squares.

    Raises:
        EngineFailed: The source points coincide, so that no scale exists.
    """
    source, target = np.asarray(source, float), np.asarray(target, float)
    a, b = source - source.mean(0), target - target.mean(0)
    spread = float((a**2).sum())
    if not spread > 0:
        raise EngineFailed(
            f"{len(source)} camera centres coincide, so the depth network's scale cannot be read "
            "from them; leave the reference quirks off to take it from known depth"
        )
    u, s, vt = np.linalg.svd(b.T @ a)
    sign = np.array([1.0, 1.0, np.sign(np.linalg.det(u) * np.linalg.det(vt))])
    rotation = (u * sign) @ vt
    scale = float((s * sign).sum()) / spread
    return Similarity(scale, rotation, target.mean(0) - scale * rotation @ source.mean(0))


def pose_scale(given_w2c: ArrayLike, predicted_w2c: ArrayLike) -> float:
    """Scale of the similarity from the run's camera centres to the predicted ones.

    From ten views on, outliers are left out: the largest set that half of the views agrees with,
    within the median distance of the aligned centres to the nearest predicted one.

    Args:
        given_w2c: The run's poses, shape [n 4 4].
        predicted_w2c: The network's poses in its own units, shape [n 4 4].

    Raises:
        EngineFailed: The run's centres coincide.
    """
    given, predicted = (invert_rigid(w)[:, :3, 3] for w in (given_w2c, predicted_w2c))
    fit = umeyama(given, predicted)
    if len(given) < RANSAC_VIEWS:
        return fit.scale
    apart = np.linalg.norm(fit.apply(given)[:, None] - predicted[None], axis=-1)
    threshold = float(np.median(apart.min(1)))
    rng = np.random.RandomState(RANSAC_SEED)
    size, best = max(3, -(-len(given) // 2)), np.zeros(len(given), bool)
    for _ in range(RANSAC_ROUNDS):
        some = rng.choice(len(given), size, replace=False)
        if np.ptp(given[some], axis=0).max() > 0:
            error = np.linalg.norm(
                umeyama(given[some], predicted[some]).apply(given) - predicted, axis=1
            )
            near = error <= threshold
            best = near if near.sum() > best.sum() else best
    if best.sum() < 3 or not np.ptp(given[best], axis=0).max() > 0:
        return fit.scale
    return umeyama(given[best], predicted[best]).scale


def baseline_share(w2c: ArrayLike, depth: ArrayLike) -> float:
    """Guard: how far camera centres spread, as a share of the median valid depth.

    Args:
        w2c: Poses, shape [n 4 4].
        depth: Depths in the same units, any shape; empty = unknown, every spread is enough.
    """
    centres = invert_rigid(w2c)[:, :3, 3]
    if not np.isfinite(centres).all():
        return 0.0
    return _share(float(np.sqrt(centres.var(0).sum())), depth)


def overlap_scale(depth: Mapping[int, ArrayLike], known: Mapping[int, ArrayLike]) -> float | None:
    """Guard: the median ratio of new depth to known depth, or None without enough common pixels.

    Args:
        depth: The network's depth by frame, each [h w].
        known: Depth in the run's units by frame, each [h w] of the same size.
    """
    ratios = []
    for frame in sorted(depth.keys() & known.keys()):
        new, valid = usable_depth(depth[frame])
        old, also = usable_depth(known[frame])
        both = valid & also
        ratios.append(new[both] / old[both])
    pooled = np.concatenate(ratios) if ratios else np.zeros(0)
    return float(np.median(pooled)) if len(pooled) >= OVERLAP_PIXELS else None


def bounded(scale: WindowScale, around: float | None) -> WindowScale:
    """Guard: a scale cut to SCALE_STEP around what is known; unchanged when nothing is known."""
    if around is None:
        return scale
    value = min(max(scale.value, around / SCALE_STEP), around * SCALE_STEP)
    return scale if value == scale.value else replace(scale, value=value, bounded=True)


def window_scale(
    frames: Sequence[int],
    given_w2c: ArrayLike,
    predicted_w2c: ArrayLike,
    depth: ArrayLike,
    known: Mapping[int, ArrayLike],
    *,
    running: float | None = None,
    reference_quirks: bool = False,
) -> WindowScale:
    """The scale of a window whose poses stay those of the run.

    As released: from the poses, whatever they are. With the guards: from the poses when both the
    run's and the predicted centres spread enough; else the median ratio on frames whose depth is
    known; else the last window's scale; else 1. The first is bounded around the ratio, or around
    the last window's scale.

    Args:
        frames: Frames of the window.
        given_w2c: The run's poses of these frames, shape [n 4 4].
        predicted_w2c: The network's poses in its own frame and units, shape [n 4 4].
        depth: The network's depth in its own units, shape [n h w].
        known: Depth by frame that is already in the cache, run units, each [h w].
        running: Scale of the window before; None = there is none.
        reference_quirks: Leave the guards out.

    Raises:
        EngineFailed: With quirks, the centres coincide in spite of the released offsets.
    """
    if reference_quirks:
        return WindowScale(pose_scale(spread_centres(given_w2c), predicted_w2c), "poses")
    depth = np.asarray(depth, float)
    ratio = overlap_scale(dict(zip(frames, depth, strict=True)), known)
    anchor = running if ratio is None else ratio
    if (
        baseline_share(predicted_w2c, depth) >= BASELINE_SHARE
        and baseline_share(given_w2c, _known_near(frames, known)) >= BASELINE_SHARE
    ):
        value = pose_scale(given_w2c, predicted_w2c)
        if np.isfinite(value) and value > 0:
            return bounded(WindowScale(value, "poses"), anchor)
    return _without_poses(ratio, running)


def in_run_units(
    depth: ArrayLike, scale: WindowScale, *, reference_quirks: bool = False
) -> tuple[Array, NDArray[np.bool_]]:
    """A window's depth [n h w] in the run's units, and where it is valid.

    Args:
        depth: The network's depth in its own units.
        scale: Scale of the window.
        reference_quirks: Keep holes as released (see `usable_depth`).
    """
    return usable_depth(np.asarray(depth, float) / scale.value, reference_quirks=reference_quirks)


def predicted_poses(
    frames: Sequence[int],
    given_w2c: ArrayLike,
    predicted_w2c: ArrayLike,
    depth: ArrayLike,
    known: Mapping[int, ArrayLike],
    *,
    anchor: int,
    running: float | None = None,
    reference_quirks: bool = False,
) -> PredictedPoses:
    """Predicted-pose mode: the network's cameras, scaled and hung on a frame of the run.

    The scale is the length of the predicted way over that of the run's. After the first chunk
    (`anchor` 0) it is taken over the whole window, later over the history only, since only its
    poses are settled. The caller overwrites the poses of the new frames; after the first chunk
    also depth and pose of cache entry 0. Guards: as `window_scale`, for a way that is too short.

    Args:
        frames: Frames of the window, ascending; `anchor` is one of them.
        given_w2c: The run's poses of these frames, shape [n 4 4].
        predicted_w2c: The network's poses in its own frame and units, shape [n 4 4].
        depth: The network's depth in its own units, shape [n h w].
        known: Depth by frame that is already in the cache, run units, each [h w].
        anchor: Last history frame: 0 after the first chunk.
        running: Scale of the window before; None = there is none.
        reference_quirks: Leave the guards out.

    Raises:
        EngineFailed: The anchor is not in the window, or, with quirks, the run does not move.
    """
    frames = list(frames)
    if anchor not in frames:
        raise EngineFailed(
            f"frame {anchor}, which the predicted poses hang on, is not among the "
            f"{len(frames)} frames of the depth window; add the chunk ends to the window"
        )
    given, predicted = np.asarray(given_w2c, float), np.asarray(predicted_w2c, float)
    counted = [i for i, f in enumerate(frames) if anchor == 0 or f <= anchor]
    lengths = [_way(w[counted]) for w in (given, predicted)]
    if reference_quirks:
        if not min(lengths) > 0:
            raise EngineFailed(
                f"the camera goes {lengths[0]:g} units and the predicted one {lengths[1]:g}, so "
                "their scale is unknown; leave the reference quirks off to take it from depth"
            )
        scale = WindowScale(lengths[1] / lengths[0], "poses")
    else:
        scale = _guarded_way(frames, lengths, depth, known, running)
    at = frames.index(anchor)
    relative = predicted @ invert_rigid(predicted[at])
    relative[:, :3, 3] /= scale.value
    return PredictedPoses(relative @ given[at], scale)


def _guarded_way(
    frames: list[int],
    lengths: list[float],
    depth: ArrayLike,
    known: Mapping[int, ArrayLike],
    running: float | None,
) -> WindowScale:
    depth = np.asarray(depth, float)
    ratio = overlap_scale(dict(zip(frames, depth, strict=True)), known)
    shares = _share(lengths[0], _known_near(frames, known)), _share(lengths[1], depth)
    if min(shares) >= BASELINE_SHARE:
        value = WindowScale(lengths[1] / lengths[0], "poses")
        return bounded(value, running if ratio is None else ratio)
    return _without_poses(ratio, running)


def _without_poses(ratio: float | None, running: float | None) -> WindowScale:
    if ratio is None:
        return WindowScale(1.0, "network") if running is None else WindowScale(running, "running")
    return bounded(WindowScale(ratio, "overlap"), running)


def _share(length: float, depth: ArrayLike) -> float:
    """A length as a share of the median valid depth; 0 when there is none or it is not finite.

    Without any depth to compare with, every length above 0 is long.
    """
    if not (np.isfinite(length) and length > 0):
        return 0.0
    kept, valid = usable_depth(depth)
    if not kept.size:
        return np.inf
    return length / float(np.median(kept[valid])) if valid.any() else 0.0


def _known_near(frames: Sequence[int], known: Mapping[int, ArrayLike]) -> Array:
    """Known depth [m h w] of the window's frames, else of the newest frame, else nothing."""
    shared = [f for f in frames if f in known] or sorted(known)[-1:]
    return np.stack([np.asarray(known[f], float) for f in shared]) if shared else np.zeros(0)


def _way(w2c: Array) -> float:
    """Length of the way of camera centres [units] through poses [n 4 4]."""
    return float(np.linalg.norm(np.diff(invert_rigid(w2c)[:, :3, 3], axis=0), axis=1).sum())
