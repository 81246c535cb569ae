"""A collider and a robot -> where the robot can stand: the navigation grid.

Walkability is judged over the footprint, never per triangle: a plane is fitted to the heights
under the robot, so that the noise of a generated mesh does not close the floor (spec navigation
5.2: 2 cm of noise leave Recast 18 of 88 m^2 and the footprint fit 85).
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from worldloom.scene.cameras import npz_bytes
from worldloom.scene.errors import CorruptData, GateNotMet, InvalidRequest
from worldloom.scene.mesh import TriMesh
from worldloom.scene.worldfolder import write_whole
from worldloom.tasks.ground import fill_nearest, fit_ground
from worldloom.tasks.heightfield import floor_heights, obstacles_above
from worldloom.tasks.levels import find_levels
from worldloom.tasks.robots import RobotProfile

NAVGRID_SCHEMA = "worldloom.navgrid/1"
CELL_M, SMALL_CELL_M, SMALL_RADIUS_M = 0.05, 0.025, 0.2
"""Side of a cell, and of one for robots of a radius below the third number [m]."""
CELL_LIMITS_M = (0.005, 0.5)  # Finer is noise, coarser loses doors [m].
FLOOR_BAND_M = 0.35  # Heights around a level that may still be its floor: ramps, thresholds [m].
SPECK_M2 = 0.02
"""An unseen spot this small amid seen floor is a missed pixel or the far side of a bump, not a
part of the world that nobody looked at [m^2]."""
MAX_CELLS = 16_000_000  # 400 m x 100 m at 5 cm; a larger grid is a scale error, not a world.


@dataclass(frozen=True)
class GridParams:
    """How a grid was made."""

    cell: float
    """Side of a cell [m]."""
    min_island_m2: float = 0.0
    """Smallest connected area that counts [m^2]."""
    boundary: str = "wall"
    """`wall`: what no camera saw cannot be entered; `open`: it can."""

    def check(self) -> None:
        """Refuse parameters that make no grid.

        Raises:
            InvalidRequest: Names the parameter, its value and its bounds.
        """
        low, high = CELL_LIMITS_M
        if not low <= self.cell <= high:
            raise InvalidRequest(
                f"cell is {self.cell} m; it must be {low} to {high} m", field="cell"
            )
        if not 0 <= self.min_island_m2 < np.inf:
            raise InvalidRequest(
                f"min_island_m2 is {self.min_island_m2}; it must be 0 or more", field="min_island"
            )
        if self.boundary not in ("wall", "open"):
            raise InvalidRequest(
                f"boundary is {self.boundary!r}; use wall or open", field="boundary"
            )


@dataclass(frozen=True)
class Floor:
    """One level of the world on the grid; arrays are [ny nx], row 0 at the lowest y."""

    level: float
    """Height of the level [m]."""
    noise_m: float
    """Robust sigma of the surface about the footprint planes [m]."""
    z: NDArray[np.float32]
    """Floor height at the cell centre [m]; NaN where there is none."""
    walkable: NDArray[np.bool_]
    """Where the robot's centre may be."""
    clearance: NDArray[np.float32]
    """Distance from the cell centre to the nearest obstacle, hole or unseen part [m]."""
    island: NDArray[np.int32]
    """Number of the connected area, -1 where not walkable; 0 is the largest."""
    blocked: NDArray[np.bool_]
    """Something stands here that the robot would hit, or a step that it cannot take."""
    observed: NDArray[np.bool_]
    """Whether a camera saw this floor."""
    made_up: NDArray[np.bool_]
    """Observed, but only in parts of frames that the engine made up."""

    def island_areas(self, cell: float) -> NDArray[np.float64]:
        """Area of each island [m^2], largest first."""
        return np.bincount(self.island[self.island >= 0]) * cell**2


