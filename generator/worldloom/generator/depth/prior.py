"""Layout of a view -> inverse depth without any weights: a floor, and what stands upright on it.

Every pixel that is neither floor nor sky belongs to something vertical, whose distance is that of
its foot. Feet are seen where a surface meets the floor below it: there the surface is at least as
near as that floor (it hides it), and as near as that if it stands there. These bounds are carried
up and along likeness, with jumps where the picture has edges.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from worldloom.generator.depth.grid import colour_features, likeness_links, solve_field
from worldloom.generator.depth.layout import (
    LAYOUT_SIDE,
    Layout,
    ground_inverse,
    standing_factor,
)
from worldloom.generator.depth.resample import nearest, resize

FARTHEST_HEIGHTS = 12.0
"""Distance of upright things whose foot is never seen, in camera heights."""
ROUNDS = 6  # Reweighted solves; distances settle by then.
UPRIGHT = 4.0
"""How much stronger a distance is kept upwards than sideways: things stand upright."""
INSIST, TOLERATE = 4.0, 0.4
"""Weight of a foot that would be behind the floor it hides, and of one that is in front."""
JUMP = 0.02  # Difference of inverse distances [1 / camera height] beyond which it is a jump.


def standing_inverse(rgb: NDArray[np.floating], layout: Layout) -> NDArray[np.float64]:
    """Inverse z-depth [h w] in 1 / camera heights: floor, upright things, and 0 in the sky."""
    height, width = layout.floor.shape
    shrink = min(1.0, LAYOUT_SIDE / max(width, height))
    size = (max(24, round(width * shrink)), max(24, round(height * shrink)))
    K = layout.K * np.array([[size[0] / width], [size[1] / height], [1.0]])
    ground = ground_inverse(K, layout.up, size[1], size[0])
    factor = standing_factor(K, layout.up, size[1], size[0])
    floor, sky = nearest(layout.floor, *size), nearest(layout.sky, *size)
    nearness = foot_nearness(colour_features(rgb, *size), floor & (ground > 0), sky, ground, factor)
    upright = resize(nearness, width, height) * standing_factor(layout.K, layout.up, height, width)
    plane = layout.ground_inverse()
    inverse = np.where(layout.floor, plane, np.maximum(upright, plane))
    return np.where(layout.sky, 0.0, np.maximum(inverse, 0.02))


def foot_nearness(
    features: NDArray[np.floating],
    floor: NDArray[np.bool_],
    sky: NDArray[np.bool_],
    ground: NDArray[np.floating],
    factor: NDArray[np.floating],
) -> NDArray[np.float64]:
    """Inverse distance [h w] of the feet of upright things, in 1 / camera heights."""
    here = np.maximum(ground, 0) / np.maximum(factor, 1e-3)
    bound = np.zeros(floor.shape)
    touches = np.zeros(floor.shape, bool)
    touches[:-1] = floor[1:] & ~floor[:-1] & ~sky[:-1]
    bound[:-1][touches[:-1]] = here[1:][touches[:-1]]
    # What goes on below the lower edge of the picture stands nearer than the floor there.
    touches[-1] = ~floor[-1] & ~sky[-1]
    bound[-1][touches[-1]] = here[-1][touches[-1]]
    right, down = likeness_links(features)
    solid = ~(floor | sky)
    right = right * (solid[:, 1:] & solid[:, :-1])
    down = UPRIGHT * down * (solid[1:] & solid[:-1])
    weak = np.full(floor.shape, 1e-4)
    target = np.where(touches, bound, 1.0 / FARTHEST_HEIGHTS)
    data = np.where(touches, INSIST, weak)
    field = solve_field(right + 1e-4, down + 1e-4, data, target)
    for _ in range(ROUNDS):
        data = np.where(touches, np.where(field < bound, INSIST, TOLERATE), weak)
        across = JUMP / (JUMP + np.abs(np.diff(field, axis=1)))
        along = JUMP / (JUMP + np.abs(np.diff(field, axis=0)))
        field = solve_field(right * across + 1e-4, down * along + 1e-4, data, target)
    return field
