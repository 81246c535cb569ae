"""Numbers drawn -> time, weight, interpolation and target of rectified-flow training (spec 8.1)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from worldloom.generator.video.lyra.distilled import TRAIN_TIMESTEPS, FlowTable
from worldloom.scene.errors import InvalidRequest

RELEASED_SHIFT = 5.0  # Spec generation 8.1.
AUGMENT_MOST = 500.0  # Largest timestep of a self-augmented history (spec generation 8.3).
DISTRIBUTIONS = ("logitnormal", "uniform")
WEIGHTS = ("reweighting", "uniform")


@dataclass(frozen=True)
class TrainingFlow:
    """Which noise levels are trained, how often, and how much each counts."""

    table: FlowTable
    """Falling levels; entry 0 is pure noise."""
    weights: Tensor
    """Weight of the loss for every entry, mean 1, float32 [n]."""
    distribution: str
    """How u in [0, 1) is drawn: `logitnormal` or `uniform`."""

    @staticmethod
    def make(
        *,
        shift: float = RELEASED_SHIFT,
        distribution: str = "logitnormal",
        weight: str = "reweighting",
        count: int = TRAIN_TIMESTEPS,
    ) -> TrainingFlow:
        """The quantities of a configuration; the defaults are those of the release.

        Raises:
            InvalidRequest: A name is unknown, or the shift is not positive.
        """
        if not shift > 0:
            raise InvalidRequest(f"flow.shift is {shift}; it must be above 0, 5 is usual")
        _known("flow.distribution", distribution, DISTRIBUTIONS)
        _known("flow.weight", weight, WEIGHTS)
        table = FlowTable.make(count, shift, sigma_min=0.0, extra_one_step=True)
        bell = table.training_weights() if weight == "reweighting" else torch.ones(count)
        return TrainingFlow(table, bell, distribution)

    def position(self, draw: Tensor) -> Tensor:
        """Position u in the table of a standard normal draw, or of a uniform one as it is."""
        return torch.sigmoid(draw) if self.distribution == "logitnormal" else draw

    def timestep(self, u: Tensor) -> Tensor:
        """Timestep [n] of positions u [n] in [0, 1): small u is much noise."""
        last = len(self.table.timesteps) - 1
        index = (u * (last + 1)).long().clamp(0, last)
        return self.table.timesteps.to(u.device)[index]

    def sigma(self, timestep: Tensor) -> Tensor:
        """Noise level [n] of timesteps [n], that of the nearest entry."""
        return self.table.sigmas.to(timestep.device)[self.table.index(timestep)]

    def weight(self, timestep: Tensor) -> Tensor:
        """Weight of the loss [n] at timesteps [n]."""
        return self.weights.to(timestep.device)[self.table.index(timestep)]

    def milder(self, timestep: Tensor, *, most: float = AUGMENT_MOST) -> Tensor:
        """Timestep [n] of a self-augmented history: scaled to `most`, whole, a table entry."""
        scaled = torch.floor(timestep * (most / TRAIN_TIMESTEPS)).clamp_min(1.0)
        return self.table.timesteps.to(timestep.device)[self.table.index(scaled)]


def interpolate(clean: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
    """Latents [n ...] at noise levels `sigma` [n]: sigma noise + (1 - sigma) clean."""
    s = sigma.view(-1, *(1,) * (clean.ndim - 1)).to(clean.dtype)
    return s * noise + (1 - s) * clean


def target(clean: Tensor, noise: Tensor) -> Tensor:
    """The velocity to learn."""
    return noise - clean


def clean_from(x: Tensor, velocity: Tensor, sigma: Tensor) -> Tensor:
    """Clean prediction of latents [n ...] at levels `sigma` [n], reckoned in float64."""
    s = sigma.view(-1, *(1,) * (x.ndim - 1)).double()
    return (x.double() - s * velocity.double()).to(x.dtype)


def weighted_loss(velocity: Tensor, wanted: Tensor, weight: Tensor) -> Tensor:
    """Mean squared error of velocities [n ...], every item times its weight [n]; a scalar."""
    error = (velocity.float() - wanted.float()).square().flatten(1).mean(1)
    return (weight * error).mean()


def _known(field: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise InvalidRequest(f"{field} is {value!r}; use one of: {', '.join(known)}", field=field)