@dataclass(frozen=True)
class NavGrid:
    """Where a robot can stand in a world."""

    cell: float
    """Side of a cell [m]."""
    origin_xy: NDArray[np.float64]
    """World x, y of the lower left corner of cell (0, 0) [m]."""
    floors: tuple[Floor, ...]
    """Levels, the one with the largest navigable area first."""
    robot: dict[str, Any]
    """The robot profile."""
    params: GridParams
    collider_sha256: str

    @property
    def navigable_m2(self) -> float:
        """Navigable area of all floors [m^2]."""
        return float(sum(f.walkable.sum() for f in self.floors) * self.cell**2)

    def cell_of(self, xy: ArrayLike) -> NDArray[np.int64]:
        """Row and column of world points [... 2]; may lie outside the grid."""
        at = (np.asarray(xy, float)[..., :2] - self.origin_xy) / self.cell
        return np.floor(at).astype(np.int64)[..., ::-1]

    def centre_of(self, cells: ArrayLike) -> NDArray[np.float64]:
        """World x, y of the centres of cells [... 2] given as row, column."""
        return self.origin_xy + (np.asarray(cells, float)[..., ::-1] + 0.5) * self.cell

    def lookup(
        self, array: NDArray[Any], xy: ArrayLike, *, outside: float | bool | int
    ) -> NDArray[Any]:
        """Values of a [ny nx] array at world points [... 2]; `outside` beyond its border."""
        cells = self.cell_of(xy)
        rows, columns = array.shape
        row, column = cells[..., 0], cells[..., 1]
        inside = (row >= 0) & (column >= 0) & (row < rows) & (column < columns)
        value = array[np.clip(row, 0, rows - 1), np.clip(column, 0, columns - 1)]
        return np.where(inside, value, outside)

    def save(self, file: Path) -> None:
        """Write navgrid.npz.

        Raises:
            StorageUnwritable: The folder cannot be written.
        """
        meta = {
            "schema": NAVGRID_SCHEMA,
            "robot": self.robot,
            "params": asdict(self.params),
            "collider_sha256": self.collider_sha256,
            "levels": [float(floor.level) for floor in self.floors],
            "noise_m": [float(floor.noise_m) for floor in self.floors],
        }
        arrays: dict[str, NDArray[Any]] = {
            "cell": np.array(self.cell),
            "origin_xy": self.origin_xy,
            "meta": np.frombuffer(json.dumps(meta, sort_keys=True).encode(), np.uint8),
        }
        for number, floor in enumerate(self.floors):
            for name in _FLOOR_ARRAYS:
                arrays[f"floor{number}_{name}"] = getattr(floor, name)
        write_whole(file, npz_bytes(arrays))

    @staticmethod
    def load(file: Path) -> NavGrid:
        """Read navgrid.npz.

        Raises:
            CorruptData: The file is missing or no grid.
        """
        try:
            with np.load(file, allow_pickle=False) as data:
                meta = json.loads(data["meta"].tobytes())
                floors = tuple(
                    Floor(*pair, **{name: data[f"floor{k}_{name}"] for name in _FLOOR_ARRAYS})
                    for k, pair in enumerate(zip(meta["levels"], meta["noise_m"], strict=True))
                )
                return NavGrid(
                    float(data["cell"]), data["origin_xy"], floors, meta["robot"],
                    GridParams(**meta["params"]), meta["collider_sha256"],
                )  # fmt: skip
        except (OSError, KeyError, ValueError, TypeError) as error:
            raise CorruptData(
                f"{file} is no navigation grid ({error}); run 'worldloom nav build'"
            ) from error


_FLOOR_ARRAYS = ("z", "walkable", "clearance", "island", "blocked", "observed", "made_up")


def default_cell(robot: RobotProfile) -> float:
    """Side of a cell that fits a robot [m]."""
    return SMALL_CELL_M if robot.radius < SMALL_RADIUS_M else CELL_M


