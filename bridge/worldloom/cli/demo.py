"""`worldloom demo`: a photo becomes a world, and a robot drives through it, on this machine.

It does on loopback what a deployment does over the network: a real server process, a real gRPC
job, a world as USD, navigation tasks, two policies in PhysX and in the kinematic simulator, and a
report. Interrupted, it leaves a world that opens, and goes on when it is called again.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from worldloom.cli import console
from worldloom.cli.generate import STORE, make
from worldloom.cli.localserver import local_server
from worldloom.cli.requests import add_request_arguments, build_request
from worldloom.scene.errors import WorldloomError
from worldloom.scene.manifest import Manifest
from worldloom.scene.path_files import load_path
from worldloom.scene.request import WorldRequest
from worldloom.scene.worldfolder import make_folder

PATH = "pull-back:distance=1.5,pan=25"
"""Back by 1.5 m, then 25 degrees to either side: 161 frames."""
ROBOT, EPISODES, SUCCESS_RADIUS_M = "jetbot_body", 24, 0.15
GEODESIC_M, MIN_ISLAND_M2, MIN_AREA_M2 = (1.0, 6.0), 1.0, 3.0
POLICIES = ("oracle", "straight_line")
WEIGHTS = "tcmonodepth-small"
WEIGHTS_TIMEOUT_S = 10.0  # The demo waits no longer than this for 0.9 MB.


@dataclass
class Steps:
    """What the demo did and how long each step took."""

    out: Path
    times: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def step(self, title: str) -> Iterator[None]:
        """Announce a step and time it."""
        console.say(f"\n[{len(self.times) + 1}] {title}")
        start = time.monotonic()
        yield
        self.times[title] = time.monotonic() - start


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `worldloom demo`."""
    parser.add_argument("photo", nargs="?", help="a photo; default scikit-image's garage")
    parser.add_argument("--out", type=Path, default=Path("worldloom-demo"), metavar="DIR")
    parser.add_argument("--offline", action="store_true", help="never touch the network")
    parser.add_argument("--path", default=PATH, metavar="PRESET|FILE", help="camera path")
    parser.add_argument("--episodes", type=int, default=EPISODES, metavar="N")
    parser.add_argument("--engine", default="preview", help=argparse.SUPPRESS)
    add_request_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Run the whole path; exit 3 when the world cannot be driven."""
    out = make_folder(args.out)
    steps = Steps(out)
    with steps.step("depth network"):
        _offer_weights(offline=args.offline)
    request, files, truth = _request(args)
    with steps.step("photo -> world, through a real server process on loopback"):
        manifest = _generate(request, files, out)
    with steps.step("world -> navigation grid, episodes, USD tasks"):
        nav = _navigate(out, args)
    with steps.step("policies in the simulators"):
        runs = _drive(out)
    with steps.step("report"):
        report = _report(out, files["photo"], truth, nav, runs, steps)
    _summary(out, manifest, nav, runs, steps, report)
    return 0


def _offer_weights(*, offline: bool) -> None:
    """Fetch the small depth network once, if that is quick; the built-in prior does without."""
    from worldloom.generator import weights

    entry = weights.lookup(WEIGHTS)
    if weights.find_weights(WEIGHTS) is not None:
        console.say(f"  {WEIGHTS} is here ({entry.licence})")
        return
    if offline:
        console.say(f"  {WEIGHTS} is not here; --offline, so the built-in prior is used")
        return
    console.say(f"  getting {WEIGHTS}, {entry.bytes / 1e6:.1f} MB, licence {entry.licence}")
    try:
        weights.get(WEIGHTS, timeout_s=WEIGHTS_TIMEOUT_S)
    except WorldloomError as error:
        console.say(f"  going on without it, with the built-in prior: {error}")


def _request(args: argparse.Namespace) -> tuple[WorldRequest, dict[str, Path], Any]:
    """The request for the given photo, or for the sample with its known calibration."""
    path = load_path(args.path, frames=args.frames)
    if args.photo:
        return (*build_request(args.photo, args, path=path), None)
    from worldloom.generator.depth.motorcycle import CAMERA_HEIGHT_M, motorcycle

    sample = motorcycle()
    known = sample.intrinsics
    args.intrinsics = args.intrinsics or (
        f"{known.fx},{known.fy},{known.cx},{known.cy},{known.width},{known.height}"
    )
    if args.camera_height is None and args.distance is None:
        args.camera_height = CAMERA_HEIGHT_M
    return (*build_request(str(sample.photo), args, path=path), sample)


def _generate(request: WorldRequest, files: dict[str, Path], out: Path) -> Manifest:
    from worldloom.bridge.channel import Access

    world = make_folder(out / "world")
    with local_server(world / STORE, engine=request.engine) as server:
        console.say(f"  server {server.address}, process {server.pid}, log {server.log}")
        manifest = make(server.address, request, files, world, access=Access())
    console.say(
        f"  {manifest.frames} frames, {_count(manifest, 'splats'):,} splats, "
        f"{_count(manifest, 'collision'):,} collider triangles in {world / 'world.usda'}"
    )
    return manifest


def _navigate(out: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Grid, gates, ROS map and dataset."""
    from worldloom.tasks.dataset import make_dataset
    from worldloom.tasks.episodes import Sampling
    from worldloom.tasks.navgrid import GridParams, build_navgrid, default_cell
    from worldloom.tasks.navreport import check_gates, navigability
    from worldloom.tasks.observed import Observer
    from worldloom.tasks.robots import load_robot
    from worldloom.tasks.rosmap import write_ros_map
    from worldloom.tasks.world import open_navworld

    robot, world = load_robot(ROBOT), open_navworld(out / "world")
    grid = build_navgrid(
        world.collider, robot, params=GridParams(default_cell(robot), MIN_ISLAND_M2),
        observer=Observer(world.keyframes), collider_sha256=world.collider_sha256,
    )  # fmt: skip
    folder = out / "world" / "nav" / ROBOT
    grid.save(folder / "navgrid.npz")
    write_ros_map(grid, folder)
    report = navigability(world, grid)
    (out / "world" / "nav" / "report.json").write_text(json.dumps(report, indent=2) + "\n")
    check_gates(report, min_area_m2=MIN_AREA_M2)
    sampling = Sampling(
        geodesic=GEODESIC_M, ratio_threshold=None, min_island_area=MIN_ISLAND_M2,
        success_radius=SUCCESS_RADIUS_M,
    )  # fmt: skip
    episodes, tally = make_dataset(
        out / "dataset", world, grid, robot, name="demo", count=args.episodes, sampling=sampling,
        seed=args.seed,
    )  # fmt: skip
    console.say(
        f"  {report['navigable_m2']:.1f} m2 drivable for {ROBOT}, "
        f"{100 * report['seen_share']:.0f} % of it seen in the photo; "
        f"{len(episodes)} episodes from {tally.tries} tries"
    )
    return {"world": world, "grid": grid, "report": report, "episodes": episodes}


