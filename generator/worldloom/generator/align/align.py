"""Keyframes as they were generated -> keyframes that agree with each other.

Two rounds: a wide search for few patches, from the commanded cameras, brings the frames close; a
narrow search for all patches, from the result, makes them agree to a fraction of a pixel. What one
chunk has learnt is where the next one starts, so that a growing world pays for its new frames only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from worldloom.generator.align.belief import Belief
from worldloom.generator.align.field import FieldGrid
from worldloom.generator.align.match import Matches, match_patches
from worldloom.generator.align.pairs import overlapping_pairs
from worldloom.generator.align.points import NO_PATCHES, Patches, find_patches, halved
from worldloom.generator.align.solve import Correction, residuals, solve, tabulate
from worldloom.generator.poses.select import choose_track
from worldloom.generator.video.frame import Frame
from worldloom.scene.frame import invert_rigid

WIDE_SHARE = 0.045  # Radius of the first round's search as a share of the width.
NARROW_PX = 3  # Radius of the later rounds.
NARROW_ROUNDS = 2
FREE_FRAMES = 96
"""Newest keyframes that are solved for; older ones too if a new frame sees what they saw."""
AGREED_PX, AGREED_DEPTH = 0.35, 0.006
"""Median misses below which frames agree and are left alone."""
MATCHES_MIN = 40  # Fewer matches than this of a chunk's frames tell nothing.


@dataclass(frozen=True)
class Agreement:
    """How well frames agree, before and after."""

    matches: int
    pixels_before: float
    """Median miss of patches [px]."""
    pixels_after: float
    depth_before: float
    """Median relative miss of depth."""
    depth_after: float
    track: str = "commanded"
    """Where the new frames' cameras began: `commanded`, `carried`, or a track that was given."""

    @property
    def changed(self) -> bool:
        """Whether the frames were corrected at all."""
        return (self.pixels_before, self.depth_before) != (self.pixels_after, self.depth_after)


@dataclass(frozen=True)
class Aligned:
    """The result of one alignment."""

    frames: list[Frame]
    """The frames with corrected cameras and depth."""
    correction: Correction
    agreement: Agreement
    matches: tuple[Matches, ...]
    """All matches so far; what a later call takes as `known`."""


def align_frames(
    frames: Sequence[Frame],
    *,
    start: Correction | None = None,
    known: Sequence[Matches] = (),
    belief: Belief | None = None,
    anchored: int = 1,
    reach: int | None = None,
    tracks: Mapping[str, NDArray[np.float64]] | None = None,
) -> Aligned:
    """Correct cameras and smooth depth errors of keyframes jointly.

    Args:
        frames: Keyframes as generated, all of one size.
        start: Correction of the first frames from an earlier call; the others start uncorrected.
        known: Matches among those first frames, which are not looked for again.
        belief: Trust in cameras and depth.
        anchored: So many first frames keep their camera; the world hangs on them.
        reach: Most steps between keyframes that are compared; None: any, so that loops close.
        tracks: Other cameras [m 4 4] that the m frames after those of `start` may have, by name;
            the depth of the frames decides with which they begin.
    """
    belief = belief or Belief()
    K = np.stack([frame.K for frame in frames])
    commanded = np.stack([frame.c2w for frame in frames])
    height, width = frames[0].depth.shape
    grid = FieldGrid(width, height)
    state, track = begin = _begin(frames, commanded, grid, start, tracks or {})
    old = 0 if start is None else len(start.c2w)
    patches = [find_patches(frame) for frame in frames]
    belief = belief.in_metres(_middle_depth(patches))
    pairs = overlapping_pairs(patches, state.c2w, K, new_from=old, reach=reach)
    wide = _match_wide(frames, pairs, state, grid)
    before = _agreement(wide, K, state, grid)
    if before is None or (before[0] < AGREED_PX and before[1] < AGREED_DEPTH):
        count = sum(len(m.z) for m in wide)
        return _unchanged(frames, begin, grid, before or (0.0, 0.0), count, known)
    free = _free(len(frames), pairs, old)
    system = (K, commanded, grid, belief, free, anchored)
    state = solve(tabulate([*known, *wide], K, grid), state, *system)
    for _ in range(NARROW_ROUNDS):
        pairs = overlapping_pairs(patches, state.c2w, K, new_from=old, reach=reach)
        fine = _match(patches, pairs, K, state, grid, NARROW_PX)
        table = tabulate([*known, *fine], K, grid)
        state = solve(table, state, *system)
    pixel, depth = residuals(table, K, state)
    after = float(np.nanmedian(pixel)), float(np.nanmedian(depth))
    if after[0] >= before[0]:
        return _unchanged(frames, begin, grid, before, len(table.z), known)
    told = Agreement(len(table.z), before[0], after[0], before[1], after[1], track)
    return Aligned(corrected(frames, state, grid), state, told, (*known, *fine))


