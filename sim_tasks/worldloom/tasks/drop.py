"""Spheres dropped on a collider: does the floor hold everywhere? In PhysX, on the CPU."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from worldloom.scene.errors import GateNotMet
from worldloom.tasks.navgrid import NavGrid
from worldloom.tasks.world import NavWorld

DIAMETER_M = 0.05  # Spheres of 5 cm, as the issue asks: radius 2.5 cm.
HEIGHT_M = 0.15  # Height of the lowest point above the floor at the start [m].
SECONDS = 3.0
REST_M = 0.02  # Distance from the collider within which a sphere rests [m].
REST_SPEED = 0.02  # Mean speed over the last half second of a sphere at rest [m/s].
LOST_M = 0.5  # Farther from the collider than this is reported as this [m].
SHARE_MIN = 0.995


@dataclass(frozen=True)
class DropResult:
    """What became of the spheres."""

    count: int
    at_rest: int
    """Slower than REST_SPEED and within REST_M of the collider."""
    below: int
    """Fallen through."""
    start: NDArray[np.float64]
    """Where they began [m], [n 3]."""
    end: NDArray[np.float64]
    """Where they ended [m], [n 3]."""
    gap: NDArray[np.float64]
    """Distance of each sphere's surface from the collider at the end [m], [n]."""

    @property
    def share(self) -> float:
        """Share of spheres at rest on the collider."""
        return self.at_rest / max(1, self.count)


def drop_test(world: NavWorld, grid: NavGrid, *, count: int = 200) -> DropResult:
    """Drop spheres on a regular grid of the observed floor.

    Raises:
        GateNotMet: There is less floor than spheres.
        InvalidRequest: PhysX is not installed.
    """
    from worldloom.tasks.sim_collider import ColliderIndex
    from worldloom.tasks.sim_physx import PhysxProcess
    from worldloom.tasks.sim_physx_stage import sphere_stage

    radius = DIAMETER_M / 2
    start = drop_points(grid, count)
    start[:, 2] += radius + HEIGHT_M
    process = PhysxProcess(sphere_stage([t.resolve() for t in world.tiles], count, radius))
    try:
        end, before = process.call("drop", start, SECONDS)
    finally:
        process.close()
    speed = np.linalg.norm(end - before, axis=1) / 0.5
    index = ColliderIndex.build(world.collider)
    gap = np.abs(index.distance(end, limit=LOST_M) - radius)
    floor = grid.floors[0].level
    below = end[:, 2] < floor - REST_M
    rest = (speed < REST_SPEED) & (gap <= REST_M) & ~below
    return DropResult(count, int(rest.sum()), int(below.sum()), start, end, gap)


def drop_points(grid: NavGrid, count: int) -> NDArray[np.float64]:
    """`count` points [n 3] spread evenly over the observed floor, on a square grid of cells.

    The cells of a whole sphere's radius around must have floor too: at the rim of the floor a
    sphere falls off, and rightly so.

    Raises:
        GateNotMet: The floor is too small.
    """
    from scipy.ndimage import binary_erosion

    floor = grid.floors[0]
    good = floor.observed & ~np.isnan(floor.z) & (floor.clearance > 0)
    good = binary_erosion(good, iterations=int(np.ceil(DIAMETER_M / grid.cell)))
    cells = np.argwhere(good)
    if len(cells) < count:
        raise GateNotMet(
            f"{len(cells)} cells of floor are too few for {count} spheres; drop fewer"
        )
    step = max(1, int(np.sqrt(len(cells) / count)))
    while step > 1 and ((cells % step == 0).all(1)).sum() < count:
        step -= 1
    regular = cells[(cells % step == 0).all(1)]
    chosen = regular[np.linspace(0, len(regular) - 1, count).round().astype(int)]
    xy = grid.centre_of(chosen)
    return np.column_stack([xy, floor.z[tuple(chosen.T)]])
