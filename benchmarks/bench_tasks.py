"""Navigation on three truth worlds: area under vertex noise, error of distances, time.

Run: python benchmarks/bench_tasks.py [--robot locobot_like]. Beside the footprint plane stands a
slope test per triangle as navigation meshes do it (30 degrees), and beside 32 neighbours 8 of
them. Targets: area within 8 % of clean at 3 cm, distances within 2 % (mean 0.7 %), 200,000
triangles in 2 s.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace

import numpy as np
from scipy.ndimage import distance_transform_edt
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import dijkstra

from worldloom.generator.truth.scene import scene
from worldloom.generator.truth.surface import mesh as truth_mesh
from worldloom.scene.mesh import TriMesh
from worldloom.tasks.episodes import Sampling, sample_episodes
from worldloom.tasks.geodesic import DistanceField, FloorGraph
from worldloom.tasks.heightfield import floor_heights
from worldloom.tasks.navgrid import FLOOR_BAND_M, GridParams, NavGrid, build_navgrid
from worldloom.tasks.robots import RobotProfile, load_robot

SCENES = ("room", "two_rooms", "corridor")
EDGE_M, CELL_M, REFINE = 0.07, 0.05, 4
SLOPE_DEG = 30.0  # Common limit of navigation meshes.
NOISE_M = (0.0, 0.01, 0.02, 0.03)
FLOOR_FIELDS = ("z", "walkable", "clearance", "island", "blocked", "observed", "made_up")


def fine_mesh(name: str) -> TriMesh:
    """A truth scene's surface in triangles of at most EDGE_M."""
    import trimesh

    coarse = truth_mesh(scene(name))
    points, faces = trimesh.remesh.subdivide_to_size(
        coarse.vertices, coarse.faces, EDGE_M, max_iter=20
    )
    points, inverse = np.unique(np.round(points, 6), axis=0, return_inverse=True)
    return TriMesh(points.astype(np.float32), inverse.reshape(-1)[faces].astype(np.int32))


def noisy(mesh: TriMesh, sigma: float) -> TriMesh:
    """The mesh with independent noise on every vertex [m]."""
    offset = np.random.default_rng(1).standard_normal(mesh.vertices.shape) * sigma
    return TriMesh((mesh.vertices + offset).astype(np.float32), mesh.faces)


def area_by_triangle_slope(mesh: TriMesh, grid: NavGrid, robot: RobotProfile) -> float:
    """Navigable area [m^2] when every triangle is judged by its own slope."""
    level = mesh.select_faces(mesh.normals()[:, 2] >= np.cos(np.radians(SLOPE_DEG)))
    floor = grid.floors[0]
    band = (floor.level - FLOOR_BAND_M, floor.level + FLOOR_BAND_M)
    z = floor_heights(level, grid.origin_xy, grid.cell, floor.z.shape, band)
    free = np.pad(~np.isnan(z) & ~floor.blocked, 1)
    room = distance_transform_edt(free)[1:-1, 1:-1] * grid.cell - 0.5 * grid.cell
    return float((room >= robot.radius).sum() * grid.cell**2)


def measure_noise(robot: RobotProfile) -> None:
    """Print navigable area by noise for both tests, and the time of a grid."""
    print("scene      triangles  noise cm  footprint m2  share  triangle slope m2  share  seconds")
    for name in SCENES:
        mesh = fine_mesh(name)
        clean: tuple[float, float] | None = None
        for sigma in NOISE_M:
            world = noisy(mesh, sigma)
            start = time.perf_counter()
            grid = build_navgrid(world, robot, params=GridParams(CELL_M, 1.0))
            spent = time.perf_counter() - start
            areas = (grid.navigable_m2, area_by_triangle_slope(world, grid, robot))
            clean = clean or areas
            print(
                f"{name:<10} {len(mesh.faces):>9,} {100 * sigma:>9.1f} {areas[0]:>13.1f} "
                f"{areas[0] / clean[0]:>6.2f} {areas[1]:>18.1f} {areas[1] / clean[1]:>6.2f} "
                f"{spent:>8.2f}"
            )


def refined(grid: NavGrid) -> NavGrid:
    """The same walkable set on cells REFINE times smaller."""
    floor, block = grid.floors[0], np.ones((REFINE, REFINE), int)
    fields = {n: np.kron(getattr(floor, n), block).astype(getattr(floor, n).dtype)
              for n in FLOOR_FIELDS}  # fmt: skip
    return replace(grid, cell=grid.cell / REFINE, floors=(replace(floor, **fields),))


def eight_neighbours(graph: FloorGraph) -> csr_matrix:
    """The graph with only the steps to the eight cells around."""
    starts, ends, lengths = graph.edges
    near = lengths < 1.5 * graph.grid.cell
    shape = (len(graph.cells),) * 2
    return csr_matrix((lengths[near], (starts[near], ends[near])), shape=shape)


def measure_distances(robot: RobotProfile) -> None:
    """Print errors of distances against string-pulled paths on a refined grid."""
    print("\nscene      pairs  32 neighbours mean/max %  8 neighbours mean/max %  field ms")
    for name in SCENES:
        grid = build_navgrid(truth_mesh(scene(name)), robot, params=GridParams(CELL_M, 1.0))
        graph, fine = FloorGraph(grid, 0), FloorGraph(refined(grid), 0)
        around = eight_neighbours(graph)
        rng = np.random.default_rng(4)
        errors: list[tuple[float, float]] = []
        spent = []
        for goal in graph.cells[rng.integers(len(graph.cells), size=6)]:
            xy = grid.centre_of(goal)
            begin = time.perf_counter()
            field = DistanceField(graph, xy)
            spent.append(time.perf_counter() - begin)
            exact = DistanceField(fine, xy + 1e-4)
            eight = dijkstra(around, indices=graph.node_at(xy))
            for node in rng.integers(len(graph.cells), size=12):
                at = grid.centre_of(graph.cells[node])
                if not 1.0 < field.distance(at) < np.inf:
                    continue
                truth = np.linalg.norm(np.diff(exact.path(at), axis=0), axis=1).sum()
                errors.append((float(field.distance(at)) / truth - 1, eight[node] / truth - 1))
        mean, worst = 100 * np.mean(errors, axis=0), 100 * np.max(errors, axis=0)
        print(
            f"{name:<10} {len(errors):>5} {mean[0]:>17.2f} /{worst[0]:>5.2f} "
            f"{mean[1]:>17.2f} /{worst[1]:>5.2f} {1000 * np.median(spent):>9.1f}"
        )


def measure_sampling(robot: RobotProfile) -> None:
    """Print how fast episodes are drawn."""
    grid = build_navgrid(truth_mesh(scene("two_rooms")), robot, params=GridParams(CELL_M, 1.0))
    begin = time.perf_counter()
    episodes, tally = sample_episodes(
        grid, "two_rooms", 200, sampling=Sampling(min_island_area=1.0), seed=7
    )
    spent = time.perf_counter() - begin
    print(f"\n{len(episodes)} episodes from {tally.tries} tries in {spent:.2f} s")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--robot", default="locobot_like")
    robot = load_robot(parser.parse_args().robot)
    measure_noise(robot)
    measure_distances(robot)
    measure_sampling(robot)


if __name__ == "__main__":
    main()
