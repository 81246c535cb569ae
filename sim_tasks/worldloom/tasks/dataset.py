"""A world, a grid and filters -> a dataset folder: episodes, USD tasks, hashes."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from worldloom.scene.errors import CorruptData, GateNotMet
from worldloom.scene.worldfolder import file_sha256, make_folder, write_whole
from worldloom.tasks.episodes import (
    Episode,
    Sampling,
    Tally,
    read_episodes,
    sample_episodes,
    write_episodes,
)
from worldloom.tasks.geodesic import DistanceField, FloorGraph
from worldloom.tasks.navgrid import NavGrid
from worldloom.tasks.robots import RobotProfile, robot_from
from worldloom.tasks.usd_tasks import write_task_layer
from worldloom.tasks.world import NavWorld

DATASET_SCHEMA = "navtask/1"
DATASET, MANIFEST, TASKS, GRID = "dataset.yaml", "MANIFEST.json", "usd/tasks.usda", "navgrid.npz"
ORACLE_SUCCESS_MIN, STRAIGHT_SUCCESS_MAX = 0.95, 0.6
"""Gates of a dataset that calls itself a benchmark (spec navigation 4.7)."""

GEODESIC_SLACK = 1e-4  # Rounding in files moves a way's length by less than this share.


@dataclass(frozen=True)
class Dataset:
    """A dataset folder that is open."""

    folder: Path
    name: str
    seed: int
    world: Path
    """Folder of the world."""
    world_id: str
    robot: RobotProfile
    goal: dict[str, Any]
    """success_radius [m], dwell_s [s], stop_speed [m/s], stop_yaw_rate [rad/s]."""
    limits: dict[str, Any]
    benchmark: bool
    """Whether the dataset claims to be one; the straight-line gate holds only then."""

    def episodes(self, split: str) -> list[Episode]:
        """Episodes of a split.

        Raises:
            InvalidRequest: There is no such split.
        """
        return read_episodes(self.folder / "episodes" / f"{split}.jsonl")

    def grid(self) -> NavGrid:
        """The grid that the episodes were drawn on."""
        return NavGrid.load(self.folder / GRID)


def make_dataset(
    folder: Path,
    world: NavWorld,
    grid: NavGrid,
    robot: RobotProfile,
    *,
    name: str,
    count: int,
    sampling: Sampling,
    seed: int,
    split: str = "test",
    benchmark: bool = False,
) -> tuple[list[Episode], Tally]:
    """Draw episodes and write the dataset.

    Raises:
        InvalidRequest: A filter lets nothing through.
        GateNotMet: Not a single episode can be drawn; the text tells why tries failed.
        StorageUnwritable: The folder cannot be written.
    """
    episodes, tally = sample_episodes(grid, world.id, count, sampling=sampling, seed=seed)
    if not episodes:
        why = ", ".join(f"{n} {reason}" for reason, n in tally.rejected.most_common(4))
        raise GateNotMet(
            f"no episode could be drawn in {tally.tries} tries ({why}); the world has "
            f"{grid.navigable_m2:.1f} m^2 of navigable floor. Loosen --geodesic or --min-island"
        )
    make_folder(folder)
    write_episodes(episodes, folder / "episodes" / f"{split}.jsonl")
    grid.save(folder / GRID)
    write_task_layer(
        folder / TASKS, world.folder / "world.usda", episodes, robot, dataset=name,
        manifest_sha256=file_sha256(world.folder / "manifest.json"),
    )  # fmt: skip
    _write_config(folder, world, robot, name, seed, sampling, {split: len(episodes)}, benchmark)
    _write_manifest(folder, world, seed, tally)
    return episodes, tally


def open_dataset(folder: Path) -> Dataset:
    """Open a dataset folder.

    Raises:
        CorruptData: It is none, or its configuration cannot be read.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    file = folder / DATASET
    try:
        data: Any = OmegaConf.to_container(OmegaConf.load(file), resolve=True)
        if data["schema"] != DATASET_SCHEMA:
            raise CorruptData(f"{file} has schema {data['schema']!r}; expected {DATASET_SCHEMA!r}")
        world = data["worlds"][0]
        return Dataset(
            folder=folder, name=data["name"], seed=int(data["seed"]),
            world=(folder / world["path"]).resolve(), world_id=world["id"],
            robot=robot_from(data["robot"]["numbers"]), goal=data["goal"],
            limits=data["limits"],
            benchmark=bool(data.get("benchmark", False)),
        )  # fmt: skip
    except (OSError, KeyError, TypeError, IndexError, OmegaConfBaseException) as error:
        raise CorruptData(
            f"{folder} is no dataset ({error}); make one with 'worldloom nav sample'"
        ) from error


