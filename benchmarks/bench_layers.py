"""How long USD layers take: splats authored and saved, read back, and a collider tile.

Run: python benchmarks/bench_layers.py [--splats 1000000]. The target of the architecture page is
one million splats of degree 0 authored and saved in at most 0.5 s; each line shows the best of
three, and a plain numpy.save of the same bytes as the floor of this disk.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from worldloom.generator.layers.collider_layer import write_collider_layer
from worldloom.generator.layers.points_layer import write_points_layer
from worldloom.generator.layers.read import read_splat_layer
from worldloom.generator.layers.splat_layer import split_splats, write_splat_layer
from worldloom.scene.mesh import TriMesh
from worldloom.scene.splats import Splats

TARGET_S = 0.5  # One million splats of degree 0, authored and saved.


def cloud(n: int, k: int) -> Splats:
    """Splats (n of them) in a ten metre room with k harmonics each."""
    rng = np.random.default_rng(0)
    quats = rng.normal(size=(n, 4)).astype(np.float32)
    return Splats(
        rng.uniform(-5, 5, (n, 3)).astype(np.float32),
        rng.uniform(0.002, 0.05, (n, 3)).astype(np.float32),
        quats / np.linalg.norm(quats, axis=1, keepdims=True),
        rng.uniform(0.01, 0.99, n).astype(np.float32),
        rng.normal(0, 0.3, (n, k, 3)).astype(np.float32),
    )


def grid(side: int) -> TriMesh:
    """A bumpy floor of 2 x side x side triangles."""
    x, y = np.meshgrid(np.arange(side + 1), np.arange(side + 1), indexing="ij")
    points = np.stack([x, y, np.sin(x * 0.3) * 0.1], -1).reshape(-1, 3) * 0.05
    a = (np.arange(side)[:, None] * (side + 1) + np.arange(side)).reshape(-1)
    faces = np.stack([a, a + side + 1, a + 1, a + 1, a + side + 1, a + side + 2], -1)
    return TriMesh(points.astype(np.float32), faces.reshape(-1, 3).astype(np.int32))


def best_of(run: Callable[[], object], *, times: int = 3) -> float:
    """Shortest wall time of `run` in seconds."""
    spent = []
    for _ in range(times):
        start = time.perf_counter()
        run()
        spent.append(time.perf_counter() - start)
    return min(spent)


def measure_splats(n: int, k: int, folder: Path) -> float:
    """Print the times of n splats with k harmonics; returns seconds to author and save them."""
    splats = cloud(n, k)
    split = best_of(lambda: split_splats(splats), times=1)
    parts = split_splats(splats)
    files = [folder / f"{i}.usdc" for i in range(len(parts))]

    def write() -> None:
        for part, file in zip(parts, files, strict=True):
            write_splat_layer(part, file)

    floats = np.concatenate([splats.means.ravel(), splats.sh.ravel(), splats.scales.ravel()])
    floor = best_of(lambda: np.save(folder / "floor.npy", floats))
    wrote = best_of(write)
    read = best_of(lambda: [read_splat_layer(file) for file in files])
    size = sum(file.stat().st_size for file in files) / 1e6
    print(
        f"{n} splats, {k:2d} harmonics: split {split:.2f} s, author and save {wrote:.2f} s "
        f"({len(parts)} files, {size:.0f} MB), read {read:.2f} s, numpy.save {floor:.2f} s"
    )
    return wrote


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--splats", type=int, default=1_000_000)
    n = parser.parse_args().splats
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        spent = measure_splats(n, 1, folder)
        measure_splats(n, 16, folder)
        splats = cloud(n // 4, 1)
        points = best_of(lambda: write_points_layer(splats.means, splats.rgb(), folder / "p.usdc"))
        print(f"{splats.n} points: {points:.2f} s")
        mesh = grid(158)
        collider = best_of(lambda: write_collider_layer(mesh, folder / "c.usdc"))
        print(f"collider of {len(mesh.faces)} triangles: {collider:.2f} s")
    verdict = "met" if spent <= TARGET_S * n / 1e6 else "MISSED"
    print(f"target {TARGET_S * n / 1e6:g} s for {n} splats of degree 0: {verdict}")


if __name__ == "__main__":
    main()
