"""A depth map that the user supplied -> depth at the working size, without holes.

Metric depth is taken as it is. Pixels it says nothing about take the nearest known depth, except
in the sky, which keeps none.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from worldloom.generator.depth.resample import nearest


def at_size(depth: NDArray[np.floating], width: int, height: int) -> NDArray[np.float64]:
    """Nearest-neighbour copy of a depth map [h w] in metres: averages would invent surfaces."""
    return nearest(depth, width, height).astype(np.float64)


def fill_holes(
    depth: NDArray[np.floating], sky: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Fill unknown depth (0) from the nearest known pixel.

    Args:
        depth: z-depth in metres, shape [h w].
        sky: Where the layout sees sky, shape [h w].

    Returns:
        The depth, and the sky that is left: only pixels that the map says nothing about.
    """
    unknown = depth <= 0
    sky = sky & unknown
    index = ndimage.distance_transform_edt(unknown, return_distances=False, return_indices=True)
    return np.where(sky, 0.0, depth[tuple(index)]), sky
