"""Raw logs -> scores: per episode, and summed up with intervals. Nothing is simulated here."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from worldloom.scene.errors import InvalidRequest
from worldloom.scene.frame import yaw_of_quat_wxyz
from worldloom.scene.worldfolder import write_whole
from worldloom.tasks import measures, stats
from worldloom.tasks.dataset import Dataset, open_dataset
from worldloom.tasks.ending import STOP
from worldloom.tasks.episodes import Episode
from worldloom.tasks.geodesic import DistanceField, FloorGraph
from worldloom.tasks.run import SIM_ERROR, EpisodeLog, read_log

SUMMARY_SCHEMA = "worldloom.summary/1"
RATES = ("success", "oracle_success", "safe_success")
"""Measures that are yes or no: Wilson intervals; all others get a bootstrap."""
MEANS = ("spl", "spl_r", "soft_spl", "safe_spl", "progress", "sct", "barn", "ndtw", "collisions",
         "collision_ratio", "clearance_min", "clearance_mean", "turning", "time",
         "path_length", "final_distance", "made_up_share")  # fmt: skip
DIGITS = 6


def score_run(run: Path) -> dict[str, Any]:
    """Score a run from its logs; writes results.jsonl, results.csv and summary.json.

    Raises:
        InvalidRequest: The folder holds no run, or an episode was not run.
    """
    header, data = open_run(run)
    grid = data.grid()
    graphs = [FloorGraph(grid, k) for k in range(len(grid.floors))]
    rows = []
    for episode in data.episodes(header["split"]):
        file = run / "trajectories" / f"{episode.id}.npz"
        if file.is_file():
            field = DistanceField(graphs[episode.floor], episode.goals[0].position[:2])
            rows.append(score_episode(episode, read_log(file), field, data))
    if not rows:
        raise InvalidRequest(f"{run} has no trajectories; run it with 'worldloom nav run'")
    summary = summarise(rows, header) | {"compute": _compute(run)}
    _write(run, rows, summary)
    return summary


def _compute(run: Path) -> dict[str, float]:
    """Speed of policy and simulator over all episodes; empty when no timing was kept."""
    file = run / "timing.jsonl"
    lines = file.read_text("utf-8").splitlines() if file.is_file() else []
    rows = [json.loads(line) for line in lines]
    if not rows:
        return {}
    driven = sum(row["real_time_factor"] * row["wall_s"] for row in rows)
    wall = sum(row["wall_s"] for row in rows)
    return _rounded({
        "latency_mean_ms": float(np.mean([row["latency_mean_ms"] for row in rows])),
        "latency_p95_ms": float(np.max([row["latency_p95_ms"] for row in rows])),
        "latency_max_ms": float(np.max([row["latency_max_ms"] for row in rows])),
        "wall_s": wall,
        "real_time_factor": driven / wall if wall else 0.0,
    })  # fmt: skip


def open_run(run: Path) -> tuple[dict[str, Any], Dataset]:
    """Header and dataset of a run.

    Raises:
        InvalidRequest: The folder holds no run.
    """
    from omegaconf import OmegaConf

    file = run / "run.yaml"
    if not file.is_file():
        raise InvalidRequest(f"{run} is no run (run.yaml is missing); see 'worldloom nav run'")
    header: Any = OmegaConf.to_container(OmegaConf.load(file))
    return header, open_dataset(run / header["dataset"])


def score_episode(
    episode: Episode, log: EpisodeLog, field: DistanceField, data: Dataset
) -> dict[str, Any]:
    """All measures of one episode (spec navigation 4.6)."""
    row: dict[str, Any] = {
        "id": episode.id, "world": episode.world, "difficulty": episode.difficulty,
        "tags": list(episode.tags), "geodesic": episode.geodesic,
    }  # fmt: skip
    if log.end_reason.startswith(SIM_ERROR) or len(log.t) == 0:
        return row | {"end_reason": SIM_ERROR, "detail": log.end_reason}
    xy = log.pose_xyz_wxyz[:, :2]
    distance = np.asarray(field.distance(xy))
    radius, length = episode.goals[0].radius, episode.geodesic
    # A robot pushed off the walkable floor has no geodesic; the straight line bounds it.
    straight = np.linalg.norm(xy - np.asarray(episode.goals[0].position[:2]), axis=1)
    distance = np.where(np.isfinite(distance), distance, straight)
    success = log.end_reason == STOP and bool(distance[-1] <= radius)
    driven, final, time_s = measures.path_length(xy), float(distance[-1]), float(log.t[-1])
    hits = measures.collisions(log.t, log.contact)
    spl = measures.spl(success, length, driven)
    return row | {
        "success": success,
        "oracle_success": bool((distance <= radius).any()),
        "spl": spl,
        "spl_r": measures.spl_to_radius(success, length, driven, radius),
        "soft_spl": measures.soft_spl(final, length, driven),
        "progress": measures.progress(final, length),
        "sct": measures.sct(success, time_s, episode.reference_time),
        "barn": measures.barn(success, time_s, length, data.robot.v_max),
        "collisions": hits.count,
        "collision_time": hits.time_s,
        "collision_ratio": hits.time_s / time_s if time_s else 0.0,
        "first_collision_t": hits.first_s,
        "max_impulse": float(log.impulse.max()),
        "max_penetration": float(log.penetration.max()),
        "safe_success": success and hits.count == 0,
        "safe_spl": spl if hits.count == 0 else 0.0,
        **_ending(log.end_reason, success=success),
        "time": time_s,
        "path_length": driven,
        "final_distance": final,
        "ndtw": measures.ndtw(xy, np.asarray(episode.reference_path)),
        **_along(episode, log, field),
        **_smooth(log, driven),
    }


def _ending(reason: str, *, success: bool) -> dict[str, str]:
    """The end reason of a scored episode: a stop is a success or far, an error keeps its text."""
    kind, _, detail = reason.partition(": ")
    if kind == STOP:
        kind = "success" if success else "stop_far"
    return {"end_reason": kind, **({"detail": detail} if detail else {})}


def summarise(rows: list[dict[str, Any]], header: dict[str, Any]) -> dict[str, Any]:
    """Rates with Wilson's and means with bootstrap intervals, by 95 %."""
    scored = [row for row in rows if row["end_reason"] != SIM_ERROR]
    found: dict[str, Any] = {}
    for key in RATES:
        found[key] = asdict(stats.wilson(sum(bool(r[key]) for r in scored), len(scored)))
    for key in MEANS:
        values = [float(r[key]) for r in scored]
        found[key] = asdict(stats.bootstrap(values, groups=[r["world"] for r in scored]))
    reasons: dict[str, int] = {}
    for row in rows:
        reasons[row["end_reason"]] = reasons.get(row["end_reason"], 0) + 1
    return {
        "schema": SUMMARY_SCHEMA,
        "policy": header["policy"],
        "backend": header["backend"],
        "split": header["split"],
        "episodes": len(rows),
        "excluded_sim_errors": [r["id"] for r in rows if r["end_reason"] == SIM_ERROR],
        "end_reasons": dict(sorted(reasons.items())),
        "measures": _rounded(found),
    }


