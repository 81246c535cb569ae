"""RGB and the three main directions -> what each small patch looks like, as numbered looks.

A look is a class that a floor may or may not have: a cluster of colours, a strength of texture, a
share of upright edges. Nothing here says which looks are floor: the photo itself does.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from worldloom.generator.depth.resample import resize

GREY = np.array([0.299, 0.587, 0.114], np.float32)
CLUSTERS = 32  # Colours that a picture is reduced to.
TEXTURE_BINS = 10  # Strengths of texture, equally filled.
UPRIGHT_BINS = 6  # Shares of upright edges.
PATCH = 0.03  # Size of the patch that texture is measured in, relative to the longer side.
EDGE_SCALE = 2.0  # Pixels of the gradient image per pixel of the answer, each way.
FIRM_EDGE = 0.03  # Gradient [grey levels in 0..1 per px] of an edge that blocks the view.
ALONG_DEG, APART_DEG = 8.0, 14.0
"""An edge is upright when it is this close to the upright direction and this far from others."""


@dataclass(frozen=True)
class Looks:
    """What each pixel looks like; all arrays [h w]."""

    colour: NDArray[np.int64]
    """Cluster of colours."""
    texture: NDArray[np.int64]
    """Strength of texture, 0 (calm) to TEXTURE_BINS - 1."""
    upright: NDArray[np.int64]
    """Share of upright edges, 0 (none) to UPRIGHT_BINS - 1."""
    blocked: NDArray[np.float64]
    """Upright edges met on the way from the bottom of the picture up to this pixel, summed."""


def find_looks(
    rgb: NDArray[np.floating],
    axes: NDArray[np.floating],
    K: NDArray[np.floating],
    width: int,
    height: int,
) -> Looks:
    """Looks of all pixels at `height` x `width`.

    Args:
        rgb: Colours of the whole photo, shape [h w 3].
        axes: Up and two horizontal directions in camera axes, shape [3 3].
        K: Intrinsics [3 3] in pixels of the answer.
        width: Columns of the answer.
        height: Rows of the answer.
    """
    fine = (int(width * EDGE_SCALE), int(height * EDGE_SCALE))
    grey = ndimage.gaussian_filter(resize(rgb, *fine) @ GREY, 0.8)
    gy, gx = np.gradient(grey)
    strength = np.hypot(gx, gy)
    apart = _angles(gx, gy, axes, K, fine)
    upright = (apart[0] < ALONG_DEG) & (np.minimum(apart[1], apart[2]) > APART_DEG)
    window = max(3, round(PATCH * max(fine)))
    energy = resize(ndimage.uniform_filter(strength, window), width, height)
    share = resize(ndimage.uniform_filter(strength * upright, window), width, height)
    share = share / (energy + 0.002)
    edges = np.quantile(energy, np.linspace(0, 1, TEXTURE_BINS + 1)[1:-1])
    return Looks(
        colour_looks(rgb, width, height),
        np.searchsorted(edges, energy),
        np.minimum((share * UPRIGHT_BINS / 0.8).astype(int), UPRIGHT_BINS - 1),
        resize(_blocked(strength, upright, fine[0]), width, height).astype(float),
    )


def _blocked(
    strength: NDArray[np.floating], upright: NDArray[np.bool_], width: int
) -> NDArray[np.floating]:
    """Sum of long upright edges from the bottom up: where it starts, things meet the floor."""
    firm = (upright & (strength > FIRM_EDGE)).astype(np.float32)
    long = ndimage.uniform_filter(firm, (9, 3)) > 0.25
    wide = ndimage.uniform_filter1d(strength * long, max(3, width // 20), axis=1)
    return np.cumsum(wide[::-1], axis=0)[::-1]


def colour_looks(rgb: NDArray[np.floating], width: int, height: int) -> NDArray[np.int64]:
    """Colour cluster of each pixel [height width]; k-means that needs no chance to start."""
    small = ndimage.gaussian_filter(resize(rgb, width, height), (0.7, 0.7, 0))
    light = small @ GREY
    features = np.stack([0.6 * light, small[..., 0] - light, small[..., 2] - light], -1)
    points = features.reshape(-1, 3).astype(float)
    axis = np.linalg.svd(np.cov(points.T))[0][:, 0]
    order = np.argsort(points @ axis, kind="stable")
    centres = points[order[(np.arange(CLUSTERS) * 2 + 1) * len(order) // (2 * CLUSTERS)]]
    label = np.zeros(len(points), int)
    for _ in range(12):
        label = np.argmin(((points[:, None] - centres[None]) ** 2).sum(-1), 1)
        count = np.bincount(label, minlength=CLUSTERS)
        total = np.stack([np.bincount(label, p, CLUSTERS) for p in points.T], -1)
        centres = np.where(count[:, None] > 0, total / np.maximum(count, 1)[:, None], centres)
    return label.reshape(height, width)


def _angles(
    gx: NDArray, gy: NDArray, axes: NDArray, K: NDArray, size: tuple[int, int]
) -> list[NDArray[np.float64]]:
    """Angle [degrees] between each pixel's edge and the image of each axis there."""
    width, height = size
    fx, fy = K[0, 0] * EDGE_SCALE, K[1, 1] * EDGE_SCALE
    x = (np.arange(width) + 0.5 - K[0, 2] * EDGE_SCALE) / fx
    y = (np.arange(height) + 0.5 - K[1, 2] * EDGE_SCALE) / fy
    out = []
    for axis in axes:
        du = fx * (axis[0] - axis[2] * x[None, :])
        dv = fy * (axis[1] - axis[2] * y[:, None])
        # An edge runs at right angles to its gradient, so a small dot product is a small angle.
        sine = np.abs(du * gx + dv * gy) / np.maximum(np.hypot(du, dv) * np.hypot(gx, gy), 1e-9)
        out.append(np.degrees(np.arcsin(np.minimum(sine, 1.0))))
    return out
