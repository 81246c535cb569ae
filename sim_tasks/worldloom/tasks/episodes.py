"""A navigation grid -> point-goal episodes with Habitat's filters, and their JSONL file.

Episode i depends on (dataset seed, world, i) alone: never on how many others are drawn or by how
many workers (spec navigation 4.4).
"""

from __future__ import annotations

import json
import zlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worldloom.scene.errors import CorruptData, InvalidRequest
from worldloom.scene.worldfolder import write_whole
from worldloom.tasks.geodesic import DistanceField, FloorGraph
from worldloom.tasks.navgrid import NavGrid

GOAL_TRIES, START_TRIES = 30, 10
"""Goals tried for one episode, and starts for one goal (Habitat's generator tries 10)."""
TURN_DEG = 30.0  # A bend of the reference path sharper than this counts as a turn [degrees].
DIGITS = 6  # Decimals of floats in files (spec navigation 4.1).


@dataclass(frozen=True)
class Start:
    """Where an episode starts."""

    position: tuple[float, float, float]
    """World metres, on the floor."""
    yaw: float
    """Heading about +Z [rad]."""


@dataclass(frozen=True)
class Goal:
    """Where it should end."""

    position: tuple[float, float, float]
    """World metres, on the floor."""
    radius: float
    """Success radius [m]."""
    yaw: float | None = None
    view_points: list[Any] | None = None
    image: str | None = None


@dataclass(frozen=True)
class Episode:
    """One task."""

    id: str
    world: str
    floor: int
    seed: int
    start: Start
    goals: tuple[Goal, ...]
    geodesic: float
    """Length of the shortest way to the goal [m]."""
    euclid: float
    ratio: float
    reference_time: float
    """Time of the reference path under the robot's limits [s]."""
    min_clearance: float
    """Smallest distance to an obstacle along the reference path [m]."""
    turns: int
    difficulty: str
    """Bin of the geodesic length."""
    reference_path: tuple[tuple[float, float, float], ...]
    verified: dict[str, Any] | None = None
    tags: tuple[str, ...] = ()
    """`made-up`: the reference path leaves what the photo showed."""

    def to_json(self) -> dict[str, Any]:
        """The episode as a plain dictionary with rounded floats."""
        return _rounded(asdict(self))

    @staticmethod
    def from_json(data: dict[str, Any]) -> Episode:
        """Read an episode dictionary."""
        fields = dict(data)
        fields["start"] = Start(tuple(data["start"]["position"]), data["start"]["yaw"])
        fields["goals"] = tuple(
            Goal(**{**goal, "position": tuple(goal["position"])}) for goal in data["goals"]
        )
        fields["reference_path"] = tuple(tuple(p) for p in data["reference_path"])
        fields["tags"] = tuple(data.get("tags", ()))
        return Episode(**fields)


@dataclass(frozen=True)
class Sampling:
    """How episodes are drawn (keys of dataset.yaml, spec navigation 4.3)."""

    geodesic: tuple[float, float] = (1.0, 30.0)
    """Shortest and longest way [m]."""
    ratio_threshold: float | None = 1.1
    """Ways straighter than this are mostly dropped; None keeps all."""
    max_height_diff: float = 0.5
    min_island_area: float = 7.07
    """Smallest island [m^2]: pi x 1.5^2, the meaning of Habitat's radius."""
    min_clearance: float = 0.05
    """Distance beyond the robot's radius at start and goal [m]."""
    success_radius: float = 0.36
    bins: tuple[float, ...] = (1.0, 5.0, 10.0, 20.0, 30.0)

    def check(self) -> None:
        """Refuse filters that let nothing through.

        Raises:
            InvalidRequest: Names the filter and its value.
        """
        low, high = self.geodesic
        if not 0 <= low < high:
            raise InvalidRequest(
                f"geodesic range is {low:g} to {high:g} m; the first must be 0 or more and below "
                "the second",
                field="geodesic",
            )
        if not 0 < self.success_radius < np.inf:
            raise InvalidRequest(
                f"success radius is {self.success_radius} m; it must be above 0",
                field="success_radius",
            )


@dataclass
class Tally:
    """What became of the tries."""

    tries: int = 0
    kept: int = 0
    rejected: Counter[str] = field(default_factory=Counter)


