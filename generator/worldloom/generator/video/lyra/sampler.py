"""Noise -> clean latents: UniPC over the shifted flow schedule, as released (spec 1.4).

The solver is linear in the latents, so it runs on the generated frames alone: the history, whose
velocity is zero, would come out unchanged.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

SIGMA_MAX = 0.999  # Largest noise level before the shift (spec generation 1.4).
TRAIN_TIMESTEPS = 1000  # Timesteps at noise level 1.


@dataclass(frozen=True)
class Schedule:
    """Noise levels of a run."""

    sigmas: Tensor
    """Float32 [steps + 1], falling, the last one 0."""
    timesteps: Tensor
    """What the network is told, int64 [steps]: truncated, as the released code does."""

    def __len__(self) -> int:
        return len(self.timesteps)


def flow_schedule(steps: int, shift: float, *, sigmas: list[float] | None = None) -> Schedule:
    """Schedule of `steps` steps; `sigmas` replaces the evenly spaced levels before the shift."""
    top = np.float64(np.float32(SIGMA_MAX))
    levels = np.linspace(top, 0.0, steps + 1)[:-1] if sigmas is None else np.asarray(sigmas, float)
    levels = shift * levels / (1 + (shift - 1) * levels)
    timesteps = torch.from_numpy(levels * TRAIN_TIMESTEPS).to(torch.int64)
    table = np.concatenate([levels, [0.0]]).astype(np.float32)
    return Schedule(torch.from_numpy(table), timesteps)


@dataclass(frozen=True)
class Past:
    """What a multistep solver remembers of one step."""

    sample: Tensor
    """Corrected latents at that step."""
    clean: Tensor
    """Clean prediction there."""
    level: int
    """Index into the schedule."""


def unipc_sample(
    velocity: Callable[[Tensor, Tensor], Tensor],
    noise: Tensor,
    schedule: Schedule,
    *,
    on_step: Callable[[int, Tensor, Tensor], None] | None = None,
) -> Tensor:
    """Integrate from `noise` to clean latents with UniPC, order 2, "bh2", with its corrector.

    Args:
        velocity: Velocity (noise minus clean) of latents at a timestep (int64 scalar tensor).
        noise: Starting latents, any shape; the solver runs in float32.
        schedule: Noise levels.
        on_step: Called with step, latents before it and their clean prediction.
    """
    sigmas = schedule.sigmas.to(noise.device)
    x, past, order = noise.float(), [], 0
    for i, timestep in enumerate(schedule.timesteps.to(noise.device)):
        clean = x - sigmas[i] * velocity(x, timestep).float()
        if on_step is not None:
            on_step(i, x, clean)
        if past:
            x = _correct(past, clean, i, order, sigmas)
        past = [*past[-1:], Past(x, clean, i)]
        order = 1 if i in (0, len(schedule) - 1) else 2
        x = _predict(past, i + 1, order, sigmas)
    return x


def _log_ratio(sigma: Tensor) -> Tensor:
    return torch.log(1 - sigma) - torch.log(sigma)


def _base(past: Past, to: int, sigmas: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """First-order step to level `to`, h, and the factor of the differences."""
    here, there = sigmas[past.level], sigmas[to]
    h = _log_ratio(there) - _log_ratio(here)
    grown = torch.expm1(-h)
    factor = (1 - there) * grown
    return there / here * past.sample - factor * past.clean, h, factor


def _slope(past: list[Past], h: Tensor, sigmas: Tensor) -> tuple[Tensor, Tensor]:
    """Difference of the two last predictions over their distance, and that distance."""
    before, last = past
    rho = (_log_ratio(sigmas[before.level]) - _log_ratio(sigmas[last.level])) / h
    return (before.clean - last.clean) / rho, rho


def _predict(past: list[Past], to: int, order: int, sigmas: Tensor) -> Tensor:
    base, h, factor = _base(past[-1], to, sigmas)
    if order == 1:
        return base
    slope, _ = _slope(past, h, sigmas)
    return base - factor * 0.5 * slope


def _correct(past: list[Past], clean: Tensor, to: int, order: int, sigmas: Tensor) -> Tensor:
    """Latents at level `to` again, now that their clean prediction is known."""
    base, h, factor = _base(past[-1], to, sigmas)
    change = clean - past[-1].clean
    if order == 1:
        return base - factor * 0.5 * change
    slope, rho = _slope(past, h, sigmas)
    grown = torch.expm1(-h)
    phi = grown / -h - 1
    b1, b2 = phi / grown, 2 * (phi / -h - 0.5) / grown
    # [[1, 1], [rho, 1]] c = [b1, b2]
    c1 = (b1 - b2) / (1 - rho)
    return base - factor * (c1 * slope + (b1 - c1) * change)


def guided(
    positive: Callable[[Tensor, Tensor], Tensor],
    negative: Callable[[Tensor, Tensor], Tensor] | None,
    guidance: float,
    *,
    always_both: bool = False,
) -> Callable[[Tensor, Tensor], Tensor]:
    """Classifier-free guidance; without a negative branch, or at 1, it costs one evaluation.

    The released code evaluates both branches even then (`always_both`).
    """
    if negative is None or (guidance == 1 and not always_both):
        return positive

    def velocity(x: Tensor, timestep: Tensor) -> Tensor:
        yes, no = positive(x, timestep).float(), negative(x, timestep).float()
        return no + guidance * (yes - no)

    return velocity


def seeded_noise(seed: int, shape: tuple[int, ...]) -> Tensor:
    """Standard normal float32 noise that is the same on every machine (spec 1.4)."""
    return torch.from_numpy(np.random.RandomState(seed).standard_normal(shape).astype(np.float32))
