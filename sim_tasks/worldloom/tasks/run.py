"""A dataset, a policy and a simulator -> raw logs. Nothing is scored here.

What is written: `run.yaml`, `env.json`, `trajectories/<episode>.npz` and `events.jsonl`. Scores are
computed from these alone (score.py), so that anyone can recompute them. A run that was interrupted
goes on with the episodes that have no trajectory yet. Wall-clock times go to `timing.jsonl`, which
no score reads: trajectories hold only what a rerun reproduces.
"""

from __future__ import annotations

import importlib.util
import json
import math
import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worldloom.scene.cameras import npz_bytes
from worldloom.scene.errors import EngineFailed, InvalidRequest, WorldloomError
from worldloom.scene.frame import yaw_of_quat_wxyz
from worldloom.scene.worldfolder import make_folder, write_whole
from worldloom.tasks.dataset import Dataset, open_dataset
from worldloom.tasks.ending import EndWatch, limits_of
from worldloom.tasks.episodes import Episode
from worldloom.tasks.geodesic import FloorGraph
from worldloom.tasks.policies import Policy, TaskInfo, load_policy
from worldloom.tasks.sim_base import Simulator, State
from worldloom.tasks.world import open_navworld

RUN_SCHEMA = "worldloom.run-log/1"
BACKENDS = ("kinematic", "physx")
SIM_ERROR, POLICY_ERROR = "sim_error", "policy_error"
SIM_ERRORS_MAX = 3
"""Episodes in a row that a simulator may fail before the run gives up on it."""


@dataclass(frozen=True)
class EpisodeLog:
    """What happened in one episode; arrays have one row a control step, the start included."""

    t: NDArray[np.float64]
    """Simulated time [s]."""
    pose_xyz_wxyz: NDArray[np.float64]
    """World pose, [t 7]."""
    twist: NDArray[np.float64]
    """Body velocity, [t 6]."""
    cmd: NDArray[np.float64]
    """Forward speed and turn rate that led here, [t 2]."""
    contact: NDArray[np.bool_]
    impulse: NDArray[np.float64]
    penetration: NDArray[np.float64]
    end_reason: str
    """`stop`, `timeout`, `stuck`, `fall`, `collision_limit`, or an error and its text."""

    @property
    def seconds(self) -> float:
        """Simulated time to the end [s]."""
        return float(self.t[-1]) if len(self.t) else 0.0


@dataclass(frozen=True)
class Timing:
    """How long one episode took on this machine."""

    latency: NDArray[np.float64]
    """Time that the policy took for each command [s]."""
    wall_s: float
    """The whole episode [s]."""

    def to_json(self, episode: Episode, log: EpisodeLog) -> dict[str, Any]:
        """One line of `timing.jsonl`."""
        took = 1000 * self.latency if len(self.latency) else np.zeros(1)
        return {
            "episode": episode.id,
            "latency_mean_ms": float(took.mean()),
            "latency_p95_ms": float(np.quantile(took, 0.95)),
            "latency_max_ms": float(took.max()),
            "wall_s": self.wall_s,
            "real_time_factor": log.seconds / self.wall_s if self.wall_s > 0 else 0.0,
        }


def available_backends() -> list[str]:
    """Simulators that can run here, the one with forces first."""
    physx = all(importlib.util.find_spec(name) is not None for name in ("ovphysx", "ovstage"))
    return ["physx", "kinematic"] if physx else ["kinematic"]


def run_dataset(
    dataset: Path,
    *,
    policy: str,
    backend: str,
    out: Path,
    split: str = "test",
    limit: int | None = None,
    on_episode: Callable[[int, int, Episode, EpisodeLog], None] | None = None,
) -> Path:
    """Run a policy over a split and log what happens.

    Args:
        dataset: Dataset folder.
        policy: Name of a shipped policy, or `module:Class`.
        backend: `kinematic` or `physx`.
        out: Folder of the run; episodes that are logged in it are not run again.
        split: Which episodes.
        limit: Only the first so many.
        on_episode: Told after each: number done, number in all, episode, log.

    Raises:
        InvalidRequest: The policy or backend is unknown, or `out` holds another run.
        CorruptData: The dataset or its world cannot be read.
    """
    data = open_dataset(dataset)
    episodes = data.episodes(split)[:limit]
    driver = load_policy(policy)
    make_folder(out)
    _write_header(out, data, policy, backend, split)
    grid = data.grid()
    graphs = tuple(FloorGraph(grid, k) for k in range(len(grid.floors)))
    left = [e for e in episodes if not _log_file(out, e).is_file()]
    try:
        _drive_all(left, len(episodes), driver, data, graphs, backend, out, on_episode)
    finally:
        driver.close()
    _write_events(out, episodes)
    return out