def sample_episodes(
    grid: NavGrid, world: str, count: int, *, sampling: Sampling, seed: int
) -> tuple[list[Episode], Tally]:
    """Draw up to `count` episodes; fewer when the world does not give them.

    Args:
        grid: Where the robot can stand.
        world: Name of the world, part of every episode's id and randomness.
        count: Episodes wanted.
        sampling: Filters.
        seed: Seed of the dataset, 0 or more.

    Raises:
        InvalidRequest: A filter lets nothing through, or count or seed make no sense.
    """
    sampling.check()
    if count < 1 or seed < 0:
        raise InvalidRequest(
            f"{count} episodes with seed {seed} cannot be drawn; give a count of 1 or more and a "
            "seed of 0 or more",
            field="count" if count < 1 else "seed",
        )
    graphs = [FloorGraph(grid, k) for k in range(len(grid.floors))]
    pools = [_eligible(grid, k, sampling) for k in range(len(grid.floors))]
    tally, fields = Tally(), {}
    episodes = []
    for index in range(count):
        episode = _draw(grid, graphs, pools, fields, world, index, sampling, seed, tally)
        if episode is not None:
            episodes.append(episode)
    return episodes, tally


def write_episodes(episodes: list[Episode], file: Path) -> None:
    """Write episodes, one JSON object a line, sorted by id."""
    lines = [
        json.dumps(e.to_json(), sort_keys=True) for e in sorted(episodes, key=lambda e: e.id)
    ]
    write_whole(file, ("\n".join(lines) + "\n").encode() if lines else b"")


def read_episodes(file: Path) -> list[Episode]:
    """Read a JSONL file of episodes.

    Raises:
        InvalidRequest: There is no such file.
        CorruptData: A line is no episode.
    """
    if not file.is_file():
        raise InvalidRequest(
            f"there is no episode file {file}; draw one with 'worldloom nav sample'"
        )
    episodes = []
    for number, line in enumerate(file.read_text("utf-8").splitlines(), 1):
        try:
            episodes.append(Episode.from_json(json.loads(line)))
        except (KeyError, TypeError, ValueError) as error:
            raise CorruptData(f"{file} line {number} is no episode: {error}") from error
    return episodes


def reference_time(path: NDArray[np.float64], robot: Mapping[str, Any], *, yaw: float) -> float:
    """Time [s] to drive a polyline [n 2] that stops to turn at each corner: an upper bound.

    Args:
        path: World x, y [m].
        robot: The profile's v_max, w_max, a_max and alpha_max.
        yaw: Heading at the start [rad]; turning towards the path takes its time too.
    """
    steps = np.diff(path, axis=0)
    lengths = np.linalg.norm(steps, axis=1)
    steps, lengths = steps[lengths > 1e-9], lengths[lengths > 1e-9]
    headings = np.concatenate([[yaw], np.arctan2(steps[:, 1], steps[:, 0])])
    turns = np.abs((np.diff(headings) + np.pi) % (2 * np.pi) - np.pi)
    drive = _ramped_time(lengths, robot["v_max"], robot["a_max"])
    turn = _ramped_time(turns, robot["w_max"], robot["alpha_max"])
    return float(drive.sum() + turn.sum())


def _ramped_time(way: NDArray[np.float64], speed: float, ramp: float) -> NDArray[np.float64]:
    """Times from rest to rest: a trapezoid of speed, or a triangle when the way is short."""
    return np.where(way > speed**2 / ramp, way / speed + speed / ramp, 2 * np.sqrt(way / ramp))


def _eligible(grid: NavGrid, floor: int, sampling: Sampling) -> NDArray[np.int64]:
    """Cells (row, column) that may be starts and goals."""
    level = grid.floors[floor]
    areas = level.island_areas(grid.cell)
    large = np.zeros(len(areas) + 1, bool)
    large[:-1] = areas >= sampling.min_island_area
    roomy = level.clearance >= float(grid.robot["radius"]) + sampling.min_clearance
    return np.argwhere(level.walkable & roomy & large[level.island])


