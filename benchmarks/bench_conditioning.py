"""Time of the geometry that conditions one chunk of Lyra 2.0, at the recorded conditions.

832 x 480 pixels, focal length 600, a box room with two spheres, small camera motion: five memory
slots and 80 new frames, the last frame warped to all of them, and rays of 40 latent frames; the
video encoder counts as nothing. Beside it single warps, 20 views, and retrieval over 100 frames.
The reference column is what the public code took on two cores (recorded once, on another day); the
naive column is a plain torch version of the same step in this run, measured on a few views and
multiplied. Ratios of processor seconds hold on a busy machine, those of wall time do not.
Run: .venv/bin/python benchmarks/bench_conditioning.py [--json FILE] [--repeat N] [--no-naive]
"""

from __future__ import annotations

import argparse
import json
import resource
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numba
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from worldloom.generator.memory import correspondence, rays, retrieval, unproject
from worldloom.generator.memory.correspondence import SourceFrame
from worldloom.generator.memory.lyra_cache import LyraMemory
from worldloom.generator.video.lyra.conditioning import Conditioning, Past, Shot, condition
from worldloom.generator.video.lyra.config import RELEASED_LAYOUT
from worldloom.generator.video.lyra.layout import FramePack
from worldloom.scene.frame import rotation_about

WIDTH, HEIGHT, FOCAL = 832, 480, 600.0
FRAMES, SLOTS, LATENTS, CACHED = 80, 5, 40, 100
WALLS = (3.0, 2.0, 6.0)  # Half the room's extent along x, y and z.
SPHERES = (((-0.8, 0.3, 3.0), 0.7), ((1.0, -0.2, 4.0), 0.9))  # Centre and radius.
K = np.array([[FOCAL, 0, WIDTH / 2], [0, FOCAL, HEIGHT / 2], [0, 0, 1]])
RECORDED: dict[str, tuple[float, float]] = {
    "warp 1 -> 1, RGB": (0.114, 0.213),
    "warp 1 -> 1, RGB + depth": (0.142, 0.275),
    "warp 1 -> 20, RGB + depth": (2.92, 5.81),
    "retrieval, 100 frames, stride 8": (0.039, 0.075),
    "retrieval, 100 frames, stride 4": (0.159, 0.314),
    "conditioning of a chunk": (83.4, 163.2),
    "the same in the loop": (83.4, 163.2),
}
"""Best wall and processor seconds of the public code on two cores."""
NAIVE_VIEWS = 2  # Views of the naive version that are really made.


@dataclass
class Row:
    """One line of the table; times in seconds."""

    name: str
    wall: float
    cpu: float
    naive_cpu: float | None = None

    @property
    def recorded(self) -> tuple[float, float] | None:
        """What the public code took."""
        return RECORDED.get(self.name)


def pose(x: float, y: float, z: float, yaw: float) -> NDArray[np.float64]:
    """World to camera, turned about y by `yaw` degrees."""
    w2c = np.eye(4)
    w2c[:3, :3] = rotation_about([0, 1, 0], np.radians(yaw))
    w2c[:3, 3] = x, y, z
    return w2c


def room(w2c: NDArray[np.float64]) -> NDArray[np.float32]:
    """z-depth of the box with two spheres, integer pixel centres, [h w]."""
    rotation = w2c[:3, :3].T
    eye = -rotation @ w2c[:3, 3]
    along = unproject.pixel_directions(K, HEIGHT, WIDTH) @ rotation.T
    depth = np.full((HEIGHT, WIDTH), np.inf)
    for axis, wall in enumerate(WALLS):
        d = np.where(along[..., axis] == 0, 1e-12, along[..., axis])
        depth = np.minimum(depth, (np.where(d > 0, wall, -wall) - eye[axis]) / d)
    for centre, radius in SPHERES:
        offset, a = eye - centre, (along**2).sum(-1)
        b, c = along @ offset, offset @ offset - radius**2
        inside = b * b - a * c
        near = (-b - np.sqrt(np.maximum(inside, 0))) / a
        depth = np.where((inside > 0) & (near > 0), np.minimum(near, depth), depth)
    return depth.astype(np.float32)


def timed(call: Callable[[], object], repeat: int) -> tuple[float, float]:
    """Best wall and processor seconds of all threads, after one run to warm up."""
    call()
    found = []
    for _ in range(repeat):
        wall, cpu = time.perf_counter(), time.process_time()
        call()
        found.append((time.perf_counter() - wall, time.process_time() - cpu))
    return min(w for w, _ in found), min(c for _, c in found)