def _unchanged(
    frames: Sequence[Frame],
    begin: tuple[Correction, str],
    grid: FieldGrid,
    miss: tuple[float, float],
    count: int,
    known: Sequence[Matches],
) -> Aligned:
    """Frames with no more than what an earlier call has corrected."""
    state, track = begin
    same = Agreement(count, miss[0], miss[0], miss[1], miss[1], track)
    return Aligned(corrected(frames, state, grid), state, same, tuple(known))


def corrected(frames: Sequence[Frame], state: Correction, grid: FieldGrid) -> list[Frame]:
    """The frames with their corrected cameras and depth."""
    out = []
    for frame, c2w, knots in zip(frames, state.c2w, state.knots, strict=True):
        depth = (frame.depth * np.exp(grid.dense(knots))).astype(np.float32)
        out.append(replace(frame, depth=depth, c2w=c2w))
    return out


def _free(count: int, pairs: Sequence[tuple[int, int]], old: int) -> NDArray[np.bool_]:
    """Frames [count] that are solved for: the newest, and those that new frames look at again."""
    free = np.arange(count) >= min(count - FREE_FRAMES, old)
    for i, j in pairs:
        free[i] = free[j] = True
    return free


def _middle_depth(patches: Sequence[Patches]) -> float:
    """Median depth of all patches [m]; 1 where there are none."""
    z = np.concatenate([frame.z for frame in patches])
    return float(np.median(z)) if z.size else 1.0


def _begin(
    frames: Sequence[Frame],
    commanded: NDArray[np.float64],
    grid: FieldGrid,
    start: Correction | None,
    others: Mapping[str, NDArray[np.float64]],
) -> tuple[Correction, str]:
    """Where to start: known frames as they are, new ones on the track that fits best; its name.

    A video that has drifted goes on from where it is, so the last correction is worth a try.
    """
    knots = np.zeros((len(commanded), grid.knots))
    if start is None:
        return Correction(commanded.copy(), knots), "commanded"
    known = len(start.c2w)
    knots[:known] = start.knots
    new = commanded[known:]
    if len(new) == 0:
        return Correction(start.c2w.copy(), knots), "commanded"
    last = start.c2w[-1]
    carried = new @ (invert_rigid(commanded[known - 1]) @ last)
    tracks = {"commanded": new, "carried": carried, **others}
    joined = {name: np.concatenate([last[None], c2w]) for name, c2w in tracks.items()}
    best = choose_track(frames[known - 1 :], joined).name
    return Correction(np.concatenate([start.c2w, tracks[best]]), knots), best


def _match(
    patches: Sequence[Patches],
    pairs: Sequence[tuple[int, int]],
    K: NDArray[np.float64],
    state: Correction,
    grid: FieldGrid,
    radius: int,
) -> list[Matches]:
    """Matches of all pairs from the present state; those without any are left out."""
    scales = []
    for frame, knots in zip(patches, state.knots, strict=True):
        index, weight = grid.weights(frame.uv[:, 0], frame.uv[:, 1])
        scales.append(np.exp(np.sum(knots[index] * weight, 1)))
    out = []
    for i, j in pairs:
        found = match_patches(
            patches[i], patches[j], K[i], K[j], invert_rigid(state.c2w[j]) @ state.c2w[i],
            scale=scales[i], radius=radius, pair=(i, j),
        )  # fmt: skip
        if len(found.z):
            out.append(found)
    return out


def _match_wide(
    frames: Sequence[Frame],
    pairs: Sequence[tuple[int, int]],
    state: Correction,
    grid: FieldGrid,
) -> list[Matches]:
    """Matches found by a wide search in the halved frames, in pixels of the whole ones."""
    used = sorted({i for pair in pairs for i in pair})
    small = [halved(frame) if i in used else None for i, frame in enumerate(frames)]
    patches = [NO_PATCHES if frame is None else find_patches(frame) for frame in small]
    K = np.stack([frame.K / [[2.0], [2.0], [1.0]] for frame in frames])
    half = FieldGrid(grid.width // 2, grid.height // 2)
    radius = round(WIDE_SHARE * half.width)
    found = _match(patches, pairs, K, state, half, radius)
    return [matches.doubled() for matches in found]


def _agreement(
    matches: Sequence[Matches], K: NDArray[np.float64], state: Correction, grid: FieldGrid
) -> tuple[float, float] | None:
    """Median misses in pixels and relative depth; None when there is too little to tell."""
    if sum(len(m.z) for m in matches) < MATCHES_MIN:
        return None
    pixel, depth = residuals(tabulate(matches, K, grid), K, state)
    if not np.isfinite(depth).any():
        return float(np.nanmedian(pixel)), 0.0
    return float(np.nanmedian(pixel)), float(np.nanmedian(depth))
