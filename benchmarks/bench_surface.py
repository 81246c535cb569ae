"""Depth maps of known scenes -> a collider: cost, agreement with the truth, cracks, peers.

Run: python benchmarks/bench_surface.py [--scenes room two_rooms corridor street] [--frames 80]
[--open3d-python PATH] [--pictures FOLDER]. 80 frames of 832 x 480 along the walk of each scene are
fused at 2 cm and meshed in a child process whose CPU time and peak memory are measured after a
warm-up that compiles. Beside ours: OpenVDB's mesher on the same field and Open3D's
VoxelBlockGrid on the same frames, each where it is installed (Open3D also in another
environment). Writes benchmarks/results/surface.json.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from worldloom.generator.engines import QualityLevel
from worldloom.generator.grow import Recipe
from worldloom.generator.surface.levels import LevelVolume
from worldloom.generator.surface.plan import VOXEL_PER_FOOTPRINT, LevelPlan
from worldloom.generator.surface.vdb import mesh_by_openvdb
from worldloom.generator.surface_stage import build_surface
from worldloom.generator.truth.measure import score_collider
from worldloom.generator.truth.noise import frame_noise
from worldloom.generator.truth.opening import named_scene
from worldloom.generator.truth.render import depth_view
from worldloom.generator.truth.surface import mesh as truth_mesh
from worldloom.generator.truth.surface_checks import check_surface, inward_faces
from worldloom.generator.truth.walk import walkthrough
from worldloom.render.zbuffer import shade_mesh
from worldloom.scene.cameras import Cameras
from worldloom.scene.errors import EngineFailed
from worldloom.scene.mesh import TriMesh

SIZE, VOXEL, FAR_M = (832, 480), 0.02, 20.0
KEYFRAME_EVERY = 4  # Frames whose rays verify the winding, and that the checks ask.
TARGETS = {"cpu_s": 8.0, "peak_mb": 2048, "f_score": 0.99, "per_100_m2": 150_000}
BUDGET = 1_000_000  # The collider is held to its error bound, not to a number of triangles.
RESULTS = Path(__file__).parent / "results" / "surface.json"

OPEN3D = """
import json, sys, time, numpy as np, open3d as o3d
data = np.load(sys.argv[1]); c = o3d.core; dev = c.Device("CPU:0")
start = time.process_time()
grid = o3d.t.geometry.VoxelBlockGrid(("tsdf", "weight"), (c.float32, c.float32), ((1), (1)),
                                     float(sys.argv[2]), 8, 60000, dev)
for d, T, K in zip(data["depth"], data["c2w"], data["K"]):
    image = o3d.t.geometry.Image(c.Tensor(np.ascontiguousarray(d)))
    K, T = c.Tensor(K), c.Tensor(np.linalg.inv(T))
    blocks = grid.compute_unique_block_coordinates(image, K, T, 1.0, float(sys.argv[3]), 4.0)
    grid.integrate(blocks, image, K, T, 1.0, float(sys.argv[3]), 4.0)
