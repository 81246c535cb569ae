"""`worldloom bench world`: finished worlds against their videos, a known scene or a real walk.

The protocol of the Lyra 2.0 paper with worldloom's own code, and published numbers in tables of
their own. It joins the generator's metrics and the tasks' drop test, which know nothing of each
other.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from worldloom.cli import console
from worldloom.scene.errors import GateNotMet, InvalidRequest
from worldloom.scene.worldfolder import make_folder, write_whole

JSON_FILE, TEXT_FILE = "bench-world.json", "bench-world.md"
FOLDER = "bench"
"""Folder in the world that reports go to by default."""
VIEWS, SPHERES = 20, 1000
ROBOT = "jetbot_body"
"""Robot whose grid says where the observed floor is, for the drop test."""
DROP = ("drop_rest", "drop_below")


def add_world_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `worldloom bench world`."""
    parser.add_argument("world", type=Path, metavar="WORLD|DIR", help="a world, or several")
    parser.add_argument(
        "--truth", metavar="SCENE", help="the truth scene it shows; known for engine truth"
    )
    parser.add_argument("--real", type=Path, metavar="FOLDER", help="real frames of the same path")
    parser.add_argument("--real-name", metavar="NAME", help="what reports call the real walk")
    parser.add_argument(
        "--weights", type=Path, metavar="DIR", help="weights of the metrics; see docs/evaluation.md"
    )
    parser.add_argument("--photo", type=Path, metavar="FILE", help="input picture, for style")
    parser.add_argument(
        "--scores", type=Path, metavar="FILE", help="CLIP-IQA+ and aesthetic scores as JSON"
    )
    parser.add_argument(
        "--views", type=int, default=VIEWS, metavar="N",
        help=f"most frames compared one by one; 0 = all (default {VIEWS})",
    )  # fmt: skip
    parser.add_argument(
        "--spheres", type=int, default=SPHERES, metavar="N",
        help=f"spheres of the drop test; 0 = none (default {SPHERES})",
    )  # fmt: skip
    parser.add_argument("--device", default="cpu", help="where networks run: cpu or cuda")
    parser.add_argument("--out", type=Path, metavar="DIR", help=f"default: {FOLDER}/ beside them")


def run_world(args: argparse.Namespace) -> int:
    """Measure, print the tables, and write them with a contact sheet of every world."""
    from worldloom.generator.evaluate.report import to_json, to_markdown
    from worldloom.generator.evaluate.sheet import contact_sheet
    from worldloom.generator.evaluate.world import find_worlds, open_evaluated

    _check(args)
    # All worlds are opened before the first is measured: a bad one is told at once.
    worlds = [open_evaluated(folder) for folder in find_worlds(args.world)]
    out = make_folder(args.out or args.world / FOLDER)
    found = [_evaluate(world, args) for world in worlds]
    written = [out / JSON_FILE, out / TEXT_FILE]
    record = to_json(found)
    write_whole(written[0], (json.dumps(record, indent=2, sort_keys=True) + "\n").encode())
    write_whole(written[1], to_markdown(found).encode())
    for evaluation in found:
        if evaluation.held_out:
            written.append(out / f"sheet-{evaluation.world.name}.png")
            write_whole(written[-1], contact_sheet(evaluation))
    for evaluation in found:
        _print(evaluation)
    _print_published()
    console.emit("bench", **record)
    console.say(f"  {record['warning']}\n")
    for file in written:
        console.say(f"  wrote {file}")
    return 0


def _check(args: argparse.Namespace) -> None:
    if args.truth and args.real:
        raise InvalidRequest(
            f"--truth {args.truth} and --real {args.real} are both given; a video has one "
            "reference. Give one of them"
        )
    for option in ("views", "spheres"):
        if (value := getattr(args, option)) < 0:
            raise InvalidRequest(f"--{option} is {value}; give 0 or more")
    if args.device != "cpu":
        import torch

        if args.device != "cuda" or not torch.cuda.is_available():
            raise InvalidRequest(
                f"--device {args.device!r} cannot be used here; use cpu, or cuda with a GPU"
            )


def _evaluate(world: Any, args: argparse.Namespace) -> Any:
    """All measurements of one world, the drop test among them."""
    from worldloom.generator.evaluate.networks import Networks
    from worldloom.generator.evaluate.protocol import Options, evaluate

    console.say(f"  {world.name}: {world.cameras.n} frames, engine "
                f"{world.manifest.engine['preset']}")  # fmt: skip
    options = Options(
        reference=_reference(world, args), networks=Networks(args.weights, args.device),
        views=args.views, scores=args.scores, photo=args.photo,
        say=lambda text: console.say(f"    {text}"),
    )  # fmt: skip
    found = evaluate(world, options)
    return replace(found, measures=(*found.measures, *_drop(world, args.spheres)))


def _reference(world: Any, args: argparse.Namespace) -> Any:
    """What the world's video should look like; None where nobody knows."""
    from worldloom.generator.evaluate.reference import TruthReference, real_reference
    from worldloom.generator.truth.opening import named_scene

    if args.real is not None:
        return real_reference(world, args.real, args.real_name or "")
    name = args.truth or world.scene
    if name is None:
        return None
    named_scene(name)
    return TruthReference(world, name)


def _drop(world: Any, count: int) -> list[Any]:
    """The drop test of the tasks, or why there is none."""
    from worldloom.generator.evaluate.measures import Measure, unmeasured

    if count == 0:
        return unmeasured(DROP, "left out by --spheres 0")
    console.say(f"    drop {count} spheres")
    try:
        result = _drop_result(world.folder, count)
    except (GateNotMet, InvalidRequest) as error:
        return unmeasured(DROP, str(error))
    data = f"{result.count} spheres of 5 cm on the observed floor, PhysX"
    return [
        Measure("drop_rest", 100 * result.share, data),
        Measure("drop_below", float(result.below), data),
    ]


def _drop_result(folder: Path, count: int) -> Any:
    from worldloom.cli.nav_build import build
    from worldloom.tasks.drop import drop_test

    options = argparse.Namespace(
        world=folder, robot=ROBOT, cell=None, min_island=1.0, boundary="wall"
    )
    world, grid = build(options)
    return drop_test(world, grid, count=count)


def _print(evaluation: Any) -> None:
    from worldloom.generator.evaluate.measures import GROUPS, KINDS, number
    from worldloom.generator.evaluate.report import ARROWS, reasons

    for group in GROUPS:
        rows = [
            [KINDS[m.key].title, number(m), ARROWS[KINDS[m.key].better], m.data]
            for m in evaluation.measures
            if m.value is not None and KINDS[m.key].group == group
        ]
        if rows:
            console.say(f"\n  {evaluation.world.name}, measured here: {group}")
            console.table(["metric", "measured", "better", "data"], rows)
    for why, names in reasons(evaluation.measures).items():
        console.say(f"\n  not measured: {', '.join(names)}\n    {why}")


def _print_published() -> None:
    """The main published tables; each names its data and source."""
    from worldloom.generator.evaluate.published import published_tables

    for table in published_tables()[:2]:
        console.say(f"\n  published by others: {table.title}\n  {table.data}\n  {table.source}")
        rows = [
            [method, *("-" if v is None else f"{v:.{d}f}" for v, d in zip(
                values, table.digits, strict=True)), "published"]
            for method, values in table.rows.items()
        ]  # fmt: skip
        console.table(["method", *table.columns, "kind"], rows)
    console.say()