def _along(episode: Episode, log: EpisodeLog, field: DistanceField) -> dict[str, float]:
    """Clearance and honesty of the floor along the driven path."""
    grid = field.graph.grid
    floor = grid.floors[episode.floor]
    xy = log.pose_xyz_wxyz[:, :2]
    clearance = grid.lookup(floor.clearance, xy, outside=0.0)
    made_up = grid.lookup(floor.made_up, xy, outside=True)
    steps = np.linalg.norm(np.diff(xy, axis=0), axis=1)
    # Shares are of the driven way, so standing still counts for nothing.
    share = float((made_up[1:] * steps).sum() / steps.sum()) if steps.sum() > 0 else 0.0
    return {
        "clearance_min": float(clearance.min()),
        "clearance_mean": float(clearance.mean()),
        "made_up_share": share,
    }


def _smooth(log: EpisodeLog, driven: float) -> dict[str, float]:
    yaw = yaw_of_quat_wxyz(log.pose_xyz_wxyz[:, 3:])
    smooth = measures.smoothness(log.t, yaw, log.twist[:, 0], driven)
    return {
        "turning": smooth.turning,
        "acceleration": smooth.acceleration,
        "jerk": smooth.jerk,
        "stops": smooth.stops,
    }


def _write(run: Path, rows: list[dict[str, Any]], summary: dict[str, Any]) -> None:
    rows = [_rounded(row) for row in rows]
    lines = "".join(json.dumps(row, sort_keys=True) + "\n" for row in rows)
    write_whole(run / "results.jsonl", lines.encode())
    columns = sorted({key for row in rows for key in row})
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, columns)
    writer.writeheader()
    writer.writerows(rows)
    write_whole(run / "results.csv", buffer.getvalue().encode())
    write_whole(run / "summary.json", (json.dumps(summary, indent=2) + "\n").encode())


def _rounded(value: Any) -> Any:
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    if isinstance(value, (float, np.floating)):
        return round(float(value), DIGITS)
    if isinstance(value, (int, np.integer)):
        return int(value)
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    return value