def check_dataset(folder: Path) -> list[str]:
    """What is wrong with a dataset, one line each: its files, its world, its episodes.

    Raises:
        CorruptData: The folder is no dataset, or a file of it cannot be read.
    """
    file = folder / MANIFEST
    if not file.is_file():
        return [f"{MANIFEST}: missing"]
    try:
        manifest = json.loads(file.read_text("utf-8"))
        files, world_sha256 = dict(manifest["files"]), manifest["world_manifest_sha256"]
    except (ValueError, KeyError, TypeError) as error:
        raise CorruptData(f"{file} cannot be read ({error}); make the dataset again") from error
    problems = []
    for name, digest in files.items():
        path = folder / name
        if not path.is_file():
            problems.append(f"{name}: missing")
        elif file_sha256(path) != digest:
            problems.append(f"{name}: changed since the dataset was made")
    if problems:
        return problems
    dataset = open_dataset(folder)
    world_manifest = dataset.world / "manifest.json"
    if not world_manifest.is_file():
        problems.append(f"world {dataset.world}: missing")
    elif file_sha256(world_manifest) != world_sha256:
        problems.append(f"world {dataset.world}: changed since the dataset was made")
    grid = dataset.grid()
    for split in sorted((folder / "episodes").glob("*.jsonl")):
        problems += check_episodes(read_episodes(split), grid)
    return problems


def check_episodes(episodes: list[Episode], grid: NavGrid) -> list[str]:
    """Episodes that do not hold on a grid, one line each: off the floor, or no such way."""
    graphs = [FloorGraph(grid, k) for k in range(len(grid.floors))]
    problems = []
    for episode in episodes:
        if episode.floor >= len(graphs):
            problems.append(f"{episode.id}: there is no floor {episode.floor}")
            continue
        walkable = grid.floors[episode.floor].walkable
        places = {"start": episode.start.position}
        places |= {f"goal {k}": goal.position for k, goal in enumerate(episode.goals)}
        off = [n for n, at in places.items() if not grid.lookup(walkable, at[:2], outside=False)]
        problems += [f"{episode.id}: its {name} is not on walkable floor" for name in off]
        if off:
            continue
        field = DistanceField(graphs[episode.floor], episode.goals[0].position)
        found = float(field.distance(episode.start.position))
        if not abs(found - episode.geodesic) <= GEODESIC_SLACK * max(1.0, episode.geodesic):
            problems.append(
                f"{episode.id}: the way is {found:.3f} m, the file says {episode.geodesic:.3f} m"
            )
    return problems


def _write_config(
    folder: Path, world: NavWorld, robot: RobotProfile, name: str, seed: int, sampling: Sampling,
    counts: dict[str, int], benchmark: bool,
) -> None:  # fmt: skip
    from omegaconf import OmegaConf

    config = {
        "schema": DATASET_SCHEMA,
        "name": name,
        "seed": seed,
        "benchmark": benchmark,
        "worlds": [
            {
                "id": world.id,
                "path": os.path.relpath(world.folder.resolve(), folder.resolve()),
                "collider_sha256": world.collider_sha256,
            }
        ],
        # With its numbers: a profile that changes later must not change the dataset.
        "robot": {"profile": robot.name, "numbers": robot.to_json()},
        "task": {"type": "pointnav"},
        "goal": {
            "success_radius": sampling.success_radius,
            "heading_tolerance": None,
            "stop": "dwell",
            "dwell_s": 0.5,
            "stop_speed": 0.05,
            "stop_yaw_rate": 0.1,
        },
        "limits": {
            "max_time_s": "auto",
            "time_factor": 4.0,
            "max_steps": None,
            "max_collisions": None,
            "stuck": {"window_s": 10, "distance": 0.1},
            "fall": {"roll_pitch_deg": 45, "drop": 0.3},
        },
        "control": {"action": "velocity", "rate_hz": 10},
        "sensors": {"goal": {"type": "pointgoal", "frame": "polar", "gps_compass": True}},
        "sampling": _sampling(sampling, counts),
    }
    write_whole(folder / DATASET, OmegaConf.to_yaml(OmegaConf.create(config)).encode())


def _write_manifest(folder: Path, world: NavWorld, seed: int, tally: Tally) -> None:
    # Only what this module wrote: runs and notes beside it are nobody's promise.
    written = [folder / name for name in (DATASET, GRID, TASKS)]
    written += sorted((folder / "episodes").glob("*.jsonl"))
    files = {str(path.relative_to(folder)): file_sha256(path) for path in sorted(written)}
    record = {
        "schema": "navtask.manifest/1",
        "files": files,
        "seed": seed,
        "tally": {
            "tries": tally.tries,
            "kept": tally.kept,
            "rejected": dict(sorted(tally.rejected.items())),
        },
        "world_id": world.manifest.world_id,
        "world_manifest_sha256": file_sha256(world.folder / "manifest.json"),
        "collider_sha256": world.collider_sha256,
        "navgrid_sha256": files[GRID],
        "code_version": world.manifest.code_version,
    }
    write_whole(folder / MANIFEST, (json.dumps(record, indent=2, sort_keys=True) + "\n").encode())


def _sampling(sampling: Sampling, counts: dict[str, int]) -> dict[str, Any]:
    """The filters under the names of the dataset format (spec navigation 4.3)."""
    return {
        "n": counts,
        "geodesic": list(sampling.geodesic),
        "ratio": {"threshold": sampling.ratio_threshold, "keep": "habitat"},
        "max_height_diff": sampling.max_height_diff,
        "min_island_area": sampling.min_island_area,
        "min_clearance": sampling.min_clearance,
        "balance": {"bins": list(sampling.bins), "per": "geodesic"},
        "observed_only": True,
    }
