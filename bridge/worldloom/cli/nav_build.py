"""`worldloom nav build | report | sample | check`: from a world to a dataset."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from worldloom.cli import console
from worldloom.scene.errors import GateNotMet, InvalidRequest
from worldloom.scene.worldfolder import write_whole


def add_build_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `worldloom nav build`."""
    _add_world(parser)


def run_build(args: argparse.Namespace) -> int:
    """Build the grid and write it with its ROS map."""
    from worldloom.tasks.navmesh import write_navmesh
    from worldloom.tasks.rosmap import write_ros_map

    _, grid = build(args)
    folder = args.world / "nav" / grid.robot["name"]
    grid.save(folder / "navgrid.npz")
    write_navmesh(grid, folder / "navmesh.usda")
    files = [folder / "navgrid.npz", folder / "navmesh.usda"]
    for floor in range(len(grid.floors)):
        files += write_ros_map(grid, folder, floor=floor)
    areas = grid.floors[0].island_areas(grid.cell)
    console.table(
        ["robot", "navigable m2", "islands", "floors", "cell m"],
        [[grid.robot["name"], f"{grid.navigable_m2:.2f}", len(areas), len(grid.floors), grid.cell]],
    )
    _wrote(files, f"worldloom nav sample {args.world} --robot {args.robot} --out DATASET")
    return 0


def add_report_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `worldloom nav report`."""
    _add_world(parser)
    parser.add_argument("--min-area", type=float, default=3.0, metavar="M2", help="gate")


def run_report(args: argparse.Namespace) -> int:
    """Judge a world; exit 3 below the gates."""
    from worldloom.tasks.navreport import check_gates, draw_map, navigability

    world, grid = build(args)
    report = navigability(world, grid)
    folder = args.world / "nav"
    write_whole(folder / "report.json", (json.dumps(report, indent=2) + "\n").encode())
    write_whole(folder / "report.png", draw_map(grid, title=f"{world.id} for {args.robot}"))
    apart = ("scale", "gates")
    rows = [[key, _short(value)] for key, value in report.items() if key not in apart]
    console.table(["measure", "value"], rows)
    gates = report["gates"].items()
    console.table(
        ["gate", "found", "wanted", "met"],
        [[n, _short(g["value"]), g["bound"], "yes" if g["met"] else "NO"] for n, g in gates],
    )
    _wrote(
        [folder / "report.json", folder / "report.png"],
        f"worldloom nav sample {args.world} --robot {args.robot} --out DATASET",
    )
    check_gates(report, min_area_m2=args.min_area, strict=True)
    return 0


def add_sample_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `worldloom nav sample`."""
    _add_world(parser)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="dataset folder")
    parser.add_argument("-n", "--count", type=int, default=100, help="episodes")
    parser.add_argument("--geodesic", default="1,30", metavar="MIN,MAX", help="way length [m]")
    parser.add_argument("--success-radius", type=float, default=0.36, metavar="M")
    parser.add_argument("--ratio", type=float, default=1.1, help="straightness filter; 0 = off")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--name", help="name of the dataset")
    parser.add_argument("--benchmark", action="store_true", help="hold it to the benchmark gates")


def run_sample(args: argparse.Namespace) -> int:
    """Draw episodes and write a dataset."""
    from worldloom.tasks.dataset import make_dataset
    from worldloom.tasks.episodes import Sampling
    from worldloom.tasks.robots import load_robot

    try:
        low, high = (float(x) for x in args.geodesic.split(","))
    except ValueError as error:
        raise InvalidRequest(f"cannot read --geodesic {args.geodesic!r}; write 1,30") from error
    world, grid = build(args)
    sampling = Sampling(
        geodesic=(low, high), ratio_threshold=args.ratio or None,
        min_island_area=args.min_island, success_radius=args.success_radius,
    )  # fmt: skip
    episodes, tally = make_dataset(
        args.out, world, grid, load_robot(args.robot), name=args.name or f"{world.id}_pointnav",
        count=args.count, sampling=sampling, seed=args.seed, benchmark=args.benchmark,
    )  # fmt: skip
    rows = [["kept", tally.kept], *([f"rejected: {r}", n] for r, n in tally.rejected.items())]
    console.table(["tries", tally.tries], rows)
    if len(episodes) < args.count:
        console.note(f"only {len(episodes)} of {args.count} episodes could be drawn")
    following = f"worldloom nav run {args.out} --policy oracle --backend kinematic --out RUN"
    _wrote([args.out], following)
    return 0


def add_check_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `worldloom nav check`."""
    parser.add_argument("dataset", type=Path, help="dataset folder")


def run_check(args: argparse.Namespace) -> int:
    """Check hashes; exit 3 when something does not match."""
    from worldloom.tasks.dataset import check_dataset

    problems = check_dataset(args.dataset)
    for problem in problems:
        console.say(f"  {problem}")
    if problems:
        raise GateNotMet(f"{args.dataset} has {len(problems)} problem(s), listed above")
    console.say(f"  {args.dataset}: everything matches its manifest")
    return 0


def build(args: argparse.Namespace) -> tuple[Any, Any]:
    """The world and its grid for the robot of the options."""
    from worldloom.tasks.navgrid import GridParams, build_navgrid, default_cell
    from worldloom.tasks.observed import Observer
    from worldloom.tasks.robots import load_robot
    from worldloom.tasks.world import open_navworld

    robot = load_robot(args.robot)
    world = open_navworld(args.world)
    cell = default_cell(robot) if args.cell is None else args.cell
    params = GridParams(cell, args.min_island, args.boundary)
    grid = build_navgrid(
        world.collider, robot, params=params, observer=Observer(world.keyframes),
        collider_sha256=world.collider_sha256,
    )  # fmt: skip
    return world, grid


def _add_world(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("world", type=Path, help="world folder")
    parser.add_argument("--robot", default="jetbot_body", help="profile name or YAML file")
    parser.add_argument("--cell", type=float, metavar="M", help="side of a grid cell")
    parser.add_argument("--min-island", type=float, default=1.0, metavar="M2")
    parser.add_argument("--boundary", choices=("wall", "open"), default="wall")


def _wrote(files: list[Path], following: str | None) -> None:
    for file in files:
        console.say(f"  wrote {file}")
    if following:
        console.say(f"  next: {following}")


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
