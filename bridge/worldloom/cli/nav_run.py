"""`worldloom nav run | score | html | compare | replay | drop`: driving, judging, showing."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from worldloom.cli import console
from worldloom.scene.errors import GateNotMet, InvalidRequest
from worldloom.scene.worldfolder import write_whole

COMPARED = ("success", "spl", "soft_spl", "collisions", "time", "final_distance")
"""Measures whose paired differences `nav compare` shows."""


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `worldloom nav run`."""
    parser.add_argument("dataset", type=Path, help="dataset folder")
    parser.add_argument("--policy", default="oracle", help="shipped policy, or module:Class")
    parser.add_argument("--backend", default="kinematic", help="kinematic or physx")
    parser.add_argument("--split", default="test")
    parser.add_argument("--limit", type=int, metavar="N", help="only the first episodes")
    parser.add_argument("--out", type=Path, required=True, metavar="RUN", help="folder of logs")


def run_run(args: argparse.Namespace) -> int:
    """Run a policy and keep raw logs; goes on where an earlier run ended."""
    from worldloom.tasks.run import run_dataset

    def show(number: int, total: int, episode: Any, log: Any) -> None:
        console.say(f"  {number}/{total} {episode.id}: {log.end_reason} in {log.seconds:.1f} s")
        console.emit("episode", id=episode.id, end_reason=log.end_reason)

    run_dataset(
        args.dataset, policy=args.policy, backend=args.backend, out=args.out, split=args.split,
        limit=args.limit, on_episode=show,
    )  # fmt: skip
    console.say(f"  wrote {args.out}\n  next: worldloom nav score {args.out}")
    return 0


def add_score_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `worldloom nav score`."""
    parser.add_argument("run", type=Path, help="folder of logs")


def run_score(args: argparse.Namespace) -> int:
    """Score a run from its logs; a benchmark dataset also has gates (exit 3)."""
    from worldloom.tasks.dataset import ORACLE_SUCCESS_MIN, STRAIGHT_SUCCESS_MAX
    from worldloom.tasks.score import open_run, score_run

    summary = score_run(args.run)
    rows = [
        [key, f"{m['mean']:.3f}", f"{m['low']:.3f}", f"{m['high']:.3f}", m["n"]]
        for key, m in summary["measures"].items()
    ]
    console.table(["measure", "mean", "low", "high", "n"], rows)
    console.say(f"  ends: {summary['end_reasons']}")
    files = ", ".join(str(args.run / name) for name in ("results.csv", "summary.json"))
    console.say(f"  wrote {files}\n  next: worldloom nav html {args.run}")
    header, data = open_run(args.run)
    rate = summary["measures"]["success"]["mean"]
    if data.benchmark and header["policy"] == "oracle" and rate < ORACLE_SUCCESS_MIN:
        raise GateNotMet(f"oracle success is {rate:.2f}; a benchmark needs {ORACLE_SUCCESS_MIN}")
    if data.benchmark and header["policy"] == "straight_line" and rate > STRAIGHT_SUCCESS_MAX:
        raise GateNotMet(
            f"straight-line success is {rate:.2f}; a benchmark allows {STRAIGHT_SUCCESS_MAX}: it "
            "is too easy. Draw with a straightness filter (--ratio 1.1)"
        )
    return 0


def add_html_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `worldloom nav html`."""
    parser.add_argument("runs", type=Path, nargs="+", help="scored runs of one dataset")
    parser.add_argument("--out", type=Path, default=Path("report.html"), metavar="FILE")


def run_html(args: argparse.Namespace) -> int:
    """Write a report page of scored runs."""
    from worldloom.tasks.worldreport import write_runs_report

    console.say(f"  wrote {write_runs_report(args.out, args.runs)}")
    return 0


