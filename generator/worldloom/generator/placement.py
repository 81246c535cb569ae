"""New keyframes of a growing world -> all keyframes where they agree, and chunks where they stand.

What a chunk teaches about older frames moves them too: their splats follow by the transform of
their chunk, and the surface is fused anew when they have moved by more than its voxels notice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from worldloom.generator.align.align import Agreement, align_frames, corrected
from worldloom.generator.align.belief import Belief
from worldloom.generator.align.field import FieldGrid
from worldloom.generator.align.solve import Correction
from worldloom.generator.align.state import Placement
from worldloom.generator.poses.umeyama import fit_points
from worldloom.generator.splats.exposure import apply_exposure, solve_exposure
from worldloom.generator.video.frame import Frame, known_depth
from worldloom.scene.cameras import strided, unproject
from worldloom.scene.frame import rigid
from worldloom.scene.manifest import FileEntry

PROBE_STRIDE = 24  # Every so many pixels a point tells how far a frame has moved.
EXPOSURE_WITNESSES = 24  # Older frames that new ones are compared with, spread over all of them.
GAIN_NOTICED = 0.01  # Exposures that differ less than this are taken as equal.
STILL_M = 5e-4  # Chunks that moved less than this stay where they are.


@dataclass(frozen=True)
class Placed:
    """All keyframes after new ones came."""

    keyframes: list[Frame]
    """Corrected frames, oldest first."""
    placement: Placement
    agreement: Agreement
    moved: float
    """How far the older frames' surfaces moved: the largest median over a frame [m]."""


def place_keyframes(
    generated: Sequence[Frame],
    placement: Placement | None,
    *,
    chunk: int,
    belief: Belief,
    tracks: Mapping[str, NDArray[np.float64]] | None = None,
) -> Placed:
    """Let new keyframes and old ones agree.

    Args:
        generated: All keyframes as generated, the new ones last.
        placement: What is known of the older ones; None when all are new.
        chunk: Chunk of the new ones.
        belief: Trust in cameras and depth.
        tracks: Other cameras that the new ones may have, see `align_frames`.
    """
    aligned = align_frames(
        generated,
        start=None if placement is None else placement.now,
        known=() if placement is None else placement.matches,
        belief=belief,
        tracks=tracks,
    )
    old = 0 if placement is None else len(placement.chunk)
    gains = _gains(aligned.frames, None if placement is None else placement.gains)
    frames = [apply_exposure(f, gain) for f, gain in zip(aligned.frames, gains, strict=True)]
    now = aligned.correction
    chunks = np.full(len(generated), chunk)
    lifted = now
    if placement is not None:
        chunks[:old] = placement.chunk
        lifted = Correction(
            np.concatenate([placement.lifted.c2w, now.c2w[old:]]),
            np.concatenate([placement.lifted.knots, now.knots[old:]]),
        )
    moved = 0.0 if placement is None else _largest_move(generated[:old], placement.now, now)
    state = Placement(now, lifted, chunks, gains, aligned.matches)
    return Placed(frames, state, aligned.agreement, moved)


def replay(generated: Sequence[Frame], placement: Placement | None) -> list[Frame]:
    """The corrected keyframes that a placement stands for."""
    if placement is None:
        return list(generated)
    frames = corrected(generated, placement.now, _grid(generated[0]))
    return [apply_exposure(f, gain) for f, gain in zip(frames, placement.gains, strict=True)]


