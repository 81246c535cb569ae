"""Matches and what is believed beforehand -> cameras and depth fields (Gauss-Newton, dense).

The unknowns are few (about a hundred for a keyframe), so the normal equations are solved directly.
Residuals are reweighted by a Cauchy loss: repeated texture gives matches that are plainly wrong.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from worldloom.generator.align.belief import Belief
from worldloom.generator.align.field import FieldGrid
from worldloom.generator.align.match import Matches
from worldloom.generator.align.normal import POSE, add_matches, all_residuals
from worldloom.generator.align.points import rays_at
from worldloom.scene.frame import invert_rigid, rigid, rotation_about

STEPS = 8
SETTLED = 3e-5  # Gauss-Newton ends when no camera moves by more [rad, m].
DAMPING = 1e-6  # Of the diagonal of the normal matrix.


@dataclass(frozen=True)
class Correction:
    """Corrected cameras and the knots of the depth fields."""

    c2w: NDArray[np.float64]
    """Cameras to world, [n 4 4]."""
    knots: NDArray[np.float64]
    """Knot values of the logarithmic depth fields, [n k]."""


@dataclass(frozen=True)
class Table:
    """Matches of all pairs in arrays."""

    host: NDArray[np.int64]
    target: NDArray[np.int64]
    rays: NDArray[np.float64]
    z: NDArray[np.float64]
    seen: NDArray[np.float64]
    seen_z: NDArray[np.float64]
    knot_host: NDArray[np.int32]
    weight_host: NDArray[np.float64]
    knot_target: NDArray[np.int32]
    weight_target: NDArray[np.float64]


def tabulate(matches: Sequence[Matches], K: NDArray[np.float64], grid: FieldGrid) -> Table:
    """Matches of all pairs, with rays and the knots that reach them."""
    counts = [len(m.z) for m in matches]
    host = np.repeat([m.host for m in matches], counts).astype(np.int64)
    target = np.repeat([m.target for m in matches], counts).astype(np.int64)
    uv = np.concatenate([m.uv for m in matches])
    seen = np.concatenate([m.seen for m in matches])
    return Table(
        host, target, rays_at(uv, K[host]),
        np.concatenate([m.z for m in matches]), seen,
        np.concatenate([m.seen_z for m in matches]),
        *grid.weights(uv[:, 0], uv[:, 1]), *grid.weights(seen[:, 0], seen[:, 1]),
    )  # fmt: skip


def residuals(
    table: Table, K: NDArray[np.float64], state: Correction
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Misses of all matches in pixels [m] and in log depth [m]; nan where there is none."""
    pixels, depths = all_residuals(*_geometry(table, K, state))
    return np.linalg.norm(pixels, axis=1), np.abs(depths)


def solve(
    table: Table,
    state: Correction,
    K: NDArray[np.float64],
    commanded: NDArray[np.float64],
    grid: FieldGrid,
    belief: Belief,
    free: NDArray[np.bool_],
    anchored: int,
) -> Correction:
    """The most likely cameras and fields.

    Args:
        table: Matches of all pairs.
        state: Where to start.
        K: Intrinsics in pixels, [n 3 3].
        commanded: Cameras that were asked for, [n 4 4].
        grid: Knots of the fields.
        belief: Trust in each input, `centre` in metres.
        free: Frames that may change, [n]; the others are taken as right.
        anchored: So many first frames keep their camera.
    """
    start = np.where(free, (np.cumsum(free) - 1) * (POSE + grid.knots), -1).astype(np.int64)
    size = int(free.sum()) * (POSE + grid.knots)
    if size == 0 or len(table.z) == 0:
        return state
    smooth = _field_prior(grid, belief)
    for _ in range(STEPS):
        H, g = np.zeros((size, size)), np.zeros(size)
        weights = _weights(table, K, state, belief)
        add_matches(
            H, g, *_geometry(table, K, state), table.knot_host, table.weight_host,
            table.knot_target, table.weight_target, start, *weights,
        )  # fmt: skip
        _add_beliefs(H, g, state, commanded, start, smooth, belief)
        _hold_cameras(H, g, start[:anchored])
        step = _descend(H, g)
        state = _moved(state, step, start)
        if np.abs(step.reshape(-1, POSE + grid.knots)[:, :POSE]).max() < SETTLED:
            break
    return state