def _drive_all(
    left: list[Episode], total: int, driver: Policy, data: Dataset,
    graphs: tuple[FloorGraph, ...], backend: str, out: Path,
    on_episode: Callable[[int, int, Episode, EpisodeLog], None] | None,
) -> None:  # fmt: skip
    """Drive what is left; a simulator that failed is started again for the next episode."""
    simulator: Simulator | None = None
    failures = 0
    try:
        for number, episode in enumerate(left, total - len(left) + 1):
            simulator = simulator or open_simulator(data, backend)
            log, timing = drive(episode, simulator, driver, data, graphs)
            failures = failures + 1 if log.end_reason.startswith(SIM_ERROR) else 0
            if failures >= SIM_ERRORS_MAX:
                raise EngineFailed(
                    f"the {backend} simulator failed {failures} episodes in a row, last "
                    f"{episode.id}: {log.end_reason}. Check the world with 'worldloom check'"
                )
            if failures:
                simulator.close()
                simulator = None
            _write_log(_log_file(out, episode), log)
            with (out / "timing.jsonl").open("a", encoding="utf-8") as lines:
                lines.write(json.dumps(timing.to_json(episode, log)) + "\n")
            if on_episode is not None:
                on_episode(number, total, episode, log)
    finally:
        if simulator is not None:
            simulator.close()


def open_simulator(data: Dataset, backend: str) -> Simulator:
    """A simulator of the dataset's world and robot.

    Raises:
        InvalidRequest: The backend is unknown or not installed.
    """
    world = open_navworld(data.world)
    if backend == "kinematic":
        from worldloom.tasks.sim_kinematic import KinematicSim

        return KinematicSim(world.collider, data.robot)
    if backend == "physx":
        from worldloom.tasks.sim_physx import PhysxSim

        return PhysxSim(world.tiles, data.robot)
    raise InvalidRequest(
        f"unknown backend {backend!r}; use {', '.join(BACKENDS)}", field="backend"
    )


def drive(
    episode: Episode,
    simulator: Simulator,
    policy: Policy,
    data: Dataset,
    graphs: tuple[FloorGraph, ...],
) -> tuple[EpisodeLog, Timing]:
    """Run one episode to its end, whatever the policy does."""
    begun = time.perf_counter()
    watch = EndWatch(limits_of(data, episode))
    states: list[State] = []
    commands, latencies = [(0.0, 0.0)], []
    try:
        states.append(simulator.reset(episode))
        reason = _ask(lambda: policy.reset(TaskInfo(episode, data.robot, graphs)))[1]
        while reason is None:
            start = time.perf_counter()
            answer, reason = _ask(lambda: policy.act(observe(states[-1], episode)))
            latencies.append(time.perf_counter() - start)
            command, reason = _command(answer, reason)
            if reason is None:
                commands.append(command)
                states.append(simulator.step(*command))
                reason = watch.look(states[-1], command)
    except WorldloomError as error:
        # A simulator that fails is no fault of the policy: the episode is listed, not scored.
        reason = f"{SIM_ERROR}: {error}"
    log = _log(states, commands, reason)
    return log, Timing(np.array(latencies), time.perf_counter() - begun)


def _ask(question: Callable[[], Any]) -> tuple[Any, str | None]:
    """A policy's answer, or why there is none."""
    try:
        return question(), None
    except Exception as error:  # noqa: BLE001 - a policy's code is anybody's: any error is its own.
        return None, f"{POLICY_ERROR}: {type(error).__name__}: {error}"


def _command(answer: Any, reason: str | None) -> tuple[tuple[float, float], str | None]:
    """The two finite numbers of a policy's answer, or why it has not given them."""
    if reason is not None:
        return (0.0, 0.0), reason
    try:
        v, w = (float(value) for value in answer)
    except (TypeError, ValueError):
        return (0.0, 0.0), f"{POLICY_ERROR}: it answered {answer!r:.80}, not speed and turn rate"
    if not (math.isfinite(v) and math.isfinite(w)):
        return (0.0, 0.0), f"{POLICY_ERROR}: it commanded ({v}, {w}); both must be finite"
    return (v, w), None


