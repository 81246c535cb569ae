"""`worldloom bench truth`: generated worlds against scenes that are known exactly.

Row A: every frame is exact, so that lifting, fusion and the collider are measured alone.
Row B: one photo with its exact depth, and engine `preview` along the same path.
It joins generator and tasks, which know nothing of each other.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from worldloom.cli import console
from worldloom.cli.bench_gates import GATES, as_json, misses
from worldloom.scene.errors import GateNotMet, InvalidRequest
from worldloom.scene.events import Progress
from worldloom.scene.request import QUALITIES

BENCH_SCHEMA = "worldloom.bench-truth/1"
BENCH_FILE = "bench.json"
PAIRS, QUICK_PAIRS = 200, 40
OWN_FRAMES, QUICK_FRAMES = 0, 81
QUICK_SCENE = "corridor"


@dataclass(frozen=True)
class Plan:
    """What is measured."""

    scenes: tuple[str, ...]
    rows: tuple[str, ...]
    noise: str
    """`exact`, `noisy` or `drift`; row A only."""
    seeds: tuple[int, ...]
    """Draws of the noise; medians are reported."""
    quality: str
    frames: int
    """Frames of the walk; 0 = as many as the scene's own walk has."""
    pairs: int
    refine_steps: int
    """Steps of photometric refinement that are measured as well."""


