"""Appearance and position -> which pixels show floor or sky.

The floor is what looks like the bottom of the picture and hangs together with it. Two mixtures of
colour clusters, one for the floor and one for the rest, and a smooth label field that breaks at
edges are estimated in turn (the scheme of GrabCut, Rother et al. 2004, with a convex label field).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from worldloom.generator.depth.grid import colour_features, likeness_links, solve_field

SIGHT_HEIGHTS = 6.0
"""Typical length of open floor ahead, in camera heights: rooms of 6 to 10 m seen from 1.5 m."""
CLUSTERS = 24  # Colours that a picture is reduced to for the appearance models.
ROUNDS = 4  # Turns of model and label estimation; the labels stop changing by then.
SMOOTHNESS = 1.5  # Weight of neighbours against a pixel's own evidence.
SKY_LIGHT = 0.55  # Lightness from which on a smooth region at the top may be sky.


def find_floor(
    rgb: NDArray[np.floating], ground: NDArray[np.floating], width: int, height: int
) -> NDArray[np.float64]:
    """Probability of floor [height width].

    Args:
        rgb: Colours of the whole photo, shape [h w 3].
        ground: Inverse depth of the floor plane at unit camera height, shape [height width].
        width: Columns of the answer.
        height: Rows of the answer.
    """
    features = colour_features(rgb, width, height)
    place = place_prior(ground)
    cluster = _clusters(_with_texture(features))
    right, down = likeness_links(features)
    share = place.copy()
    for _ in range(ROUNDS):
        look = _appearance(cluster, share)
        belief = _posterior(look, place)
        certainty = np.abs(2 * belief - 1) + 0.05
        share = solve_field(SMOOTHNESS * right, SMOOTHNESS * down, certainty, belief)
    return _reached_from_below(share)


def place_prior(ground: NDArray[np.floating]) -> NDArray[np.float64]:
    """Probability of floor from the position alone: sight lines end after some length."""
    distance = 1.0 / np.maximum(ground, 1e-3)
    return np.where(ground > 0, 0.9 * np.exp(-distance / SIGHT_HEIGHTS), 0.0) + 0.01


def find_sky(
    rgb: NDArray[np.floating], ground: NDArray[np.floating], width: int, height: int
) -> NDArray[np.bool_]:
    """Pixels [height width] of sky: smooth, light or blue, above the horizon, reaching the top."""
    features = colour_features(rgb, width, height)
    light, red, blue = features[..., 0] * 2, features[..., 1], features[..., 2]
    rough = ndimage.generic_gradient_magnitude(light, ndimage.sobel) / 8
    calm = ndimage.uniform_filter(rough, 5) < 0.02
    coloured = (blue > 0.03) & (blue > red) & (light > 0.25)
    candidate = (ground < 0) & calm & (coloured | (light > SKY_LIGHT + 0.3))
    labels, count = ndimage.label(candidate)
    if count == 0:
        return candidate
    top = np.unique(labels[0])
    # A lamp or a white patch also touches the top; the sky takes a good part of it.
    wide = [k for k in top if k and np.mean(labels[0] == k) > 0.2]
    return ndimage.binary_closing(np.isin(labels, wide), iterations=1)


def _with_texture(features: NDArray) -> NDArray[np.float64]:
    light = features[..., 0]
    mean = ndimage.uniform_filter(light, 5)
    spread = np.sqrt(np.maximum(ndimage.uniform_filter(light**2, 5) - mean**2, 0))
    return np.concatenate([features, 2 * spread[..., None]], -1)


def _clusters(features: NDArray, rounds: int = 12) -> NDArray[np.int64]:
    """k-means labels [h w]; starts from a spread of quantiles, so that it needs no chance."""
    points = features.reshape(-1, features.shape[-1])
    axis = np.linalg.svd(points - points.mean(0), full_matrices=False)[2][0]
    order = np.argsort(points @ axis, kind="stable")
    centres = points[order[(np.arange(CLUSTERS) + 0.5).astype(int) * len(order) // CLUSTERS]]
    label = np.zeros(len(points), int)
    for _ in range(rounds):
        distance = ((points[:, None] - centres[None]) ** 2).sum(-1)
        label = np.argmin(distance, 1)
        count = np.bincount(label, minlength=CLUSTERS)
        total = np.stack([np.bincount(label, p, CLUSTERS) for p in points.T], -1)
        centres = np.where(count[:, None] > 0, total / np.maximum(count, 1)[:, None], centres)
    return label.reshape(features.shape[:2])


def _appearance(cluster: NDArray, share: NDArray) -> NDArray[np.float64]:
    """How much likelier each pixel's colour is on the floor than elsewhere (a ratio)."""
    floor = np.bincount(cluster.ravel(), share.ravel(), CLUSTERS)
    other = np.bincount(cluster.ravel(), 1 - share.ravel(), CLUSTERS)
    smooth = 0.5 / CLUSTERS * 0.02 * cluster.size
    ratio = (floor + smooth) / (floor + smooth).sum() / ((other + smooth) / (other + smooth).sum())
    return ratio[cluster]


def _posterior(ratio: NDArray, place: NDArray) -> NDArray[np.float64]:
    odds = np.clip(ratio, 0.05, 20) * place / (1 - place)
    return odds / (1 + odds)


def _reached_from_below(share: NDArray) -> NDArray[np.float64]:
    """Keep the floor that hangs together with the largest floor region."""
    labels, count = ndimage.label(share > 0.5)
    if count == 0:
        return share
    sizes = np.bincount(labels.ravel())[1:]
    weight = sizes * np.array([1 + 3 * (labels[-1] == k + 1).mean() for k in range(count)])
    keep = np.flatnonzero(weight >= 0.02 * weight.max()) + 1
    return np.where(np.isin(labels, keep) | (share <= 0.5), share, 0.2)