class Step:
    """The inputs of the conditioning step, and the step."""

    def __init__(self) -> None:
        count = FRAMES + 1
        self.w2c = np.stack([pose(-0.004 * i, 0, -0.01 * i, 0.1 * i) for i in range(1, count)])
        self.K = np.tile(K, (FRAMES, 1, 1))
        poses = [pose(-0.05 * i, 0.02 * i, 0.1 * i, -2 * i) for i in range(SLOTS)]
        self.cached = [(room(p), p, K) for p in poses]
        self.rgb = np.random.default_rng(0).uniform(-1, 1, (HEIGHT, WIDTH, 3)).astype(np.float32)
        self.last = (room(np.eye(4)), np.eye(4), K)

    def run(self) -> tuple[NDArray[np.float32], ...]:
        """Correspondence, warped last frame and rays, from depth maps: nothing is kept."""
        size = (WIDTH, HEIGHT)
        sources = [SourceFrame(*frame) for frame in self.cached]
        buffer = correspondence.correspondence_new(sources, self.w2c, self.K, size, slots=SLOTS)
        last = SourceFrame(*self.last)
        warped = correspondence.warp_reference(last, self.rgb, self.w2c, self.K, size)
        c2w = np.linalg.inv(self.w2c[:LATENTS])
        lens = np.tile([FOCAL, FOCAL, K[0, 2] + 0.5, K[1, 2] + 0.5], (LATENTS, 1))
        return buffer, warped, rays.folded_rays(c2w, lens, size)

    def warp(self, views: int) -> None:
        """RGB and depth of some views, from a depth map."""
        correspondence.warp_views(
            SourceFrame(*self.last), self.rgb, self.w2c[:views], self.K[:views], (WIDTH, HEIGHT)
        )

    def warp_rgb(self) -> None:
        """RGB of one view, from a depth map."""
        correspondence.warp_reference(
            SourceFrame(*self.last), self.rgb, self.w2c[:1], self.K[:1], (WIDTH, HEIGHT)
        )