def build_navgrid(
    mesh: TriMesh,
    robot: RobotProfile,
    *,
    params: GridParams | None = None,
    observer: Any = None,
    collider_sha256: str = "",
) -> NavGrid:
    """Judge a collider for a robot.

    Args:
        mesh: Collider, world metres, Z up.
        robot: Whose footprint, step, slope and height count.
        params: Cell size, smallest island, what to do with unseen floor.
        observer: `observed.Observer` or anything with `look(points [n 3])` -> (observed, seen)
            masks; None takes everything as seen in the photo.
        collider_sha256: Hash of the collider, kept in the grid.

    Raises:
        InvalidRequest: A parameter is out of bounds.
        GateNotMet: There is no floor at all, or the world is too large for its cells.
    """
    params = params or GridParams(default_cell(robot))
    params.check()
    low, high = mesh.extent().astype(np.float64)
    margin = 2 * params.cell
    origin = np.floor((low[:2] - margin) / params.cell) * params.cell
    shape = np.ceil((high[:2] + margin - origin) / params.cell).astype(int)[::-1]
    if shape.prod() > MAX_CELLS:
        raise GateNotMet(
            f"the world is {high[0] - low[0]:.0f} x {high[1] - low[1]:.0f} m; at {params.cell} m "
            f"that is {shape.prod():,} cells, the limit is {MAX_CELLS:,}. Check its scale, or use "
            "a larger --cell"
        )
    levels = find_levels(mesh, robot.height)
    if not levels:
        raise GateNotMet("no floor was found: no level surface of 0.5 m^2 or more faces up")
    floors = [
        _build_floor(mesh, robot, level, origin, (int(shape[0]), int(shape[1])), params, observer)
        for level in levels
    ]
    floors.sort(key=lambda floor: -int(floor.walkable.sum()))
    return NavGrid(
        params.cell, origin, tuple(floors), robot.to_json(), params, collider_sha256
    )


def _build_floor(
    mesh: TriMesh, robot: RobotProfile, level: float, origin: NDArray[np.float64],
    shape: tuple[int, int], params: GridParams, observer: Any,
) -> Floor:  # fmt: skip
    from scipy.ndimage import distance_transform_edt

    band = (level - FLOOR_BAND_M, level + FLOOR_BAND_M)
    z = floor_heights(mesh, origin, params.cell, shape, band)
    known = ~np.isnan(z)
    ground = fit_ground(
        z, radius=robot.radius, cell=params.cell, max_step=robot.max_step,
        max_slope_deg=robot.max_slope_deg,
    )  # fmt: skip
    under = fill_nearest(ground.plane, known) if known.any() else np.full(shape, level)
    high = obstacles_above(mesh, under, origin, params.cell, ground.climb_m, robot.height)
    blocked = high | ground.edge
    observed, seen = _observe(z, origin, params.cell, observer)
    open_ = known & ~blocked
    if params.boundary == "wall":
        open_ &= observed
    # A border of closed cells makes the edge of the grid an obstacle like any other.
    distance = distance_transform_edt(np.pad(open_, 1))[1:-1, 1:-1]
    # Half a cell less: the obstacle may lie anywhere in its cell.
    clearance = np.maximum(distance * params.cell - 0.5 * params.cell, 0).astype(np.float32)
    level_enough = ground.slope <= np.tan(np.radians(robot.max_slope_deg))
    island = _islands((clearance >= robot.radius) & level_enough, params)
    return Floor(
        level=level,
        noise_m=ground.noise_m,
        z=z,
        walkable=island >= 0,
        clearance=clearance,
        island=island,
        blocked=blocked,
        observed=observed,
        made_up=observed & ~seen,
    )


def _observe(
    z: NDArray[np.float32], origin: NDArray[np.float64], cell: float, observer: Any
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    known = ~np.isnan(z)
    if observer is None:
        return known, known.copy()
    rows, columns = np.nonzero(known)
    points = np.stack(
        [origin[0] + (columns + 0.5) * cell, origin[1] + (rows + 0.5) * cell, z[known]], -1
    )
    observed, seen = np.zeros_like(known), np.zeros_like(known)
    observed[known], seen[known] = observer.look(points)
    return observed | _specks(known & ~observed, SPECK_M2 / cell**2), seen


def _specks(mask: NDArray[np.bool_], largest: float) -> NDArray[np.bool_]:
    """Connected parts of a mask of at most `largest` cells."""
    from scipy.ndimage import label

    labels, _ = label(mask, np.ones((3, 3)))
    size = np.bincount(labels.ravel())
    size[0] = mask.size
    return size[labels] <= largest


def _islands(walkable: NDArray[np.bool_], params: GridParams) -> NDArray[np.int32]:
    """Connected areas, largest first; those below the smallest size are dropped."""
    from scipy.ndimage import label

    labels, count = label(walkable)
    size = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    order = np.argsort(-size, kind="stable")
    number = np.full(count + 1, -1, np.int32)
    keep = size[order] * params.cell**2 >= params.min_island_m2
    number[order[keep] + 1] = np.arange(int(keep.sum()), dtype=np.int32)
    return number[labels]
