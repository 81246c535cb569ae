"""Layout of a view -> inverse depth without any weights: floor, walls, and things before them.

Behind everything stand walls, whose feet the floor shows (walls). What hides floor that lies inside
those walls stands in front of them: its lower edge bounds its distance, since it hides the floor
there and the lowest parts of it touch the floor. It is carried up along likeness as far as things
usually reach.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from worldloom.generator.depth.geometry import ground_inverse, standing_factor
from worldloom.generator.depth.grid import colour_features, likeness_links, solve_field
from worldloom.generator.depth.layout import LAYOUT_SIDE, Layout, reduced
from worldloom.generator.depth.resample import nearest, resize
from worldloom.generator.depth.walls import Feet, find_feet

LEAST_INVERSE = 0.02  # Inverse depth that is never fallen below [1 / camera heights].
USUAL_REACH = 0.7
"""How high things reach, in camera heights: most furniture and vehicles end below eye level."""
ROUNDS = 4  # Reweighted solves; distances settle by then.
UPRIGHT = 4.0  # How much stronger a distance is kept upwards than sideways: things stand upright.
STIFF = 4.0  # Link between two pixels of one thing, whatever their colours.
INSIST, TOLERATE = 20.0, 0.1
"""Weight of a lower edge that would be behind the floor it hides, and of one in front of it: the
second is common, since most of a thing hangs above the floor."""
REACH_WEIGHT = 0.05  # Weight of the usual reach against the likeness of neighbours.
MARGIN = 3  # Rows below the foot of the walls at which things begin; the foot is that uncertain.


def standing_inverse(rgb: NDArray[np.floating], layout: Layout) -> NDArray[np.float64]:
    """Inverse z-depth [h w] in 1 / camera heights: floor, things, walls, and 0 in the sky."""
    height, width = layout.floor.shape
    size = reduced(width, height, LAYOUT_SIDE)
    K = layout.K * np.array([[size[0] / width], [size[1] / height], [1.0]])
    ground = ground_inverse(K, layout.up, size[1], size[0])
    floor = nearest(layout.floor, *size) & (ground > 0)
    solid = ~(floor | nearest(layout.sky, *size))
    feet = find_feet(floor, K, layout.axes, sure=layout.clear)
    factor = standing_factor(K, layout.up, size[1], size[0])
    hides = solid & (np.arange(size[1])[:, None] > feet.row + MARGIN)
    near = thing_nearness(hides, floor, solid, ground, factor, feet)
    links = likeness_links(colour_features(rgb, *size))
    things = thing_mask(hides, solid, near, ground, factor, feet, links)
    upright = _sharp(near, feet.nearness, things, width, height)
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


def thing_nearness(
    hides: NDArray[np.bool_],
    floor: NDArray[np.bool_],
    solid: NDArray[np.bool_],
    ground: NDArray[np.floating],
    factor: NDArray[np.floating],
    feet: Feet,
) -> NDArray[np.float64]:
    """Inverse distance [h w] of things from their lower edges, at least that of the walls.

    Args:
        hides: Pixels that hide floor, shape [h w].
        floor: Pixels of floor, shape [h w].
        solid: Pixels of anything upright, shape [h w].
        ground: Inverse depth of the floor at unit camera height, shape [h w].
        factor: Inverse depth of the upright plane one unit ahead, shape [h w].
        feet: The walls behind everything.
    """
    here = np.maximum(ground, 0) / np.maximum(factor, 1e-3)
    edge = np.zeros(floor.shape, bool)
    edge[:-1] = floor[1:] & hides[:-1]
    # What goes on below the lower edge of the picture stands nearer than the floor there.
    edge[-1] = hides[-1]
    bound = here.copy()
    bound[:-1] = here[1:]
    target = np.where(edge, bound, feet.nearness)
    right = np.where(hides[:, 1:] & hides[:, :-1], STIFF, 1e-3 * (solid[:, 1:] & solid[:, :-1]))
    down = np.where(hides[1:] & hides[:-1], STIFF, 0.3 * (solid[1:] & solid[:-1]))
    down = down * UPRIGHT
    field = np.where(edge, bound, 0.0)
    for _ in range(ROUNDS):
        data = np.where(edge, np.where(field <= bound, INSIST, TOLERATE), 1e-5)
        field = solve_field(right, down, data, target)
    return np.maximum(field, feet.nearness)


def thing_mask(
    hides: NDArray[np.bool_],
    solid: NDArray[np.bool_],
    near: NDArray[np.floating],
    ground: NDArray[np.floating],
    factor: NDArray[np.floating],
    feet: Feet,
    links: tuple[NDArray, NDArray],
) -> NDArray[np.bool_]:
    """Pixels [h w] of things: those that hide floor, and what goes on above them."""
    height, width = hides.shape
    # Height above the floor that a pixel would have as a part of the thing below it.
    level = np.clip(1 - ground / np.maximum(near * factor, 1e-3), 0, 4)
    rows = np.rint(feet.row).astype(int)
    columns = np.arange(width)
    below = np.zeros(width)
    for k in range(MARGIN + 1, MARGIN + 6):
        below = np.maximum(below, hides[np.clip(rows + k, 0, height - 1), columns])
    start = level[np.clip(rows + MARGIN, 0, height - 1), columns]
    column = np.clip(feet.column.astype(int), 0, width - 1)
    reach = np.exp(-np.maximum(level**2 - start[column] ** 2, 0) / USUAL_REACH**2)
    expected = np.where(hides, 1.0, below[column] * reach)
    right, down = links
    right = (0.01 + right) * (solid[:, 1:] & solid[:, :-1])
    down = (0.1 + down) * (solid[1:] & solid[:-1])
    weight = np.where(hides, 5.0, REACH_WEIGHT) * solid
    return (solve_field(right, down, weight, expected) > 0.5) & solid
