"""Gradients -> weights: learning rate, clean-up and clipping, and an average of the weights."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor, nn

from worldloom.generator.training.settings import OptimSettings


def learning_factor(step: int, o: OptimSettings) -> float:
    """Share of the learning rate at a step: up to the top in a line, then down to the end.

    Beyond `cycle` it stays at the end factor, where the released function fails.
    """
    if step < o.warmup:
        return o.start_factor + (o.top_factor - o.start_factor) * step / o.warmup
    left = max(o.cycle - step, 0) / o.cycle
    return o.end_factor + (o.top_factor - o.end_factor) * left


def make_optimizer(parameters: Iterable[nn.Parameter], o: OptimSettings) -> torch.optim.AdamW:
    """AdamW over one group: weight decay on everything, as released."""
    chosen = [p for p in parameters if p.requires_grad]
    return torch.optim.AdamW(
        chosen, lr=o.lr, betas=tuple(o.betas), eps=o.eps, weight_decay=o.weight_decay
    )


def tame_gradients(parameters: Iterable[nn.Parameter], most: float) -> float:
    """Replace what is not finite by 0 and clip the common norm to `most`; the norm before."""
    found = [p for p in parameters if p.grad is not None]
    for p in found:
        torch.nan_to_num_(local(p.grad), nan=0.0, posinf=0.0, neginf=0.0)
    norm = torch.nn.utils.clip_grad_norm_(found, most)
    return float(norm.full_tensor() if hasattr(norm, "full_tensor") else norm)


def local(tensor: Tensor) -> Tensor:
    """The part of a sharded tensor that lies here; a plain tensor itself."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def power_exponent(width: float) -> float:
    """Exponent of a power-function average whose relative width is `width` (spec 8.5)."""
    s = width**-2
    roots = np.roots([1.0, 7.0, 16.0 - s, 12.0 - s])
    return float(roots[np.isreal(roots)].real.max())


class PowerAverage:
    """Average of the weights over all steps, later ones counting more by a power law."""

    def __init__(self, model: nn.Module, width: float) -> None:
        self.exponent = power_exponent(width)
        self.values = {n: local(p.detach()).clone().float() for n, p in model.named_parameters()}

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Take in the weights after step number `step`, counted from 0."""
        beta = (1 - 1 / (step + 1)) ** (self.exponent + 1)
        for name, p in model.named_parameters():
            self.values[name].lerp_(local(p.detach()).float(), 1 - beta)