class ZeroVAE:
    """Stands for the VAE as in the recorded conditions: latents are zeros."""

    def encode(self, video: Tensor, *, group: int = 1) -> Tensor:
        """Zeros of the right shape; `group` changes nothing."""
        b, _, t, h, w = video.shape
        return video.new_zeros(b, 16, 1 + (t - 1) // 4, h // 8, w // 8)


class LoopStep:
    """The same step as the loop takes it: slots packed, tensors of the network made."""

    def __init__(self, step: Step) -> None:
        self.layout = FramePack.parse(RELEASED_LAYOUT)
        memory = LyraMemory()
        for i, (depth, w2c, k) in enumerate(step.cached):
            memory = memory.remember(-1 - i, depth, w2c, k, pixels=step.rgb.transpose(2, 0, 1))
        self.retrieved = memory.ids
        last = torch.from_numpy(step.rgb.transpose(2, 0, 1))[None]
        latents = torch.zeros(1, 16, self.layout.history, HEIGHT // 8, WIDTH // 8)
        self.past = Past(latents, lambda _: last, step.last[0], memory)
        w2c = np.concatenate([step.last[1][None], step.w2c])
        self.shot = Shot(w2c, np.tile(K, (len(w2c), 1, 1)), (WIDTH, HEIGHT))

    def run(self) -> Conditioning:
        """Everything that a chunk is told, but the VAE's latents."""
        return condition(self.layout, ZeroVAE(), self.past, self.shot, 0, retrieved=self.retrieved)


def naive_view(step: Step, channels: int) -> None:
    """One view as a plain reading of the spec in torch: nothing is shared with other views."""
    source = SourceFrame(*step.last)
    points = torch.from_numpy(source.points.reshape(-1, 3))
    valid = torch.from_numpy(source.reliable.reshape(-1))
    P = torch.from_numpy((K @ step.w2c[7][:3]).astype(np.float32))
    at = points @ P[:, :3].T + P[:, 3]
    z = at[:, 2]
    place = torch.stack([at[:, 0] / (z + 1e-7), at[:, 1] / (z + 1e-7)]) + 1
    limit = torch.tensor([[WIDTH + 1.0], [HEIGHT + 1.0]])
    u, v = place.clamp(min=0).minimum(limit)
    log = torch.log1p(z.clamp(min=0))
    weight = valid / (torch.exp((50 * log / (log.max() + 1e-7)).clamp(max=80)) + 1e-7)
    values = torch.ones(len(z), channels + 1)
    canvas = torch.zeros((HEIGHT + 2) * (WIDTH + 2), channels + 1)
    for column in (u.floor(), u.ceil()):
        for row in (v.floor(), v.ceil()):
            share = weight * (1 - (u - column).abs()) * (1 - (v - row).abs())
            cell = (row * (WIDTH + 2) + column).long()
            canvas.index_add_(0, cell, values * share[:, None])
    torch.where(canvas[:, -1:] > 0, canvas[:, :-1] / canvas[:, -1:], -1.0)


def naive_step(step: Step) -> tuple[float, str]:
    """Processor seconds of the naive step, extrapolated, and how."""
    torch.set_num_threads(numba.get_num_threads())
    parts = {}
    for channels in (3, 4):
        naive_view(step, channels)
        start = time.process_time()
        for _ in range(NAIVE_VIEWS):
            naive_view(step, channels)
        parts[channels] = (time.process_time() - start) / NAIVE_VIEWS
    total = SLOTS * FRAMES * parts[4] + FRAMES * parts[3]
    note = (
        f"naive: {NAIVE_VIEWS} views each with and without depth were made "
        f"({parts[4]:.3f} and {parts[3]:.3f} CPU-s a view) and multiplied to "
        f"{SLOTS * FRAMES} + {FRAMES}; rays, folding and norms are left out"
    )
    return total, note


def retrieval_rows(repeat: int) -> list[Row]:
    """Asking a memory of 100 frames for five."""
    rows = []
    ring = [pose(0.2 * np.sin(i / 9), 0, -0.03 * i, 6 * np.sin(i / 5)) for i in range(CACHED)]
    depths, target = [room(p) for p in ring], pose(0, 0, -3.1, 5)[None]
    for stride in (8, 4):
        store = retrieval.PointStore.of([
            unproject.strided_points(depth, K, p, stride=stride).reshape(-1, 3)
            for depth, p in zip(depths, ring, strict=True)
        ])  # fmt: skip

        def ask(store: retrieval.PointStore = store, stride: int = stride) -> None:
            retrieval.lyra_retrieve(
                store, 8 * np.arange(CACHED), target, K[None], (WIDTH, HEIGHT), count=SLOTS,
                stride=stride,
            )  # fmt: skip

        rows.append(Row(f"retrieval, {CACHED} frames, stride {stride}", *timed(ask, repeat)))
    return rows


class PeakMemory:
    """Largest resident set while the block runs [GB], sampled every few milliseconds."""

    def __enter__(self) -> PeakMemory:
        self.before = self.peak = resident()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self.peak = max(self.peak, resident())

    def _watch(self) -> None:
        while not self._stop.wait(0.01):
            self.peak = max(self.peak, resident())


def resident() -> float:
    """Resident set of this process [GB]."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e9


def measure(repeat: int, naive: bool) -> dict[str, object]:
    """All rows, memory and notes."""
    step = Step()
    step.run()
    with PeakMemory() as memory:
        step.run()
    whole = LoopStep(step)
    with PeakMemory() as loop_memory:
        whole.run()
    rows = [
        Row("warp 1 -> 1, RGB", *timed(step.warp_rgb, repeat)),
        Row("warp 1 -> 1, RGB + depth", *timed(lambda: step.warp(1), repeat)),
        Row("warp 1 -> 20, RGB + depth", *timed(lambda: step.warp(20), repeat)),
        *retrieval_rows(repeat),
        Row("the same in the loop", *timed(whole.run, repeat)),
        Row("conditioning of a chunk", *timed(step.run, repeat)),
    ]
    notes = []
    if naive:
        rows[-1].naive_cpu, note = naive_step(step)
        notes.append(note)
    return {
        "threads": numba.get_num_threads(),
        "memory_before_gb": round(memory.before, 3),
        "memory_peak_gb": round(memory.peak, 3),
        "loop_adds_gb": round(loop_memory.peak - loop_memory.before, 3),
        "rows": [asdict(row) | {"recorded": row.recorded} for row in rows],
        "notes": notes,
    }


def show(result: dict[str, object]) -> None:
    """Print the table."""
    print(f"{result['threads']} threads; times in seconds, best of the runs")
    print(f"{'what':<34}{'wall':>8}{'CPU':>8}{'ref wall':>10}{'ref CPU':>9}{'CPU ratio':>11}")
    for row in result["rows"]:
        wall, cpu = row["recorded"] or (float("nan"),) * 2
        print(
            f"{row['name']:<34}{row['wall']:8.3f}{row['cpu']:8.3f}{wall:10.3f}{cpu:9.3f}"
            f"{cpu / row['cpu']:10.1f}x"
        )
        if row["naive_cpu"]:
            print(f"  naive, same run: {row['naive_cpu']:.1f} CPU-s, "
                  f"{row['naive_cpu'] / row['cpu']:.1f}x")  # fmt: skip
    print(f"memory: {result['memory_before_gb']} GB before the step, "
          f"{result['memory_peak_gb']} GB at its peak (results of 1.4 GB included); "
          f"in the loop it adds {result['loop_adds_gb']} GB")  # fmt: skip
    for note in result["notes"]:
        print(note)


def main() -> None:
    """Measure and print; keep the numbers where --json says."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--repeat", type=int, default=5, help="runs after one to warm up")
    parser.add_argument("--no-naive", action="store_true", help="leave the naive version out")
    args = parser.parse_args()
    result = measure(args.repeat, not args.no_naive)
    show(result)
    if args.json:
        args.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