def _geometry(table: Table, K: NDArray[np.float64], state: Correction) -> tuple:
    """What the compiled functions take first."""
    field_host = np.sum(state.knots[table.host[:, None], table.knot_host] * table.weight_host, 1)
    field_target = np.sum(
        state.knots[table.target[:, None], table.knot_target] * table.weight_target, 1
    )
    R = np.ascontiguousarray(state.c2w[:, :3, :3])
    c = np.ascontiguousarray(state.c2w[:, :3, 3])
    return (
        R, c, np.ascontiguousarray(K), table.host, table.target, table.rays, table.z, table.seen,
        table.seen_z, field_host, field_target,
    )  # fmt: skip


def _weights(
    table: Table, K: NDArray[np.float64], state: Correction, belief: Belief
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Inverse variances [m] of places and depths, times the weights of the Cauchy loss."""
    pixel, depth = residuals(table, K, state)
    out = []
    for miss, sigma in ((pixel, belief.pixel), (depth, belief.depth)):
        spread = max(sigma, 1.5 * float(np.nanmedian(miss)) if np.isfinite(miss).any() else sigma)
        weight = 1 / (1 + (miss / (2.5 * spread)) ** 2) / spread**2
        out.append(np.where(np.isfinite(miss), weight, 0.0))
    return out[0], out[1]


def _field_prior(grid: FieldGrid, belief: Belief) -> NDArray[np.float64]:
    """Inverse covariance [k k] of the knots of one field."""
    rough = grid.roughness()
    return np.eye(grid.knots) / belief.field**2 + rough.T @ rough / belief.roughness**2


def _add_beliefs(
    H: NDArray[np.float64],
    g: NDArray[np.float64],
    state: Correction,
    commanded: NDArray[np.float64],
    start: NDArray[np.int64],
    smooth: NDArray[np.float64],
    belief: Belief,
) -> None:
    turn, shift = 1 / np.radians(belief.turn_deg) ** 2, 1 / belief.centre**2
    for frame in np.nonzero(start >= 0)[0]:
        first = start[frame]
        away = invert_rigid(commanded[frame]) @ state.c2w[frame]
        # In the camera's own axes a shift by v moves the centre by R v.
        moved = state.c2w[frame, :3, :3].T @ (state.c2w[frame, :3, 3] - commanded[frame, :3, 3])
        for offset, miss, weight in ((0, _log_turn(away[:3, :3]), turn), (3, moved, shift)):
            part = slice(first + offset, first + offset + 3)
            H[part, part] += weight * np.eye(3)
            g[part] -= weight * miss
        part = slice(first + POSE, first + POSE + len(smooth))
        H[part, part] += smooth
        g[part] -= smooth @ state.knots[frame]


def _hold_cameras(H: NDArray[np.float64], g: NDArray[np.float64], start: NDArray[np.int64]) -> None:
    """Take the cameras whose unknowns begin at `start` out of the system."""
    for first in start[start >= 0]:
        part = slice(first, first + POSE)
        H[part] = 0
        H[:, part] = 0
        H[part, part] = np.eye(POSE)
        g[part] = 0


def _descend(H: NDArray[np.float64], g: NDArray[np.float64]) -> NDArray[np.float64]:
    from scipy.linalg import cho_factor, cho_solve

    H[np.diag_indices_from(H)] *= 1 + DAMPING
    return cho_solve(cho_factor(H, overwrite_a=True, check_finite=False), g, check_finite=False)


def _moved(state: Correction, step: NDArray[np.float64], start: NDArray[np.int64]) -> Correction:
    c2w, knots = state.c2w.copy(), state.knots.copy()
    for frame in np.nonzero(start >= 0)[0]:
        part = step[start[frame] : start[frame] + POSE + knots.shape[1]]
        c2w[frame] = c2w[frame] @ rigid(_turn(part[:3]), part[3:POSE])
        knots[frame] += part[POSE:]
    return Correction(c2w, knots)


def _turn(w: NDArray[np.float64]) -> NDArray[np.float64]:
    angle = float(np.linalg.norm(w))
    return rotation_about(w / angle, angle) if angle > 1e-15 else np.eye(3)


def _log_turn(R: NDArray[np.float64]) -> NDArray[np.float64]:
    from scipy.spatial.transform import Rotation

    return Rotation.from_matrix(R).as_rotvec()
