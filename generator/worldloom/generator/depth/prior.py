"""Layout of a view -> inverse depth without any weights: floor, walls, and things before them.

Behind everything stand walls, whose feet the floor shows (walls). What hides floor that lies inside
those walls stands in front of them (things).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from worldloom.generator.depth.cues import colour_looks
from worldloom.generator.depth.geometry import ground_inverse, standing_factor
from worldloom.generator.depth.grid import colour_features
from worldloom.generator.depth.layout import LAYOUT_SIDE, Layout, reduced
from worldloom.generator.depth.resample import nearest, resize
from worldloom.generator.depth.things import Scene, thing_mask, thing_nearness
from worldloom.generator.depth.walls import find_feet

LEAST_INVERSE = 0.02  # Inverse depth that is never fallen below [1 / camera heights].


def standing_inverse(rgb: NDArray[np.floating], layout: Layout) -> NDArray[np.float64]:
    """Inverse z-depth [h w] in 1 / camera heights: floor, things, walls, and 0 in the sky."""
    height, width = layout.floor.shape
    size = reduced(width, height, LAYOUT_SIDE)
    K = layout.K * np.array([[size[0] / width], [size[1] / height], [1.0]])
    ground = ground_inverse(K, layout.up, size[1], size[0])
    floor = nearest(layout.floor, *size) & (ground > 0)
    scene = Scene(
        floor=floor,
        solid=~(floor | nearest(layout.sky, *size)),
        ground=ground,
        factor=standing_factor(K, layout.up, size[1], size[0]),
        feet=find_feet(floor, K, layout.axes, sure=layout.clear),
    )
    near = thing_nearness(scene)
    things = thing_mask(scene, near, colour_looks(rgb, *size), colour_features(rgb, *size))
    upright = _sharp(near, scene.feet.nearness, things, width, height)
    upright = upright * standing_factor(layout.K, layout.up, height, width)
    plane = layout.ground_inverse()
    inverse = np.where(layout.floor, plane, np.maximum(upright, plane))
    return np.where(layout.sky, 0.0, np.maximum(inverse, LEAST_INVERSE))


def _sharp(
    near: NDArray, far: NDArray, things: NDArray, width: int, height: int
) -> NDArray[np.float64]:
    """Both distances at full size, chosen by the enlarged mask, so that outlines stay steps."""
    mask = resize(things.astype(np.float32), width, height) > 0.5
    return np.where(mask, resize(near, width, height), resize(far, width, height))
