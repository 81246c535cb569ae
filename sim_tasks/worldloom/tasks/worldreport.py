"""A world, its dataset and scored runs -> report.html."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worldloom.scene.cameras import Cameras
from worldloom.scene.errors import InvalidRequest
from worldloom.scene.frame import look_at, matrix_from_quat_wxyz
from worldloom.tasks.navgrid import NavGrid
from worldloom.tasks.navreport import draw_map
from worldloom.tasks.pictures import (
    colour_depth,
    encode,
    encode_photo,
    read_splats,
    viewpoints,
)
from worldloom.tasks.report import Picture, ReportInputs, RunResult, write_report
from worldloom.tasks.run import read_log
from worldloom.tasks.score import open_run
from worldloom.tasks.world import NavWorld

ROBOT_EYE_M = 0.25  # Height of the camera on the robot above its floor [m].
SUBJECT_M = 2.5  # What the photo shows is taken to stand this far in front of its camera [m].
GOOD, BAD = "#1f9d61", "#d1493f"  # Colours of paths that succeed and fail.


def write_demo_report(
    out: Path,
    *,
    photo: Path,
    depth: Sequence[tuple[str, str]],
    world: NavWorld,
    grid: NavGrid,
    navigability: dict[str, Any],
    runs: list[Path],
    times: dict[str, float],
) -> Path:
    """Write `report.html` and the pictures behind it (`pictures/`)."""
    results = [_result(folder) for folder in runs]
    rows = [_rows(folder) for folder in runs]
    cameras = Cameras.load(world.folder / "cameras.npz")
    depth = list(depth)
    pictures = _main_pictures(world, encode_photo(photo), cameras, depth)
    renders = _renders(world, cameras, float(grid.robot["height"]), runs[0], rows[0])
    charts = _maps(grid, cameras, runs, rows, results)
    _keep(out / "pictures", [*pictures, *renders, *charts])
    inputs = ReportInputs(
        title="worldloom: a photo that a robot can drive through",
        subtitle=f"{photo.name}, engine {world.manifest.engine['preset']}, "
        f"{world.manifest.frames} frames, world {world.id}",
        headline=_headline(results, rows, navigability),
        pictures=pictures,
        renders=renders,
        maps=charts,
        runs=results,
        tables=_tables(world, navigability, depth, times),
        episodes=_episode_rows(results, rows),
        notices=[*world.manifest.notices, *_licences(world)],
        commands=_commands(out),
    )
    return write_report(out / "report.html", inputs)


def write_runs_report(file: Path, runs: list[Path]) -> Path:
    """Write a report page of scored runs of one dataset, without a photo.

    Raises:
        InvalidRequest: A run is not scored.
    """
    from worldloom.tasks.navreport import navigability
    from worldloom.tasks.world import open_navworld

    _, data = open_run(runs[0])
    world, grid = open_navworld(data.world), data.grid()
    cameras = Cameras.load(world.folder / "cameras.npz")
    results, rows = [_result(run) for run in runs], [_rows(run) for run in runs]
    report = navigability(world, grid)
    first = encode(world.keyframes.rgb[0])
    pictures = _main_pictures(world, first, cameras, [])
    inputs = ReportInputs(
        title=f"Navigation on {data.name}",
        subtitle=f"world {world.id}, robot {data.robot.name}",
        headline=_headline(results, rows, report),
        pictures=pictures,
        renders=_renders(world, cameras, data.robot.height, runs[0], rows[0]),
        maps=_maps(grid, cameras, runs, rows, results),
        runs=results,
        tables=_tables(world, report, [], {}),
        episodes=_episode_rows(results, rows),
        notices=[*world.manifest.notices, *_licences(world)],
    )
    return write_report(file, inputs)


def _result(folder: Path) -> RunResult:
    file = folder / "summary.json"
    if not file.is_file():
        raise InvalidRequest(f"{folder} is not scored; run 'worldloom nav score {folder}' first")
    summary = json.loads(file.read_text())
    return RunResult(summary["policy"], summary["backend"], summary)


def _rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]


def _headline(
    results: list[RunResult], rows: list[list[dict[str, Any]]], report: dict[str, Any]
) -> list[tuple[str, str, str]]:
    best = results[0].summary["measures"]
    success, made_up = best["success"], best["made_up_share"]["mean"]
    return [
        (
            f"{100 * success['mean']:.0f} %",
            f"{results[0].policy} success in {results[0].backend}",
            f"[{100 * success['low']:.0f}, {100 * success['high']:.0f}] %, "
            f"{success['n']} episodes",
        ),
        (f"{report['navigable_m2']:.1f} m2", "drivable floor", f"for {report['robot']}"),
        (
            f"{100 * (1 - made_up):.0f} %",
            "of the driven way seen in the photo",
            f"{100 * made_up:.0f} % was made up by the engine",
        ),
        (f"{report['relief_rms_mm']:.1f} mm", "relief of the floor, rms", "bound 5 mm"),
        (
            str(report["scale"].get("status", "unknown")),
            "scale",
            f"+-{100 * float(report['scale'].get('sigma', 0)):.0f} %",
        ),
    ]


def _main_pictures(
    world: NavWorld, photo: bytes, cameras: Cameras, depth: list[tuple[str, str]]
) -> list[Picture]:
    from worldloom.render.zbuffer import shade_mesh

    frames = world.keyframes
    size = tuple(int(x) for x in cameras.size[0])
    collider = shade_mesh(world.collider, cameras.c2w[0], cameras.K[0], size)
    error = next((value for name, value in depth if name.startswith("AbsRel")), "")
    note = f"from {world.manifest.depth_source}" + (f"; AbsRel {error}" if error else "")
    return [
        Picture("Photo", photo),
        Picture("Depth of the photo", encode(colour_depth(frames.depth[0])), note),
        Picture(
            "Collider", encode(collider),
            f"{len(world.collider.faces):,} triangles; red would be a back side",
        ),
    ]  # fmt: skip


def _renders(
    world: NavWorld, cameras: Cameras, robot_height: float, run: Path, rows: list[dict[str, Any]]
) -> list[Picture]:
    from worldloom.render.rasterise import rasterise

    splats = read_splats(world)
    size = tuple(int(x) for x in cameras.size[0])
    views = viewpoints(cameras, robot_height=robot_height)
    views.append(("The robot's view, while driving", _robot_eye(run, rows, cameras)))
    pictures = []
    for title, c2w in views:
        image = rasterise(splats, c2w, cameras.K[0], size, background=(0.08, 0.09, 0.11))
        pictures.append(Picture(title, encode(image.rgb, side=700), f"{splats.n:,} splats"))
    return pictures


def _robot_eye(
    run: Path, rows: list[dict[str, Any]], cameras: Cameras
) -> NDArray[np.float64]:
    """A camera on the robot where, on all its ways, it looks best at what the photo shows [4 4]."""
    logs = [read_log(run / "trajectories" / f"{row['id']}.npz") for row in rows]
    poses = np.concatenate([log.pose_xyz_wxyz for log in logs])
    ahead = matrix_from_quat_wxyz(poses[:, 3:])[:, :, 0]
    subject = cameras.centres[0] + SUBJECT_M * cameras.c2w[0, :3, 2]
    away = (subject - poses[:, :3]) * [1, 1, 0]
    distance = np.linalg.norm(away, axis=1)
    facing = np.einsum("ni,ni->n", ahead, away) / np.maximum(distance, 1e-9)
    at = int(np.argmax(facing - np.abs(distance - SUBJECT_M) / SUBJECT_M))
    eye = poses[at, :3] + [0, 0, ROBOT_EYE_M]
    return look_at(eye, eye + ahead[at])


def _maps(
    grid: NavGrid, cameras: Cameras, runs: list[Path], rows: list[list[dict[str, Any]]],
    results: list[RunResult],
) -> list[Picture]:  # fmt: skip
    """A map of every policy in the first simulator."""
    chosen = [k for k, result in enumerate(results) if result.backend == results[0].backend]
    return [_map(grid, cameras, runs[k], rows[k], results[k]) for k in chosen]


def _map(
    grid: NavGrid, cameras: Cameras, run: Path, rows: list[dict[str, Any]], result: RunResult
) -> Picture:
    header, data = open_run(run)
    episodes = {episode.id: episode for episode in data.episodes(header["split"])}
    paths, starts, goals = [], [], []
    for row in rows:
        log = read_log(run / "trajectories" / f"{row['id']}.npz")
        paths.append((log.pose_xyz_wxyz[:, :2], GOOD if row.get("success") else BAD))
        starts.append(episodes[row["id"]].start.position)
        goals.append(episodes[row["id"]].goals[0].position)
    title = f"{result.policy} in {result.backend}"
    png = draw_map(
        grid, paths=paths, starts=starts, goals=goals, cameras=cameras.centres, title=title
    )
    return Picture(title, png, "Green ways reach the goal, red ones do not.")




def _tables(
    world: NavWorld, report: dict[str, Any], depth: list[tuple[str, str]], times: dict[str, float]
) -> list[tuple[str, list[tuple[str, str]]]]:
    scale = report["scale"]
    sources = [f"{s['name']} {float(s['value']):.3g} +-{float(s['sigma']):.2g}"
               for s in scale.get("sources", [])]  # fmt: skip
    run = world.run
    return [
        ("Navigability", _navigability(report)),
        ("Scale and depth", [
            ("scale status", str(scale.get("status"))),
            ("metres per unit", f"{float(scale.get('value', 0)):.4g}"),
            ("relative sigma", f"{float(scale.get('sigma', 0)):.3g}"),
            ("sources", "; ".join(sources) or "none"),
            ("depth source", world.manifest.depth_source),
            *((f"depth error: {name}", value) for name, value in depth),
        ]),
        ("Generation", [
            ("seconds in the worker", f"{run.get('seconds', 0):.1f}"),
            *((f"... {k}", f"{v:.1f} s") for k, v in run.get("stages_s", {}).items()),
            ("peak memory of the worker", f"{run.get('peak_memory_mb', 0):.0f} MB"),
            ("splats", f"{sum(e.count for e in world.manifest.live('splats')):,}"),
            ("collider triangles", f"{len(world.collider.faces):,}"),
        ]),
        *([("Time of the demo", [(name, f"{s:.1f} s") for name, s in times.items()])]
          if times else []),
    ]  # fmt: skip


def _navigability(report: dict[str, Any]) -> list[tuple[str, str]]:
    titles = {
        "navigable_m2": ("drivable area", "{:.2f} m2"),
        "floor_m2": ("floor", "{:.2f} m2"),
        "observed_m2": ("floor seen by a camera", "{:.2f} m2"),
        "seen_share": ("drivable floor seen in the photo", "{:.1%}"),
        "made_up_share": ("drivable floor made up", "{:.1%}"),
        "islands": ("islands", "{}"),
        "largest_island_share": ("largest island", "{:.1%}"),
        "tilt_deg": ("residual tilt", "{:.3f} degrees"),
        "relief_rms_mm": ("relief, rms", "{:.2f} mm"),
        "hole_share": ("holes in the enclosed floor", "{:.2%}"),
    }
    return [
        (title, form.format(report[key])) for key, (title, form) in titles.items() if key in report
    ]


def _episode_rows(
    results: list[RunResult], rows: list[list[dict[str, Any]]]
) -> list[dict[str, Any]]:
    table = []
    for index, base in enumerate(rows[0]):
        row = {"episode": base["id"], "geodesic [m]": f"{base['geodesic']:.2f}"}
        for result, own in zip(results, rows, strict=True):
            row[f"{result.policy}, {result.backend}"] = own[index]["end_reason"]
        table.append(row)
    return table


def _licences(world: NavWorld) -> list[str]:
    return [
        f"Weights {w.get('name')}: {w.get('licence')}"
        for w in world.manifest.engine.get("weights", [])
    ]


def _commands(out: Path) -> list[tuple[str, str]]:
    world = out / "world"
    return [
        ("Open in Isaac Sim", f"File > Open > {(world / 'world.usda').resolve()}"),
        ("Tasks on it", f"File > Open > {(out / 'dataset' / 'usd' / 'tasks.usda').resolve()}"),
        ("Extend the world", f"worldloom extend {world} --path dolly:distance=0.5"),
        ("Your own photo", "worldloom demo PHOTO.jpg --camera-height 1.5 --out DIR"),
        ("Score again from the logs", f"worldloom nav score {out / 'runs' / 'oracle-kinematic'}"),
    ]


def _keep(folder: Path, pictures: list[Picture]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number, picture in enumerate(pictures):
        suffix = "jpg" if picture.png[:2] == b"\xff\xd8" else "png"
        name = "".join(c if c.isalnum() else "-" for c in picture.title.lower()).strip("-")
        (folder / f"{number:02d}-{name[:40]}.{suffix}").write_bytes(picture.png)
