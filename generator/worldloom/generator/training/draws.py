"""Randomness as something that is handed in: a seeded generator, or draws recorded elsewhere."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

CPU = torch.device("cpu")


class Draws(Protocol):
    """All that one training sample draws; `purpose` says what for, and may be ignored."""

    def uniform(self, count: int, purpose: str) -> Tensor:
        """Numbers in [0, 1), float32 [count]."""
        ...

    def integer(self, low: int, high: int, purpose: str) -> int:
        """A whole number from `low` to `high` - 1."""
        ...

    def choice(self, weights: Tensor, count: int) -> list[int]:
        """Indices without replacement, likelier where `weights` [n] are larger."""
        ...

    def permutation(self, count: int) -> list[int]:
        """The numbers 0 to count - 1 in random order."""
        ...

    def normal(self, shape: tuple[int, ...], purpose: str) -> Tensor:
        """Standard normal numbers, float32."""
        ...


class SeededDraws:
    """Draws of one generator on the CPU: the same on every device, and it can be saved."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)

    def uniform(self, count: int, purpose: str) -> Tensor:
        """Numbers in [0, 1), float32 [count]."""
        return torch.rand(count, generator=self.generator)

    def integer(self, low: int, high: int, purpose: str) -> int:
        """A whole number from `low` to `high` - 1."""
        return int(torch.randint(low, high, (), generator=self.generator))

    def choice(self, weights: Tensor, count: int) -> list[int]:
        """Indices without replacement, likelier where `weights` [n] are larger."""
        picked = torch.multinomial(weights.float(), count, generator=self.generator)
        return picked.tolist()

    def permutation(self, count: int) -> list[int]:
        """The numbers 0 to count - 1 in random order."""
        return torch.randperm(count, generator=self.generator).tolist()

    def normal(self, shape: tuple[int, ...], purpose: str) -> Tensor:
        """Standard normal numbers, float32."""
        return torch.randn(shape, generator=self.generator)

    def state(self) -> Tensor:
        """What `restore` takes to continue here, uint8."""
        return self.generator.get_state()

    def restore(self, state: Tensor) -> None:
        """Continue where `state` was taken."""
        self.generator.set_state(state.to(CPU))


def step_draws(seed: int, step: int, rank: int = 0) -> SeededDraws:
    """Draws of one step of one process: a run that is resumed needs no state of them."""
    mixed = (seed * 1_000_003 + step) * 4_099 + rank
    return SeededDraws(mixed % (2**63 - 1))