def _draw(
    grid: NavGrid, graphs: list[FloorGraph], pools: list[NDArray[np.int64]],
    fields: dict[tuple[int, int, int], DistanceField], world: str, index: int,
    sampling: Sampling, seed: int, tally: Tally,
) -> Episode | None:  # fmt: skip
    entropy = np.random.SeedSequence([seed, zlib.crc32(world.encode()), index])
    rng = np.random.default_rng(entropy)
    sizes = np.array([len(pool) for pool in pools], float)
    if sizes.sum() == 0:
        tally.rejected["no eligible floor"] += 1
        return None
    for _ in range(GOAL_TRIES):
        floor = int(rng.choice(len(pools), p=sizes / sizes.sum()))
        goal = pools[floor][rng.integers(len(pools[floor]))]
        key = (floor, int(goal[0]), int(goal[1]))
        if key not in fields:
            fields.clear()  # One field at a time: each is as large as the grid.
            fields[key] = DistanceField(graphs[floor], grid.centre_of(goal))
        for _ in range(START_TRIES):
            start = pools[floor][rng.integers(len(pools[floor]))]
            yaw = float(rng.uniform(-np.pi, np.pi))
            chance = float(rng.random())
            tally.tries += 1
            reason = _reject(grid, floor, fields[key], start, goal, sampling, chance)
            if reason is None:
                tally.kept += 1
                name = f"{world}-pointnav-{index:06d}"
                return _episode(
                    grid, floor, fields[key], start, goal, yaw, name, world, sampling,
                    int(entropy.generate_state(1)[0]),
                )  # fmt: skip
            tally.rejected[reason] += 1
    return None


def _reject(
    grid: NavGrid, floor: int, distances: DistanceField, start: NDArray[np.int64],
    goal: NDArray[np.int64], sampling: Sampling, chance: float,
) -> str | None:  # fmt: skip
    """Why a pair is not an episode; None when it is (spec navigation 1.5)."""
    level = grid.floors[floor]
    if abs(level.z[tuple(start)] - level.z[tuple(goal)]) > sampling.max_height_diff:
        return "height difference"
    geodesic = float(distances.values[tuple(start)])
    if not np.isfinite(geodesic):
        return "other island"
    if not sampling.geodesic[0] <= geodesic <= sampling.geodesic[1]:
        return "too near" if geodesic < sampling.geodesic[0] else "too far"
    if sampling.ratio_threshold is not None:
        straight = np.linalg.norm(grid.centre_of(start) - grid.centre_of(goal))
        ratio = geodesic / max(float(straight), 1e-9)
        if ratio < sampling.ratio_threshold and chance >= 20 * (ratio - 0.98) ** 2:
            return "too straight"
    return None


def _episode(
    grid: NavGrid, floor: int, distances: DistanceField, start: NDArray[np.int64],
    goal: NDArray[np.int64], yaw: float, name: str, world: str, sampling: Sampling, seed: int,
) -> Episode:  # fmt: skip
    level, robot = grid.floors[floor], grid.robot
    a, b = grid.centre_of(start), grid.centre_of(goal)
    path = distances.path(a)
    geodesic = float(distances.distance(a))
    euclid = float(np.linalg.norm(a - b))
    bends = np.abs(np.diff(np.unwrap(np.arctan2(*np.diff(path, axis=0).T[::-1]))))
    heights = grid.lookup(level.z, path, outside=np.nan)
    along = _dense(path, 0.5 * grid.cell)
    clearance = grid.lookup(level.clearance, along, outside=0.0)
    made_up = bool(grid.lookup(level.made_up, along, outside=False).any())
    return Episode(
        id=name, world=world, floor=floor, seed=seed,
        start=Start((float(a[0]), float(a[1]), float(level.z[tuple(start)])), yaw),
        goals=(
            Goal((float(b[0]), float(b[1]), float(level.z[tuple(goal)])), sampling.success_radius),
        ),
        geodesic=geodesic, euclid=euclid, ratio=geodesic / max(euclid, 1e-9),
        reference_time=reference_time(path, robot, yaw=yaw),
        min_clearance=float(clearance.min()),
        turns=int((bends > np.radians(TURN_DEG)).sum()),
        difficulty=_bin(geodesic, sampling.bins),
        reference_path=tuple(
            (float(x), float(y), float(z)) for (x, y), z in zip(path, heights, strict=True)
        ),
        tags=("made-up",) if made_up else (),
    )  # fmt: skip


def _dense(path: NDArray[np.float64], spacing: float) -> NDArray[np.float64]:
    """Points along a polyline at most `spacing` apart."""
    length = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(path, axis=0), axis=1))])
    at = np.linspace(0, length[-1], max(2, int(length[-1] / spacing) + 1))
    return np.stack([np.interp(at, length, path[:, k]) for k in range(2)], 1)


def _bin(length: float, bins: tuple[float, ...]) -> str:
    for low, high in pairwise(bins):
        if length < high:
            return f"{low:g}-{high:g}"
    return f">{bins[-1]:g}"


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, DIGITS)
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_rounded(item) for item in value]
    return value