mesh = grid.extract_triangle_mesh(1.0)
spent = time.process_time() - start
np.savez(sys.argv[4], v=mesh.vertex.positions.numpy(), f=mesh.triangle.indices.numpy(), cpu=spent)
"""


def frames_of(scene_name: str, count: int, noise: str, seed: int, file: Path) -> None:
    """Render `count` depth maps along the walk of a scene into `file` (npz)."""
    scene, _ = named_scene(scene_name)
    cameras = walkthrough(scene, size=SIZE)
    cameras = cameras.select(np.linspace(0, cameras.n - 1, count).round().astype(int))
    depth = np.stack([depth_view(scene, cameras.c2w[i], cameras.K[i], SIZE) for i in range(count)])
    c2w = cameras.c2w.copy()
    for i in range(count):
        error = frame_noise(noise, seed, int(cameras.frame_id[i]), SIZE)  # type: ignore[arg-type]
        if error is not None:
            depth[i], c2w[i] = error.depth(depth[i]), error.pose(c2w[i])
    depth = np.where(depth <= FAR_M, depth, 0).astype(np.float32)
    np.savez(file, depth=depth, c2w=c2w, K=cameras.K, truth=cameras.c2w)


def fuse_and_mesh(file: Path, out: Path) -> None:
    """In a child: fuse the frames of `file`, build the collider, tell what it cost."""
    with np.load(file) as data:
        depth, c2w, K = data["depth"], data["c2w"], data["K"]
    grey = np.full((*depth.shape[1:], 3), 0.5, np.float32)
    looks = [
        SimpleNamespace(depth=depth[i], c2w=c2w[i], K=K[i])
        for i in range(0, len(depth), KEYFRAME_EVERY)
    ]
    recipe = Recipe(QualityLevel(SIZE[0], (VOXEL, VOXEL), FAR_M), BUDGET)
    plan = plan_of(K[0])
    warm = LevelVolume(plan)
    warm.integrate(depth[0], grey, c2w[0], K[0])
    build_surface(SimpleNamespace(volume=warm, keyframes=looks[:1]), recipe)  # type: ignore[arg-type]
    start, wall = time.process_time(), time.perf_counter()
    volume = LevelVolume(plan)
    for i in range(len(depth)):
        volume.integrate(depth[i], grey, c2w[i], K[i])
    fused = time.process_time()
    growth = SimpleNamespace(volume=volume, keyframes=looks)
    tiles, visual = build_surface(growth, recipe)  # type: ignore[arg-type]
    cost = {
        "cpu_s": time.process_time() - start,
        "fuse_cpu_s": fused - start,
        "mesh_cpu_s": time.process_time() - fused,
        "wall_s": time.perf_counter() - wall,
        "peak_mb": peak_mb(),
        "frames_mb": depth.nbytes / 2**20,
        "blocks": volume.blocks,
        "levels": np.bincount(volume.coords[: volume.blocks, 0]).tolist(),
        "raw_triangles": len(visual.faces),
    }
    volume.save(out / "volume.npz")
    sizes = [len(mesh.faces) for _, mesh in tiles]
    TriMesh.concat([mesh for _, mesh in tiles]).save_glb(out / "collider.glb")
    (out / "cost.json").write_text(json.dumps(cost | {"tile_faces": sizes}))


def plan_of(K: np.ndarray) -> LevelPlan:
    """Voxels by distance for the benchmark's frames."""
    return LevelPlan(VOXEL, near=VOXEL * float(K[0, 0]) / VOXEL_PER_FOOTPRINT)


def peak_mb() -> float:
    """Largest resident memory of this process [MiB]; `ru_maxrss` would inherit the parent's."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


def measure_ours(scene_name: str, file: Path, out: Path) -> dict[str, object]:
    """Cost, score and checks of our collider of one set of frames."""
    command = [sys.executable, __file__, "--child", str(file), str(out)]
    # Idle OpenMP threads spin by default, which counts as CPU time although nothing is computed.
    environment = os.environ | {"OMP_WAIT_POLICY": "PASSIVE"}
    subprocess.run(command, check=True, env=environment)
    row = json.loads((out / "cost.json").read_text())
    tiles, start = [], 0
    collider = TriMesh.load_glb(out / "collider.glb")
    for count in row.pop("tile_faces"):
        tiles.append(collider.select_faces(np.arange(start, start + count)))
        start += count
    with np.load(file) as data:
        depth, c2w, K, truth = data["depth"], data["c2w"], data["K"], data["truth"]
    looks = [
        SimpleNamespace(depth=depth[i], c2w=c2w[i], K=K[i])
        for i in range(0, len(depth), KEYFRAME_EVERY)
    ]
    every = [SimpleNamespace(depth=depth[i], c2w=c2w[i], K=K[i]) for i in range(len(depth))]
    # All frames saw; the winding is verified by the rays of every fourth, as keyframes would.
    checks = asdict(check_surface(tiles, every, plan=plan_of(K[0])))
    checks["inward_all_frames"] = checks["inward"]
    checks["inward"] = int(inward_faces(collider, looks, voxel=VOXEL).sum())
    return row | {"tiles": len(tiles)} | checks | score(scene_name, collider, truth, K)


def score(scene_name: str, collider: TriMesh, c2w: np.ndarray, K: np.ndarray) -> dict[str, float]:
    """Agreement of a collider with the truth that the cameras saw."""
    scene, _ = named_scene(scene_name)
    n = len(c2w)
    witnesses = Cameras(c2w, K, np.tile(SIZE, (n, 1)), np.arange(n))
    return asdict(score_collider(scene, truth_mesh(scene), collider, witnesses, reach_m=FAR_M))


def measure_openvdb(scene_name: str, file: Path, out: Path) -> dict[str, object] | str:
    """OpenVDB's mesher on level 0 of our field, or why there is none."""
    volume = LevelVolume.load(out / "volume.npz")
    start = time.process_time()
    try:
        mesh = mesh_by_openvdb(volume, level=0)
    except EngineFailed as error:
        return f"not installed: {error}"
    spent = time.process_time() - start
    with np.load(file) as data:
        numbers = score(scene_name, mesh, data["truth"], data["K"])
    return {"mesh_cpu_s": spent, "triangles": len(mesh.faces)} | numbers


