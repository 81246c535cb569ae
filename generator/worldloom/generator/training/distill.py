"""A teacher -> a student that needs four steps, by matching distributions (spec 8.7).

The release has the four-step sampler and no code that trains for it; this is our own. The student's
clean predictions are noised again, and two networks say where they should go: the teacher knows the
true distribution, and a third network, trained all the while on the student's output, knows the
student's. Their difference is the gradient of the divergence between the two (Yin et al. 2024).
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from worldloom.generator.training.draws import Draws
from worldloom.generator.training.flow import (
    TrainingFlow,
    clean_from,
    interpolate,
    target,
    weighted_loss,
)
from worldloom.generator.training.optim import make_optimizer, tame_gradients
from worldloom.generator.training.settings import OptimSettings
from worldloom.generator.video.lyra.distilled import (
    TRAIN_TIMESTEPS,
    distilled_timesteps,
    released_table,
)
from worldloom.scene.errors import EngineFailed

LEAST_SCALE = 1e-3  # Smallest divisor of the gradient: the teacher may agree with the student.

Velocity = Callable[[nn.Module, Tensor, Tensor], Tensor]
"""Network, noisy latents [n ...] and timesteps [n] -> velocity; it knows what is being shown."""


@dataclass(frozen=True)
class DistillSettings:
    """How a student is trained."""

    student: OptimSettings
    critic: OptimSettings
    critic_steps: int = 2
    """Steps of the third network per step of the student: it must keep up."""
    low: float = 0.02
    """Lowest noise level at which distributions are compared."""
    high: float = 0.98
    """Highest noise level at which distributions are compared."""


@dataclass
class Distiller:
    """Teacher, student and the network that follows the student."""

    teacher: nn.Module
    settings: DistillSettings
    flow: TrainingFlow = field(default_factory=TrainingFlow.make)
    student: nn.Module = field(init=False)
    critic: nn.Module = field(init=False)
    student_optimizer: torch.optim.Optimizer = field(init=False)
    critic_optimizer: torch.optim.Optimizer = field(init=False)
    step: int = 0

    def __post_init__(self) -> None:
        # Both start as the teacher: the student's first output is the teacher's own.
        self.student, self.critic = deepcopy(self.teacher), deepcopy(self.teacher)
        self.teacher.requires_grad_(False)
        s = self.settings
        self.student_optimizer = make_optimizer(self.student.parameters(), s.student)
        self.critic_optimizer = make_optimizer(self.critic.parameters(), s.critic)

    def train_step(
        self, velocity: Velocity, shape: tuple[int, ...], draws: Draws, *, like: Tensor
    ) -> dict[str, float]:
        """One step of the student after some of the critic; returns their losses.

        Args:
            velocity: Calls a network with the conditioning of this step.
            shape: Of the latents, [n ...].
            draws: Where chance comes from.
            like: Tensor whose device and type the latents have.

        Raises:
            EngineFailed: A loss is not finite.
        """
        losses = {}
        for _ in range(self.settings.critic_steps):
            made = self.generate(velocity, shape, draws, like=like, learn=False)
            losses["critic"] = self._follow(velocity, made, draws)
        made = self.generate(velocity, shape, draws, like=like, learn=True)
        losses["student"] = self._match(velocity, made, draws)
        if not all(value == value and abs(value) < float("inf") for value in losses.values()):
            raise EngineFailed(
                f"step {self.step} of the distillation has losses {losses}; lower the rates"
            )
        self.step += 1
        return losses

    def generate(
        self, velocity: Velocity, shape: tuple[int, ...], draws: Draws, *, like: Tensor, learn: bool
    ) -> Tensor:
        """Clean latents of the student after one to four of its steps.

        The steps before the last one carry no gradient: the student learns each of its steps on
        what it will meet there, its own intermediate results.
        """
        times = distilled_timesteps(released_table()).to(like.device)
        last = draws.integer(0, len(times), "last step")
        x = draws.normal(shape, "start").to(like)
        clean = x
        for i in range(last + 1):
            t = times[i].expand(shape[0])
            sigma = t / TRAIN_TIMESTEPS
            if i:
                x = interpolate(clean, draws.normal(shape, "again").to(like), sigma)
            with torch.set_grad_enabled(learn and i == last):
                clean = clean_from(x, velocity(self.student, x, t).to(x), sigma)
        return clean

    def _follow(self, velocity: Velocity, made: Tensor, draws: Draws) -> float:
        """Teach the critic the student's distribution, by rectified flow."""
        draw = draws.normal((len(made),), "critic time")
        t = self.flow.timestep(torch.sigmoid(draw)).to(made.device)
        noise = draws.normal(tuple(made.shape), "critic noise").to(made)
        v = velocity(self.critic, interpolate(made, noise, self.flow.sigma(t)), t)
        loss = weighted_loss(v, target(made, noise), torch.ones_like(t))
        return self._update(loss, self.critic, self.critic_optimizer, self.settings.critic)

    def _match(self, velocity: Velocity, made: Tensor, draws: Draws) -> float:
        """Move the student where the teacher would have its output, and the critic would not."""
        s = self.settings
        u = draws.uniform(len(made), "match time").to(made)
        sigma = s.low + (s.high - s.low) * u
        t = sigma * TRAIN_TIMESTEPS
        with torch.no_grad():
            noise = draws.normal(tuple(made.shape), "match noise").to(made)
            noisy = interpolate(made.detach(), noise, sigma)
            true = clean_from(noisy, velocity(self.teacher, noisy, t).to(noisy), sigma)
            own = clean_from(noisy, velocity(self.critic, noisy, t).to(noisy), sigma)
            rest = (made.detach() - true).abs().flatten(1).mean(1).clamp_min(LEAST_SCALE)
            direction = (own - true) / rest.view(-1, *(1,) * (made.ndim - 1))
            wanted = made.detach() - torch.nan_to_num(direction)
        loss = 0.5 * (made.float() - wanted.float()).square().mean()
        return self._update(loss, self.student, self.student_optimizer, s.student)

    def _update(
        self, loss: Tensor, network: nn.Module, optimizer: Any, settings: OptimSettings
    ) -> float:
        loss.backward()
        tame_gradients(network.parameters(), settings.clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return float(loss.detach())


def energy_distance(a: Tensor, b: Tensor) -> float:
    """Energy distance between two sets of samples [n d], [m d]: 0 when they are alike.

    Twice the mean distance across the sets less the mean distances within each.
    """
    a, b = a.double().flatten(1), b.double().flatten(1)
    n, m = len(a), len(b)
    within_a = torch.cdist(a, a).sum() / max(n * (n - 1), 1)
    within_b = torch.cdist(b, b).sum() / max(m * (m - 1), 1)
    return float(2 * torch.cdist(a, b).mean() - within_a - within_b)