def observe(state: State, episode: Episode) -> dict[str, Any]:
    """What a policy may see: the goal in polar form, its own pose and speed."""
    position = state.pose_xyz_wxyz[:3]
    yaw = float(yaw_of_quat_wxyz(state.pose_xyz_wxyz[3:]))
    offset = np.asarray(episode.goals[0].position[:2]) - position[:2]
    bearing = float(np.arctan2(offset[1], offset[0]) - yaw)
    return {
        "pointgoal": np.array(
            [np.hypot(*offset), (bearing + np.pi) % (2 * np.pi) - np.pi], np.float64
        ),
        "position": position,
        "yaw": yaw,
        "velocity": np.array([state.twist[0], state.twist[5]]),
        "contact": state.contact,
        "time": state.t,
    }


def read_log(file: Path) -> EpisodeLog:
    """Read a trajectory."""
    with np.load(file, allow_pickle=False) as data:
        arrays = {name: data[name] for name in EpisodeLog.__dataclass_fields__}
    arrays["end_reason"] = str(arrays["end_reason"])
    return EpisodeLog(**arrays)


def _log(states: list[State], commands: list[tuple[float, float]], reason: str) -> EpisodeLog:
    count = len(states)
    return EpisodeLog(
        t=np.array([s.t for s in states]),
        pose_xyz_wxyz=np.array([s.pose_xyz_wxyz for s in states]).reshape(count, 7),
        twist=np.array([s.twist for s in states]).reshape(count, 6),
        cmd=np.array(commands[:count]).reshape(count, 2),
        contact=np.array([s.contact for s in states], bool),
        impulse=np.array([s.impulse for s in states]),
        penetration=np.array([s.penetration for s in states]),
        end_reason=reason,
    )


def _log_file(out: Path, episode: Episode) -> Path:
    return out / "trajectories" / f"{episode.id}.npz"


def _write_log(file: Path, log: EpisodeLog) -> None:
    arrays = {name: np.asarray(getattr(log, name)) for name in EpisodeLog.__dataclass_fields__}
    write_whole(file, npz_bytes(arrays))


def _write_header(out: Path, data: Dataset, policy: str, backend: str, split: str) -> None:
    from omegaconf import OmegaConf

    manifest = data.folder / "MANIFEST.json"
    header = {
        "schema": RUN_SCHEMA,
        "dataset": os.path.relpath(data.folder.resolve(), out.resolve()),
        "dataset_manifest": json.loads(manifest.read_text())["navgrid_sha256"],
        "policy": policy,
        "backend": backend,
        "split": split,
        "safety_floor": "none",
    }
    file = out / "run.yaml"
    if file.is_file():
        before: Any = OmegaConf.to_container(OmegaConf.load(file))
        changed = [key for key in header if before.get(key) != header[key]]
        if changed:
            raise InvalidRequest(
                f"{out} holds a run with another {changed[0]} ({before.get(changed[0])!r}, now "
                f"{header[changed[0]]!r}); choose another --out"
            )
    write_whole(file, OmegaConf.to_yaml(OmegaConf.create(header)).encode())
    environment = {
        "host": platform.node(),
        "python": platform.python_version(),
        "worldloom": metadata.version("worldloom"),
        "numpy": np.__version__,
        "machine": platform.platform(),
    }
    write_whole(out / "env.json", (json.dumps(environment, indent=2) + "\n").encode())


def _write_events(out: Path, episodes: list[Episode]) -> None:
    """One line for each beginning and end of contact, and for each end of an episode."""
    from worldloom.tasks.measures import collisions

    lines = []
    for episode in episodes:
        log = read_log(_log_file(out, episode))
        found = collisions(log.t, log.contact)
        for begin, end in zip(found.onsets, found.ends, strict=True):
            for kind, at in (("collision_begin", begin), ("collision_end", end)):
                where = [round(float(x), 4) for x in log.pose_xyz_wxyz[at, :3]]
                lines.append({"episode": episode.id, "event": kind, "t": float(log.t[at]),
                              "position": where})  # fmt: skip
        end = {"event": "end", "t": log.seconds, "reason": log.end_reason}
        lines.append({"episode": episode.id, **end})
    text = "".join(json.dumps(line, sort_keys=True) + "\n" for line in lines)
    write_whole(out / "events.jsonl", text.encode())