def add_truth_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `worldloom bench truth`."""
    parser.add_argument("--scenes", default="", metavar="LIST", help="default: all")
    parser.add_argument("--rows", default="A,B", metavar="LIST", help="A, B or both")
    parser.add_argument("--noise", default="exact", help="exact, noisy or drift (row A)")
    parser.add_argument("--seeds", default="0,1,2,3,4", metavar="LIST", help="draws of the noise")
    parser.add_argument("--quality", choices=QUALITIES, default="draft")
    parser.add_argument("--pairs", type=int, metavar="N", help=f"default {PAIRS}")
    parser.add_argument(
        "--refine", type=int, default=0, metavar="N", help="also measure N steps of refinement"
    )
    parser.add_argument("--quick", action="store_true", help="one scene, half the walk, few pairs")
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help=f"keep the worlds and {BENCH_FILE} here"
    )


def run_truth(args: argparse.Namespace) -> int:
    """Measure, print one line a world, and exit 3 when a gate is missed."""
    plan = _plan(args)
    with _folder(args.out) as out:
        start = time.monotonic()
        rows = _measure(plan, out)
        record = {
            "schema": BENCH_SCHEMA, "plan": asdict(plan), "gates": as_json(), "rows": rows,
            "seconds": round(time.monotonic() - start, 1),
        }  # fmt: skip
        (out / BENCH_FILE).write_text(json.dumps(record, indent=2, sort_keys=True) + "\n")
    _print(rows)
    console.say()
    if args.out is not None:
        console.say(f"  wrote {args.out / BENCH_FILE} and the worlds beside it")
    console.say(f"  {record['seconds']:.0f} s")
    console.emit("bench", **record)
    short = [f"{row['scene']} ({', '.join(missed)})" for row in rows if (missed := misses(row))]
    if short:
        raise GateNotMet(f"a gate is missed in {'; '.join(short)}")
    return 0


def _plan(args: argparse.Namespace) -> Plan:
    from worldloom.generator.truth.noise import PRESETS
    from worldloom.generator.truth.scene import scene_names

    known = scene_names()
    scenes = _parts(args.scenes) or ((QUICK_SCENE,) if args.quick else tuple(known))
    for scene in scenes:
        if scene not in known:
            raise InvalidRequest(f"unknown truth scene {scene!r}; there are {', '.join(known)}")
    rows = tuple(row.upper() for row in _parts(args.rows))
    if not rows or set(rows) - {"A", "B"}:
        raise InvalidRequest(f"rows are A and B, not {args.rows!r}")
    if args.noise not in PRESETS:
        raise InvalidRequest(f"unknown noise {args.noise!r}; use {', '.join(PRESETS)}")
    seeds = [part for part in _parts(args.seeds) if part.isdigit()]
    if not seeds:
        raise InvalidRequest(f"cannot read --seeds {args.seeds!r}; write 0,1,2")
    pairs = args.pairs or (QUICK_PAIRS if args.quick else PAIRS)
    if not 1 <= pairs <= 10_000:
        raise InvalidRequest(f"there are {pairs} pairs; 1 to 10000 are possible")
    return Plan(
        scenes, rows, args.noise, (0,) if args.noise == "exact" else tuple(map(int, seeds)),
        args.quality, QUICK_FRAMES if args.quick else OWN_FRAMES, pairs, args.refine,
    )  # fmt: skip


def _parts(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


@contextmanager
def _folder(out: Path | None) -> Iterator[Path]:
    """The folder to keep worlds in, or one that is gone afterwards."""
    from worldloom.scene.worldfolder import make_folder

    if out is not None:
        yield make_folder(out)
        return
    with tempfile.TemporaryDirectory(prefix="worldloom-bench-") as folder:
        yield Path(folder)


def _measure(plan: Plan, out: Path) -> list[dict[str, Any]]:
    from worldloom.generator.truth.trial import Trial

    rows = []
    for scene in plan.scenes:
        trial = Trial(scene, frames=plan.frames or None, quality=plan.quality)
        for row in plan.rows:
            seeds = plan.seeds if row == "A" else (0,)
            noise = plan.noise if row == "A" else "exact"
            scores = []
            for seed in seeds:
                console.say(f"  row {row}, {scene}" + (f", {noise} {seed}" * (noise != "exact")))
                folder = out / f"{row}-{scene}-{noise}-{seed}"
                scores.append(_world(trial, row, folder, noise, seed, plan))
            rows.append({"row": row, "scene": scene, "noise": noise, **medians(scores)})
    return rows


def _world(
    trial: Any, row: str, folder: Path, noise: str, seed: int, plan: Plan
) -> dict[str, float]:
    """Make one world and score everything about it."""
    from worldloom.tasks.truthdrive import score_driving
    from worldloom.tasks.world import open_navworld

    start = time.monotonic()
    with console.meter() as meter:

        def emit(event: Any) -> None:
            if isinstance(event, Progress):
                meter.update(event)

        world = trial.make(row, folder, noise=noise, seed=seed, emit=emit)
    made = time.monotonic() - start
    scores = trial.score(row, world, refine_steps=plan.refine_steps)
    drive = score_driving(open_navworld(world), trial.surface, trial.scene.name, pairs=plan.pairs)
    took = {"generation_seconds": made, "seconds": time.monotonic() - start}
    return {**scores, **drive, **{key: round(value, 1) for key, value in took.items()}}


def medians(scores: Sequence[dict[str, float]]) -> dict[str, float]:
    """Median of every measure over the draws of the noise."""
    from statistics import median

    return {key: median(score[key] for score in scores) for key in scores[0]}


DRIVING = {
    "F@5cm": lambda r: f"{r['f_score']:.3f}",
    "acc cm": lambda r: f"{100 * r['accuracy_m']:.2f}",
    "compl cm": lambda r: f"{100 * r['completeness_m']:.2f}",
    "tris/100m2": lambda r: f"{r['triangles_per_100_m2']:,.0f}",
    "cracks": lambda r: f"{r['cracks']:.0f}",
    "invented": lambda r: f"{100 * r['invented']:.2f} %",
    "inward": lambda r: f"{r['inward']:.0f}",
    "area m2": lambda r: f"{r['area_m2']:.1f}",
    "of truth": lambda r: f"{100 * r['area_ratio']:.1f} %",
    "oracle": lambda r: f"{r['oracle']:.3f}",
    "straight": lambda r: f"{r['straight_line']:.3f}",
}
"""Columns of the table of surfaces and driving."""
SHOWING = {
    "depth %": lambda r: f"{100 * r['abs_rel']:.2f}",
    "seen dB": lambda r: f"{r['seen_db']:.1f}",
    "refined": lambda r: f"{r['refined_db']:.1f}",
    "whole": lambda r: f"{r['whole_db']:.1f}",
    "off path": lambda r: f"{r['off_path_db']:.1f}",
    "splats": lambda r: f"{100 * r['splat_share']:.0f} %",
    "loss dB": lambda r: f"{r['merge_loss_db']:.2f}",
    "up deg": lambda r: f"{r['gravity_deg']:.2f}",
    "scale %": lambda r: f"{100 * r['scale_error']:.2f}",
    "end z cm": lambda r: f"{100 * r['last_height_m']:.1f}",
    "end yaw": lambda r: f"{r['last_heading_deg']:.2f}",
    "s": lambda r: f"{r['seconds']:.0f}",
}
"""Columns of the table of pictures, level and drift."""


def _print(rows: list[dict[str, Any]]) -> None:
    for columns in (DRIVING, SHOWING):
        body = [
            [r["row"], r["scene"] + ("" if r["noise"] == "exact" else f"-{r['noise']}"),
             *(_cell(cell, r) for cell in columns.values()), _verdict(r)]
            for r in rows
        ]  # fmt: skip
        console.say()
        console.table(["row", "scene", *columns, "gates"], body)


def _cell(cell: Callable[[dict[str, Any]], str], row: dict[str, Any]) -> str:
    """A cell, or a dash where the row has no such measure."""
    try:
        return cell(row)
    except KeyError:
        return "-"


def _verdict(row: dict[str, Any]) -> str:
    if (row["row"], row["noise"]) not in GATES:
        return "-"
    return "; ".join(misses(row)) or "met"
