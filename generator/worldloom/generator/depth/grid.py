"""Smooth fields on a pixel grid: what is known somewhere, carried on along likeness.

Minimises  sum_ij w_ij (x_i - x_j)^2 + sum_i d_i (x_i - t_i)^2  over all pixels: one sparse
symmetric positive definite system, solved directly, so that equal inputs give equal bytes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.linalg import splu

from worldloom.generator.depth.resample import resize

LEAST_LINK = 1e-6  # Keeps every pixel tied to some other, or the system would be singular.
FEATURE_SIGMA = 0.09  # Colour difference of two neighbours at which a link is cut to a third.


def solve_field(
    right: NDArray[np.floating],
    down: NDArray[np.floating],
    data: NDArray[np.floating],
    target: NDArray[np.floating],
) -> NDArray[np.float64]:
    """The field [h w] that is smooth along strong links and near its targets.

    Args:
        right: Link of each pixel to its right neighbour, shape [h w-1].
        down: Link of each pixel to the one below, shape [h-1 w].
        data: How much each pixel insists on its target, shape [h w].
        target: The targets, shape [h w]; ignored where `data` is 0.
    """
    height, width = data.shape
    index = np.arange(height * width).reshape(height, width)
    first = np.concatenate([index[:, :-1].ravel(), index[:-1].ravel()])
    second = np.concatenate([index[:, 1:].ravel(), index[1:].ravel()])
    link = np.maximum(np.concatenate([right.ravel(), down.ravel()]), LEAST_LINK)
    diagonal = data.ravel().astype(float).copy()
    diagonal += np.bincount(first, link, diagonal.size)
    diagonal += np.bincount(second, link, diagonal.size)
    size = height * width
    rows = np.concatenate([first, second, index.ravel()])
    columns = np.concatenate([second, first, index.ravel()])
    values = np.concatenate([-link, -link, diagonal])
    matrix = sparse.csc_matrix((values, (rows, columns)), shape=(size, size))
    factor = splu(matrix, permc_spec="MMD_AT_PLUS_A", options={"SymmetricMode": True})
    return factor.solve(data.ravel() * target.ravel()).reshape(height, width)


def likeness_links(
    features: NDArray[np.floating],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Links (right [h w-1], down [h-1 w]) in 0..1 between alike pixels of features [h w c]."""

    def link(difference: NDArray) -> NDArray[np.float64]:
        return np.exp(-np.sum(difference**2, -1) / FEATURE_SIGMA**2).astype(float)

    return link(np.diff(features, axis=1)), link(np.diff(features, axis=0))


def colour_features(rgb: NDArray[np.floating], width: int, height: int) -> NDArray[np.float32]:
    """Lightness and two colour differences [height width 3] of an image [h w 3].

    Lightness counts half: a shadow on the floor is still floor.
    """
    small = resize(rgb, width, height)
    light = small @ np.array([0.299, 0.587, 0.114], np.float32)
    red = small[..., 0] - light
    blue = small[..., 2] - light
    return np.stack([0.5 * light, red, blue], -1)
