"""Noise -> clean latents in four steps: the distilled sampler and its scheduler (spec 1.4, 8.7)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

STEPS = (1000, 750, 500, 250)  # Entries of the table, before the shift (spec generation 1.4).
SHIFT = 5.0  # Fixed by the distilled weights.
TRAIN_TIMESTEPS = 1000
SIGMA_MIN_DEFAULT = 0.003 / 1.002  # Smallest level of the plain table.


@dataclass(frozen=True)
class FlowTable:
    """A table of noise levels with the look-ups of the distilled scheduler."""

    sigmas: Tensor
    """Float32 [n]."""
    timesteps: Tensor
    """1000 sigmas, float32 [n]."""
    final: float
    """Level after the last entry."""

    @staticmethod
    def make(
        count: int,
        shift: float,
        *,
        sigma_min: float = SIGMA_MIN_DEFAULT,
        extra_one_step: bool = False,
        inverse: bool = False,
        reverse: bool = False,
    ) -> FlowTable:
        """Evenly spaced levels from 1 to `sigma_min`, shifted.

        Args:
            count: Entries.
            shift: Of the flow schedule.
            sigma_min: Last level before the shift.
            extra_one_step: Leave out the last of `count` + 1 levels.
            inverse: Count the levels from the end.
            reverse: Take one minus the levels.
        """
        levels = torch.linspace(1.0, sigma_min, count + int(extra_one_step))[:count]
        levels = levels.flip(0) if inverse else levels
        sigmas = shift * levels / (1 + (shift - 1) * levels)
        sigmas = 1 - sigmas if reverse else sigmas
        return FlowTable(sigmas, sigmas * TRAIN_TIMESTEPS, 1.0 if inverse or reverse else 0.0)

    def index(self, timesteps: Tensor) -> Tensor:
        """Nearest entry of each timestep [n]."""
        table = self.timesteps.to(timesteps.device)
        return (table[None] - timesteps.reshape(-1, 1)).abs().argmin(1)

    def level(self, timesteps: Tensor, like: Tensor) -> Tensor:
        """Noise level of each timestep, shaped to multiply `like` [n ...]."""
        sigmas = self.sigmas.to(like.device)[self.index(timesteps)]
        return sigmas.view(-1, *(1,) * (like.ndim - 1))

    def add_noise(self, clean: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """`clean` [n ...] at the noise level of each timestep."""
        sigma = self.level(timesteps, clean)
        return ((1 - sigma) * clean + sigma * noise).to(noise.dtype)

    def clean(self, velocity: Tensor, x: Tensor, timesteps: Tensor) -> Tensor:
        """Clean prediction of latents [n ...], reckoned in float64."""
        sigma = self.level(timesteps, x).double()
        return (x.double() - sigma * velocity.double()).to(x.dtype)

    def step(
        self, velocity: Tensor, x: Tensor, timesteps: Tensor, *, to_final: bool = False
    ) -> Tensor:
        """Euler step to the next entry; when any item is at the last one, all go to the end."""
        index = self.index(timesteps)
        sigma = self.level(timesteps, x)
        if to_final or bool((index + 1 >= len(self.sigmas)).any()):
            target: Tensor | float = self.final
        else:
            target = self.sigmas.to(x.device)[index + 1].view_as(sigma)
        return x + velocity * (target - sigma)

    def training_weights(self) -> Tensor:
        """Weight of every entry: a bell around the middle, mean 1 (spec generation 8.1)."""
        t = self.timesteps
        bell = torch.exp(-2 * ((t - len(t) / 2) / len(t)) ** 2)
        bell = bell - bell.min()
        return bell * (len(t) / bell.sum())


def released_table() -> FlowTable:
    """The table that the distilled weights were trained with."""
    return FlowTable.make(TRAIN_TIMESTEPS, SHIFT, sigma_min=0.0, extra_one_step=True)


def distilled_timesteps(table: FlowTable) -> Tensor:
    """The four timesteps, float32."""
    return torch.stack([table.timesteps[TRAIN_TIMESTEPS - step] for step in STEPS])


def distilled_sample(
    velocity: Callable[[Tensor, Tensor], Tensor],
    noise: Tensor,
    fresh: Callable[[int], Tensor],
    *,
    on_step: Callable[[int, Tensor], None] | None = None,
) -> Tensor:
    """Clean latents in four evaluations.

    Args:
        velocity: Velocity of latents at a timestep (float32 scalar tensor).
        noise: Starting latents [B C T h w].
        fresh: New noise after call i, shaped like `noise`.
        on_step: Called with step and clean prediction.
    """
    table = released_table()
    times = distilled_timesteps(table).to(noise.device)
    x = noise.float()
    for i, timestep in enumerate(times):
        clean = table.clean(velocity(x, timestep).float(), x, timestep)
        if on_step is not None:
            on_step(i, clean)
        if i + 1 < len(times):
            x = table.add_noise(clean, fresh(i).to(clean), times[i + 1])
    return clean


def fresh_noise(seed: int, shape: tuple[int, ...]) -> Callable[[int], Tensor]:
    """Noise for each call of one chunk, from its seed alone.

    The released code draws from the global generator, so its result depends on what ran before.
    """
    generator = torch.Generator().manual_seed(seed)
    return lambda _: torch.randn(shape, generator=generator)
