"""Looks and position -> which pixels show floor or sky.

The floor is what looks like the bottom of the picture and hangs together with it. How often each
look occurs on the floor and elsewhere, and a smooth label field that breaks at edges, are estimated
in turn (the scheme of GrabCut, Rother et al. 2004, with a convex label field).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from worldloom.generator.depth.cues import Looks
from worldloom.generator.depth.grid import colour_features, likeness_links, solve_field

SIGHT_HEIGHTS = 6.0
"""Typical length of open floor ahead, in camera heights: rooms of 6 to 10 m seen from 1.5 m."""
OUTSIDE = 0.5
"""Factor on the chance of floor outside of the rectangle: floors reach behind things."""
BLOCKED = ((0.02, 1.0), (0.15, 1.0), (0.4, 0.3), (np.inf, 0.08))
"""Bounds of the sum of upright edges below a pixel, and the factors on its chance of floor."""
FREE_FACTOR = 2.0
"""Factor where no upright edge stands below a pixel, used when the room is not clear."""
EVERYWHERE = 0.6
"""Spread of a colour over the room's width from which on it may be all of the floor's."""
SPREAD_POWER = 1.5  # A floor is everywhere in its room, a thing is at one place.
COLUMNS = 8  # Parts of the width that the spread is counted in.
LEAST_RATIO, MOST_RATIO = 0.2, 10.0
"""Ratios that a colour may contribute at most when the room is not clear: shadows and lamps."""
ROUNDS = 6  # Turns of model and label estimation; the labels stop changing by then.
SMOOTHNESS = 3.0  # Weight of neighbours against a pixel's own evidence.
LOOK_POWER = 1.0  # How far looks are taken as independent of each other.
STRONGEST = 30.0  # Largest ratio that one look may contribute.
LEAST_PATCH = 0.04  # Size of the smallest patch of floor, relative to the largest.
SKY_LIGHT = 0.85  # Lightness from which on a calm region at the top may be an overcast sky.


def find_floor(
    looks: Looks,
    features: NDArray[np.floating],
    ground: NDArray[np.floating],
    inside: NDArray[np.bool_],
    *,
    clear: bool,
) -> NDArray[np.float64]:
    """Probability of floor [h w].

    Args:
        looks: What each pixel looks like.
        features: Colours that decide where the field may break, shape [h w c].
        ground: Inverse depth of the floor plane at unit camera height, shape [h w].
        inside: Pixels in the rectangle of open floor, shape [h w].
        clear: Whether that rectangle is surely the room; then colours decide, and a colour that
            is at one place only belongs to a thing. Otherwise light and shadow may have drawn it,
            and what nothing upright blocks is floor more likely.
    """
    place = place_prior(ground)
    factor = _blocked_factor(looks.blocked)
    share = np.where(inside, 0.9, 0.05) * np.minimum(factor, 1.0)
    chance = place / (1 - place)
    if clear:
        chance = chance * _spread_factor(looks.colour, inside)
    else:
        factor = np.where(looks.blocked < BLOCKED[0][0], FREE_FACTOR, factor)
    chance = np.where(inside, chance, OUTSIDE * chance) * factor
    bounds = (1 / STRONGEST, STRONGEST) if clear else (LEAST_RATIO, MOST_RATIO)
    right, down = likeness_links(features)
    for _ in range(ROUNDS):
        odds = chance * _look_ratio(looks.colour, share, *bounds) ** LOOK_POWER
        for look in (looks.texture, looks.upright):
            odds = odds * _look_ratio(look, share, 1 / STRONGEST, STRONGEST) ** LOOK_POWER
        belief = odds / (1 + odds)
        certainty = np.abs(2 * belief - 1) + 0.05
        share = solve_field(SMOOTHNESS * right, SMOOTHNESS * down, certainty, belief)
        share = _reached_from_below(np.clip(share, 0, 1))
    return share


def _blocked_factor(blocked: NDArray[np.floating]) -> NDArray[np.float64]:
    bounds, factors = zip(*BLOCKED, strict=True)
    return np.array(factors)[np.searchsorted(bounds[:-1], blocked, side="right")]


def _spread_factor(colour: NDArray[np.int64], inside: NDArray[np.bool_]) -> NDArray[np.float64]:
    """1 for colours all over the room's width, less for those at one place of it [h w]."""
    count, width = int(colour.max()) + 1, colour.shape[1]
    part = np.broadcast_to(np.arange(width) * COLUMNS // width, colour.shape)
    index = colour[inside] * COLUMNS + part[inside]
    table = np.bincount(index, minlength=count * COLUMNS).reshape(count, COLUMNS)
    room = table.sum(0) + 1.0
    share = table / room
    share = share / np.maximum(share.sum(1, keepdims=True), 1e-9)
    entropy = -(share * np.log(share + 1e-12)).sum(1)
    spread = np.exp(entropy) / max(1, np.count_nonzero(room > 5))
    return np.clip(spread / EVERYWHERE, 0.05, 1.0)[colour] ** SPREAD_POWER


def place_prior(ground: NDArray[np.floating]) -> NDArray[np.float64]:
    """Probability of floor from the position alone: sight lines end after some length."""
    distance = 1.0 / np.maximum(ground, 1e-3)
    return np.where(ground > 0, 0.9 * np.exp(-distance / SIGHT_HEIGHTS), 0.0) + 0.01


def _look_ratio(
    look: NDArray[np.int64], share: NDArray[np.floating], least: float, most: float
) -> NDArray[np.float64]:
    """How much more frequent each pixel's look is on the floor than elsewhere."""
    count = int(look.max()) + 1
    floor = np.bincount(look.ravel(), share.ravel(), count)
    other = np.bincount(look.ravel(), 1 - share.ravel(), count)
    smooth = 0.01 * look.size / count
    ratio = (floor + smooth) / (floor + smooth).sum() / ((other + smooth) / (other + smooth).sum())
    return np.clip(ratio, least, most)[look]


def _reached_from_below(share: NDArray) -> NDArray[np.float64]:
    """Keep the floor that hangs together with the largest floor region, and larger patches.

    Necks of two pixels do not count: small patches inside things hang on those.
    """
    mask = share > 0.5
    labels, count = ndimage.label(ndimage.binary_opening(mask))
    if count == 0:
        return share
    sizes = np.bincount(labels.ravel())[1:]
    keep = np.flatnonzero(sizes >= LEAST_PATCH * sizes.max()) + 1
    core = ndimage.binary_dilation(np.isin(labels, keep), iterations=2) & mask
    return np.where(core | ~mask, share, 0.2)


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