def _drive(out: Path) -> list[Any]:
    """Run and score every policy in every simulator that is installed."""
    from worldloom.tasks.run import available_backends, run_dataset
    from worldloom.tasks.score import score_run

    runs = []
    for backend in available_backends():
        for policy in POLICIES:
            folder = out / "runs" / f"{policy}-{backend}"
            run_dataset(out / "dataset", policy=policy, backend=backend, out=folder, split="test")
            summary = score_run(folder)
            runs.append((policy, backend, folder, summary))
            console.say(f"  {policy} in {backend}: success {_rate(summary, 'success')}")
    if all(backend != "physx" for _, backend, _, _ in runs):
        console.say("  PhysX is not installed here; pip install 'worldloom[physics]' adds it")
    return runs


def _report(
    out: Path, photo: Path, truth: Any, nav: dict[str, Any], runs: list[Any], steps: Steps
) -> Path:
    from worldloom.tasks.worldreport import write_demo_report

    return write_demo_report(
        out, photo=photo, depth=_depth_error(nav["world"], truth), world=nav["world"],
        grid=nav["grid"],
        navigability=nav["report"], runs=[folder for _, _, folder, _ in runs],
        times=steps.times,
    )  # fmt: skip


def _depth_error(world: Any, sample: Any) -> list[tuple[str, str]]:
    """Error of the photo's depth against the truth that comes with the sample photo."""
    if sample is None:
        return []
    import numpy as np

    from worldloom.generator.depth.compare import depth_error

    estimate, truth = world.keyframes.depth[0], sample.depth
    rows, columns = (
        ((np.arange(n) + 0.5) * m / n).astype(int)
        for n, m in zip(estimate.shape, truth.shape, strict=True)
    )
    truth = truth[rows][:, columns]
    error = depth_error(estimate, truth, (truth > 0) & (estimate > 0))
    names = {"abs_rel": "AbsRel", "delta1": "delta < 1.25", "r2": "R2 of disparity",
             "abs_rel_aligned": "AbsRel, aligned"}  # fmt: skip
    return [(title, f"{error[key]:.3f}") for key, title in names.items()]


def _summary(
    out: Path, manifest: Manifest, nav: dict[str, Any], runs: list[Any], steps: Steps, report: Path
) -> None:
    console.say()
    console.table(
        ["policy", "simulator", "success", "SPL", "collisions"],
        [
            [policy, backend, _rate(s, "success"), _rate(s, "spl"), _rate(s, "collisions")]
            for policy, backend, _, s in runs
        ],
    )
    console.say()
    console.say(f"  folder            {out.resolve()}")
    console.say(f"  report            {report.resolve()}")
    console.say(f"  time              {sum(steps.times.values()):.0f} s")
    console.say(f"  open in Isaac Sim File > Open > {(out / 'world' / 'world.usda').resolve()}")
    console.say(f"  tasks on it       {(out / 'dataset' / 'usd' / 'tasks.usda').resolve()}")
    console.say(f"  extend            worldloom extend {out / 'world'} --path dolly:distance=0.5")
    console.say("  again             worldloom demo YOUR_PHOTO.jpg --camera-height 1.5 --out DIR")
    for notice in manifest.notices:
        console.say(f"  note: {notice}")
    console.emit("demo", folder=str(out), report=str(report), seconds=sum(steps.times.values()))


def _count(manifest: Manifest, kind: str) -> int:
    return sum(entry.count for entry in manifest.live(kind))


def _rate(summary: dict[str, Any], key: str) -> str:
    """A measure with its interval, as summary.json holds it."""
    value = summary["measures"][key]
    return f"{value['mean']:.2f} [{value['low']:.2f}, {value['high']:.2f}]"