def between_keyframes(
    frames: Sequence[Frame], generated: Sequence[Frame], keyframes: Sequence[Frame]
) -> list[Frame]:
    """Frames between keyframes with the corrections of their neighbours in time.

    A frame that is a keyframe becomes the corrected one. Others keep what depth they have, and
    their camera takes a mean of the corrections before and after it.

    Args:
        frames: Any frames of the same video, as generated.
        generated: Keyframes as generated, in order.
        keyframes: The same, corrected.
    """
    from scipy.spatial.transform import Rotation, Slerp

    numbers = np.array([frame.frame_id for frame in generated])
    before = np.stack([frame.c2w for frame in generated])
    after = np.stack([frame.c2w for frame in keyframes])
    turns = Rotation.from_matrix(after[:, :3, :3] @ before[:, :3, :3].transpose(0, 2, 1))
    shifts = after[:, :3, 3] - before[:, :3, 3]
    known = {frame.frame_id: frame for frame in keyframes}
    wanted = np.clip([frame.frame_id for frame in frames], numbers[0], numbers[-1])
    turn = Slerp(numbers, turns)(wanted) if len(numbers) > 1 else turns[np.zeros(len(wanted), int)]
    out = []
    for i, (frame, R) in enumerate(zip(frames, turn.as_matrix(), strict=True)):
        shift = [np.interp(wanted[i], numbers, shifts[:, axis]) for axis in range(3)]
        c2w = rigid(R @ frame.c2w[:3, :3], frame.c2w[:3, 3] + np.array(shift))
        out.append(known.get(frame.frame_id, replace(frame, c2w=c2w)))
    return out


def move_chunks(
    files: Sequence[FileEntry], generated: Sequence[Frame], placement: Placement | None
) -> list[FileEntry]:
    """The files with the splats and points of every chunk where its frames stand now."""
    if placement is None:
        return list(files)
    moves = {}
    for chunk in np.unique(placement.chunk):
        part = np.nonzero(placement.chunk == chunk)[0]
        then = [_probes(generated[i], placement.lifted, i) for i in part]
        now = [_probes(generated[i], placement.now, i) for i in part]
        moves[int(chunk)] = _move(np.concatenate(then), np.concatenate(now))
    return [
        replace(entry, move=moves.get(entry.chunk or 0))
        if entry.kind in ("splats", "points")
        else entry
        for entry in files
    ]


def _move(
    then: NDArray[np.float64], now: NDArray[np.float64]
) -> tuple[tuple[float, ...], ...] | None:
    """The similarity of a chunk's points [n 3], or None when it hardly moved."""
    if len(then) < 3 or np.linalg.norm(now - then, axis=1).max() < STILL_M:
        return None
    matrix = fit_points(then, now).matrix
    return tuple(tuple(float(value) for value in row) for row in np.round(matrix, 9))


def _gains(frames: Sequence[Frame], known: NDArray[np.float64] | None) -> NDArray[np.float64]:
    """Gain [n 3] of every frame; frames with known gains keep them, their splats are coloured."""
    old = np.ones((0, 3)) if known is None else known
    witnesses = np.arange(0, len(old), max(1, -(-len(old) // EXPOSURE_WITNESSES)))
    even = [apply_exposure(frames[i], old[i]) for i in witnesses]
    new = solve_exposure([*even, *frames[len(old) :]])[len(even) :]
    if len(new) == 0 or np.abs(new - 1).max() < GAIN_NOTICED:
        new = np.ones_like(new)
    return np.concatenate([old, new])


def _probes(frame: Frame, correction: Correction, number: int) -> NDArray[np.float64]:
    """World points [n 3] of a sparse grid of pixels of a frame, as corrected."""
    s = PROBE_STRIDE
    depth = known_depth(frame.depth[::s, ::s])
    row, column = np.nonzero(depth > 0)
    index, weight = _grid(frame).weights(s * column + 0.5, s * row + 0.5)
    depth[row, column] *= np.exp(np.sum(correction.knots[number][index] * weight, 1))
    points = unproject(depth, strided(frame.K, s), correction.c2w[number])
    return points[row, column]


def _largest_move(frames: Sequence[Frame], before: Correction, after: Correction) -> float:
    """How far the surfaces of frames moved: the largest median over a frame [m]."""
    moves = [0.0]
    for i, frame in enumerate(frames):
        a, b = _probes(frame, before, i), _probes(frame, after, i)
        if len(a):
            moves.append(float(np.median(np.linalg.norm(a - b, axis=1))))
    return max(moves)


def _grid(frame: Frame) -> FieldGrid:
    height, width = frame.depth.shape
    return FieldGrid(width, height)
