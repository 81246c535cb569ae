"""Sky scores and depth -> depth whose sky is as far as the farthest that is seen (spec 2.6, 2.9).

The reference draws 100 thousand pixels at random for its quantiles; here they lie at a fixed
stride, so that equal pictures give equal depth.
"""

from __future__ import annotations

import torch
from torch import Tensor

SKY_FROM = 0.3
"""Sky score from which on a pixel is sky."""
FEWEST = 10  # Pixels that each side must exceed before anything is changed.
SAMPLES = 100_000  # Values that a quantile is taken of.
FAR_QUANTILE = 0.99


def is_sky(sky: Tensor) -> Tensor:
    """Sky pixels of sky scores, any shape."""
    return sky >= SKY_FROM


def quantile(values: Tensor, q: float) -> Tensor:
    """Quantile of values, any shape, through at most SAMPLES of them at a fixed stride."""
    flat = values.flatten().float()
    step = -(-flat.numel() // SAMPLES)
    return torch.quantile(flat[::step] if step > 1 else flat, q)


def farthen_sky(depth: Tensor, sky: Tensor) -> Tensor:
    """Depth [v H W] with its sky at the 0.99 quantile of the rest.

    Unchanged where sky or the rest has 10 pixels or fewer in all views together.
    """
    far = is_sky(sky)
    if int(far.sum()) <= FEWEST or int((~far).sum()) <= FEWEST:
        return depth
    return torch.where(far, quantile(depth[~far], FAR_QUANTILE).to(depth), depth)