def measure_open3d(
    scene_name: str, file: Path, out: Path, python: str | None
) -> dict[str, object] | str:
    """Open3D's VoxelBlockGrid on the same frames, or why there is none."""
    if python is None:
        if importlib.util.find_spec("open3d") is None:
            return "not installed"
        python = sys.executable
    result = out / "open3d.npz"
    command = [python, "-c", OPEN3D, str(file), str(VOXEL), str(FAR_M), str(result)]
    subprocess.run(command, check=True)
    with np.load(result) as data, np.load(file) as frames:
        mesh = TriMesh(data["v"].astype(np.float32), data["f"].astype(np.int32))
        numbers = score(scene_name, mesh, frames["truth"], frames["K"])
        return {"cpu_s": float(data["cpu"]), "triangles": len(mesh.faces)} | numbers


def draw(scene_name: str, file: Path, collider: TriMesh, folder: Path) -> None:
    """Pictures of a collider from four cameras of its walk, shaded by slope; backs are red."""
    from PIL import Image

    with np.load(file) as data:
        c2w, K = data["truth"], data["K"]
    chosen = np.linspace(0, len(c2w) - 1, 4).round().astype(int)
    views = [shade_mesh(collider, c2w[i], K[i], SIZE) for i in chosen]
    sheet = np.concatenate([np.concatenate(views[:2], 1), np.concatenate(views[2:], 1)], 0)
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray((sheet * 255).astype(np.uint8)).save(folder / f"{scene_name}.png")


def show(name: str, row: dict[str, object] | str) -> None:
    """One line of the table."""
    if isinstance(row, str):
        print(f"  {name:16s} {row}")
        return
    keys = ("cpu_s", "mesh_cpu_s", "peak_mb", "triangles", "per_100_m2", "f_score",
            "crack_edges", "invented_share", "inward", "inward_all_frames")  # fmt: skip
    told = [f"{key} {row[key]:.4g}" for key in keys if key in row]
    print(f"  {name:16s} " + "  ".join(told))


def measure_scene(scene_name: str, options: argparse.Namespace) -> dict[str, object]:
    """All rows of one scene."""
    rows: dict[str, object] = {}
    print(scene_name)
    with tempfile.TemporaryDirectory() as folder:
        out, file = Path(folder), Path(folder) / "frames.npz"
        for noise in options.noise:
            frames_of(scene_name, options.frames, noise, 0, file)
            rows[noise] = measure_ours(scene_name, file, out)
            show(f"ours, {noise}", rows[noise])  # type: ignore[arg-type]
            if noise != "exact":
                continue
            rows["openvdb"] = measure_openvdb(scene_name, file, out)
            show("OpenVDB mesher", rows["openvdb"])  # type: ignore[arg-type]
            rows["open3d"] = measure_open3d(scene_name, file, out, options.open3d_python)
            show("Open3D", rows["open3d"])  # type: ignore[arg-type]
            if options.pictures:
                draw(scene_name, file, TriMesh.load_glb(out / "collider.glb"), options.pictures)
    return rows


def main() -> None:
    """Measure the scenes that were asked for and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    scenes = ["room", "two_rooms", "corridor", "street", "loop", "stairs"]
    parser.add_argument("--scenes", nargs="+", default=scenes)
    parser.add_argument(
        "--noise",
        nargs="+",
        default=["exact"],
        help="exact, noisy or drift: as they are, not aligned",
    )
    parser.add_argument("--frames", type=int, default=80)
    parser.add_argument("--open3d-python", help="interpreter of an environment that has Open3D")
    parser.add_argument("--pictures", type=Path, help="folder for pictures of the colliders")
    parser.add_argument("--child", nargs=2, type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        fuse_and_mesh(*options.child)
        return
    for name in options.scenes:
        keep(name, measure_scene(name, options), options.frames)
    print(f"wrote {RESULTS}")


def keep(scene_name: str, rows: dict[str, object], frames: int) -> None:
    """Write the rows of a scene into the results, beside those of other scenes."""
    known = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    record = {
        "schema": "worldloom.bench-surface/1",
        "what": f"{frames} frames of {SIZE[0]} x {SIZE[1]}, voxel {VOXEL} m",
        "targets": TARGETS,
        "machine": platform.machine(),
        "scenes": known.get("scenes", {}) | {scene_name: rows},
    }
    RESULTS.write_text(json.dumps(record, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