def add_compare_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `worldloom nav compare`."""
    parser.add_argument("a", type=Path, help="a scored run")
    parser.add_argument("b", type=Path, help="another one on the same episodes")


def run_compare(args: argparse.Namespace) -> int:
    """Compare two runs, paired by episode."""
    from worldloom.tasks.stats import bootstrap, compare_success

    a, b = _results(args.a), _results(args.b)
    shared = [k for k in sorted(a.keys() & b.keys()) if "success" in a[k] and "success" in b[k]]
    if not shared:
        raise InvalidRequest(f"{args.a} and {args.b} have no scored episode in common")
    found = compare_success([a[k]["success"] for k in shared], [b[k]["success"] for k in shared])
    console.say(
        f"  {len(shared)} episodes in common; only {args.a.name} solved {found.only_a}, only "
        f"{args.b.name} {found.only_b}; exact McNemar p = {found.p_value:.3g}"
    )
    rows = []
    for key in COMPARED:
        first, second = ([float(r[k][key]) for k in shared] for r in (a, b))
        gain = bootstrap(np.subtract(second, first), groups=[a[k]["world"] for k in shared])
        means = [f"{np.mean(values):.3f}" for values in (first, second)]
        rows.append([key, *means, f"{gain.mean:+.3f}", f"[{gain.low:+.3f}, {gain.high:+.3f}]"])
    console.table(["measure", args.a.name, args.b.name, "difference", "95 % interval"], rows)
    return 0


def add_replay_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `worldloom nav replay`."""
    parser.add_argument("run", type=Path, help="folder of logs")
    parser.add_argument("episode", help="id of an episode, or its number")
    parser.add_argument("--out", type=Path, metavar="PNG", help="picture of the driven way")


def run_replay(args: argparse.Namespace) -> int:
    """Draw the way of one episode, and tell what happened on it."""
    from worldloom.tasks.geodesic import DistanceField, FloorGraph
    from worldloom.tasks.navreport import draw_map
    from worldloom.tasks.run import read_log
    from worldloom.tasks.score import open_run, score_episode

    header, data = open_run(args.run)
    episodes = data.episodes(header["split"])
    chosen = [e for e in episodes if e.id == args.episode or e.id.endswith(f"-{args.episode:0>6}")]
    if not chosen:
        raise InvalidRequest(f"{args.run} has no episode {args.episode!r}; its first is "
                             f"{episodes[0].id}")  # fmt: skip
    episode = chosen[0]
    log = read_log(args.run / "trajectories" / f"{episode.id}.npz")
    grid = data.grid()
    field = DistanceField(FloorGraph(grid, episode.floor), episode.goals[0].position[:2])
    row = score_episode(episode, log, field, data)
    colour = "#1f9d61" if row.get("success") else "#d1493f"
    reference = np.asarray(episode.reference_path)[:, :2]
    png = draw_map(
        grid, paths=[(reference, "#8899aa"), (log.pose_xyz_wxyz[:, :2], colour)],
        starts=[episode.start.position], goals=[episode.goals[0].position],
        title=f"{episode.id}: {row['end_reason']}",
    )  # fmt: skip
    out = args.out or args.run / "maps" / f"{episode.id}.png"
    write_whole(out, png)
    console.say(f"  {row['end_reason']} after {log.seconds:.1f} s; wrote {out}")
    return 0


def add_drop_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `worldloom nav drop`."""
    parser.add_argument("world", type=Path, help="world folder")
    parser.add_argument("-n", "--count", type=int, default=200, help="spheres of 5 cm")
    parser.set_defaults(robot="jetbot_body", cell=None, min_island=1.0, boundary="wall")


def run_drop(args: argparse.Namespace) -> int:
    """Drop spheres on the observed floor; exit 3 when the floor does not hold."""
    from worldloom.cli.nav_build import build
    from worldloom.tasks.drop import SHARE_MIN, drop_test

    world, grid = build(args)
    result = drop_test(world, grid, count=args.count)
    console.table(
        ["spheres", "at rest within 2 cm", "below", "share", "largest gap mm"],
        [[result.count, result.at_rest, result.below, f"{result.share:.4f}",
          f"{1000 * result.gap.max():.2f}"]],
    )  # fmt: skip
    if result.share < SHARE_MIN or result.below:
        raise GateNotMet(
            f"{result.at_rest} of {result.count} spheres rest on the collider and {result.below} "
            f"fell through; {SHARE_MIN:.1%} and none are needed"
        )
    return 0


def _results(run: Path) -> dict[str, dict[str, Any]]:
    file = run / "results.jsonl"
    if not file.is_file():
        raise InvalidRequest(f"{run} is not scored; run 'worldloom nav score {run}' first")
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    return {row["id"]: row for row in rows}
