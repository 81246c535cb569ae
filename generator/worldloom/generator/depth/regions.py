"""Looks and position -> which pixels show floor or sky.

The floor is what looks like the bottom of the picture and hangs together with it. How often each
look occurs on the floor and elsewhere, and a smooth label field that breaks at edges, are estimated
in turn (the scheme of GrabCut, Rother et al. 2004, with a convex label field).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from worldloom.generator.depth.grid import colour_features, likeness_links, solve_field

SIGHT_HEIGHTS = 6.0
"""Typical length of open floor ahead, in camera heights: rooms of 6 to 10 m seen from 1.5 m."""
OUTSIDE = 0.5
"""Factor on the chance of floor outside of the rectangle: floors reach behind things."""
ROUNDS = 6  # Turns of model and label estimation; the labels stop changing by then.
SMOOTHNESS = 3.0  # Weight of neighbours against a pixel's own evidence.
LOOK_POWER = 0.7  # Looks overlap in what they tell; less than 1 keeps them from being too sure.
STRONGEST = 30.0  # Largest ratio that one look may contribute.
SKY_LIGHT = 0.85  # Lightness from which on a calm region at the top may be an overcast sky.


def find_floor(
    looks: Sequence[NDArray[np.int64]],
    features: NDArray[np.floating],
    ground: NDArray[np.floating],
    inside: NDArray[np.bool_],
) -> NDArray[np.float64]:
    """Probability of floor [h w].

    Args:
        looks: Classes of every pixel by several independent cues, each [h w].
        features: Colours that decide where the field may break, shape [h w c].
        ground: Inverse depth of the floor plane at unit camera height, shape [h w].
        inside: Pixels in the rectangle of open floor, shape [h w].
    """
    place = place_prior(ground)
    share = np.where(inside, 0.9, 0.05)
    place = np.where(inside, place, OUTSIDE * place)
    right, down = likeness_links(features)
    for _ in range(ROUNDS):
        odds = place / (1 - place)
        for look in looks:
            odds = odds * _look_ratio(look, share) ** LOOK_POWER
        belief = odds / (1 + odds)
        certainty = np.abs(2 * belief - 1) + 0.05
        share = solve_field(SMOOTHNESS * right, SMOOTHNESS * down, certainty, belief)
        share = _reached_from_below(np.clip(share, 0, 1))
    return share


def place_prior(ground: NDArray[np.floating]) -> NDArray[np.float64]:
    """Probability of floor from the position alone: sight lines end after some length."""
    distance = 1.0 / np.maximum(ground, 1e-3)
    return np.where(ground > 0, 0.9 * np.exp(-distance / SIGHT_HEIGHTS), 0.0) + 0.01


def _look_ratio(look: NDArray[np.int64], share: NDArray) -> NDArray[np.float64]:
    """How much more frequent each pixel's look is on the floor than elsewhere."""
    count = int(look.max()) + 1
    floor = np.bincount(look.ravel(), share.ravel(), count)
    other = np.bincount(look.ravel(), 1 - share.ravel(), count)
    smooth = 0.01 * look.size / count
    ratio = (floor + smooth) / (floor + smooth).sum() / ((other + smooth) / (other + smooth).sum())
    return np.clip(ratio, 1 / STRONGEST, STRONGEST)[look]


def _reached_from_below(share: NDArray) -> NDArray[np.float64]:
    """Keep the floor that hangs together with the largest floor region, and larger patches."""
    labels, count = ndimage.label(share > 0.5)
    if count == 0:
        return share
    sizes = np.bincount(labels.ravel())[1:]
    keep = np.flatnonzero(sizes >= 0.02 * sizes.max()) + 1
    return np.where(np.isin(labels, keep) | (share <= 0.5), share, 0.2)


def find_sky(
    rgb: NDArray[np.floating], ground: NDArray[np.floating], width: int, height: int
) -> NDArray[np.bool_]:
    """Pixels [height width] of sky: smooth, light or blue, above the horizon, reaching the top."""
    features = colour_features(rgb, width, height)
    light, red, blue = features[..., 0] * 2, features[..., 1], features[..., 2]
    rough = ndimage.generic_gradient_magnitude(light, ndimage.sobel) / 8
    calm = ndimage.uniform_filter(rough, 5) < 0.02
    coloured = (blue > 0.03) & (blue > red) & (light > 0.25)
    candidate = (ground < 0) & calm & (coloured | (light > SKY_LIGHT))
    labels, count = ndimage.label(candidate)
    if count == 0:
        return candidate
    top = np.unique(labels[0])
    # A lamp or a white patch also touches the top; the sky takes a good part of it.
    wide = [k for k in top if k and np.mean(labels[0] == k) > 0.2]
    return ndimage.binary_closing(np.isin(labels, wide), iterations=1)
