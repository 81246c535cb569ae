"""Cls features of views without cameras -> the view that the others refer to (spec 2.2)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

LEAST = 1e-8  # Keeps quotients finite.


def choose_reference(features: Tensor) -> int:
    """The view whose features [v c] are the most middling by three measures.

    Mean cosine to the other views, length, and variance of the unit vector are each stretched to
    0..1 over the views; the least sum of distances from 0.5 wins.
    """
    features = features.detach().float()
    unit = functional.normalize(features, dim=-1, eps=LEAST)
    likeness = (unit @ unit.T - torch.eye(len(unit), device=unit.device)).sum(-1)
    measures = (likeness / (len(unit) - 1), features.norm(dim=-1), unit.var(dim=-1))
    off = sum((_stretched(measure) - 0.5).abs() for measure in measures)
    return int(torch.as_tensor(off).argmin())


def _stretched(measure: Tensor) -> Tensor:
    low = measure.min()
    return (measure - low) / (measure.max() - low + LEAST)


def front_order(first: int, views: int) -> Tensor:
    """Numbers [v] of all views with `first` in front; the others keep their order."""
    return torch.tensor([first, *(i for i in range(views) if i != first)])
