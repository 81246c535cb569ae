"""What hides the floor -> how near things are and how far up they go.

A thing's lower edge bounds its distance: it hides the floor there, and its lowest parts touch the
floor. Above the foot of the walls behind it, a thing goes on as far as things usually reach and as
its colours do.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from worldloom.generator.depth.grid import likeness_links, solve_field
from worldloom.generator.depth.walls import Feet

USUAL_REACH = 0.7
"""How high things reach, in camera heights: most furniture and vehicles end below eye level."""
ROUNDS = 4  # Reweighted solves; distances settle by then.
UPRIGHT = 4.0  # How much stronger a distance is kept upwards than sideways: things stand upright.
STIFF = 4.0  # Link between two pixels of one thing, whatever their colours.
INSIST, TOLERATE = 20.0, 0.1
"""Weight of a lower edge that would be behind the floor it hides, and of one in front of it: the
second is common, since most of a thing hangs above the floor."""
MARGIN = 3  # Rows below the foot of the walls at which things begin; the foot is that uncertain.
LOOK_ROUNDS = 3  # Turns of colour model and outline estimation.
LOOK_POWER, LOOK_LIMIT = 0.7, 5.0
"""Power and bound of the ratio of how frequent a colour is on things and elsewhere."""
SURE_WEIGHT, GUESS_WEIGHT = 5.0, 0.05
"""Weight of pixels that surely are things, and of guesses, against the likeness of neighbours."""


@dataclass(frozen=True)
class Scene:
    """A view at the size it is worked on; all arrays [h w]."""

    floor: NDArray[np.bool_]
    """Pixels of floor."""
    solid: NDArray[np.bool_]
    """Pixels of anything upright."""
    ground: NDArray[np.float64]
    """Inverse depth of the floor at unit camera height."""
    factor: NDArray[np.float64]
    """Inverse depth of the upright plane one unit ahead."""
    feet: Feet
    """The walls behind everything."""

    @property
    def hides(self) -> NDArray[np.bool_]:
        """Pixels that hide floor: upright, yet below the foot of the walls."""
        rows = np.arange(self.floor.shape[0])[:, None]
        return self.solid & (rows > self.feet.row + MARGIN)


def thing_nearness(scene: Scene) -> NDArray[np.float64]:
    """Inverse distance [h w] of things from their lower edges, at least that of the walls."""
    hides, solid, walls = scene.hides, scene.solid, scene.feet.nearness
    here = np.maximum(scene.ground, 0) / np.maximum(scene.factor, 1e-3)
    edge = np.zeros(hides.shape, bool)
    edge[:-1] = scene.floor[1:] & hides[:-1]
    # What goes on below the lower edge of the picture stands nearer than the floor there.
    edge[-1] = hides[-1]
    bound = here.copy()
    bound[:-1] = here[1:]
    target = np.where(edge, bound, walls)
    right = np.where(hides[:, 1:] & hides[:, :-1], STIFF, 1e-3 * (solid[:, 1:] & solid[:, :-1]))
    down = np.where(hides[1:] & hides[:-1], STIFF, 0.3 * (solid[1:] & solid[:-1])) * UPRIGHT
    field = np.where(edge, bound, 0.0)
    for _ in range(ROUNDS):
        data = np.where(edge, np.where(field <= bound, INSIST, TOLERATE), 1e-5)
        field = solve_field(right, down, data, target)
    return np.maximum(field, walls)


def thing_mask(
    scene: Scene,
    near: NDArray[np.floating],
    colour: NDArray[np.int64],
    features: NDArray[np.floating],
) -> NDArray[np.bool_]:
    """Pixels [h w] of things: those that hide floor, and what goes on above them.

    Args:
        scene: The view.
        near: Inverse distance of things, shape [h w].
        colour: Colour cluster of each pixel, shape [h w].
        features: Colours that decide where an outline may run, shape [h w c].
    """
    hides, solid = scene.hides, scene.solid
    expected = np.where(hides, 1.0, _reach(scene, near))
    chance = np.clip(expected, 0.01, 0.95)
    right, down = likeness_links(features)
    right = (0.01 + right) * (solid[:, 1:] & solid[:, :-1])
    down = (0.1 + down) * (solid[1:] & solid[:-1])
    share = np.clip(expected, 0.01, 0.99)
    for _ in range(LOOK_ROUNDS):
        odds = chance / (1 - chance) * _look_ratio(colour, share, solid)
        belief = np.where(hides, 1.0, odds / (1 + odds))
        sureness = GUESS_WEIGHT * (0.1 + np.abs(2 * belief - 1))
        weight = np.where(hides, SURE_WEIGHT, sureness) * solid
        share = np.clip(solve_field(right, down, weight, belief), 0.0, 1.0)
    return (share > 0.5) & solid


def _reach(scene: Scene, near: NDArray[np.floating]) -> NDArray[np.float64]:
    """Chance [h w] that a pixel belongs to a thing that hides floor below it."""
    height, width = near.shape
    # Height above the floor that a pixel would have as a part of the thing below it.
    level = np.clip(1 - scene.ground / np.maximum(near * scene.factor, 1e-3), 0, 4)
    rows, columns = np.rint(scene.feet.row).astype(int), np.arange(width)
    hides, below = scene.hides, np.zeros(width)
    for k in range(MARGIN + 1, MARGIN + 6):
        below = np.maximum(below, hides[np.clip(rows + k, 0, height - 1), columns])
    start = level[np.clip(rows + MARGIN, 0, height - 1), columns]
    column = np.clip(scene.feet.column.astype(int), 0, width - 1)
    beyond = np.maximum(level**2 - start[column] ** 2, 0)
    return below[column] * np.exp(-beyond / USUAL_REACH**2)


def _look_ratio(
    colour: NDArray[np.int64], share: NDArray[np.floating], solid: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """How much more frequent each pixel's colour is on things than on what is behind them."""
    count = int(colour.max()) + 1
    smooth = 0.01 * solid.sum() / count
    thing = np.bincount(colour.ravel(), (share * solid).ravel(), count) + smooth
    other = np.bincount(colour.ravel(), ((1 - share) * solid).ravel(), count) + smooth
    ratio = thing / thing.sum() / (other / other.sum())
    return np.clip(ratio, 1 / LOOK_LIMIT, LOOK_LIMIT)[colour] ** LOOK_POWER
