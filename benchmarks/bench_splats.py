"""Splats of truth scenes: how many, how good at held-out views, how long, how much memory.

Per scene the keyframes of the walk become splats chunk by chunk, as in the pipeline. Compared at
416 x 240 at views between keyframes, where a keyframe saw the point: one splat per pixel of every
keyframe; without merging; merged; merged and refined. Beside them voxel merging of all pixels
(spec reconstruction 8.6), views off the path, and one photo alone at the views that see what it
saw. `--noise` puts the depth and exposure errors of preset `noisy` on the frames, cameras true.
Seconds are CPU seconds of the process; each scene runs in its own process.
Run: .venv/bin/python benchmarks/bench_splats.py [--scenes room,street] [--frames 161] [--steps 84]
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import resource
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from worldloom.generator.memory.cache import FrameCache
from worldloom.generator.splats.build import SplatOptions, chunk_splats
from worldloom.generator.splats.covered import Covered
from worldloom.generator.splats.exposure import apply_exposure, solve_exposure
from worldloom.generator.splats.lift import lift, lift_frames
from worldloom.generator.splats.merge import Marks, merge_groups, voxel_groups
from worldloom.generator.splats.refine import refine_splats
from worldloom.generator.truth import measure
from worldloom.generator.truth.model import TruthModel
from worldloom.generator.truth.noise import frame_noise
from worldloom.generator.truth.opening import named_scene
from worldloom.generator.truth.walk import VIEW_SIZE, walkthrough
from worldloom.generator.video.frame import Frame
from worldloom.render.rasterise import rasterise
from worldloom.scene.splats import Splats

RESULTS = Path(__file__).parent / "results"
CHUNK_KEYFRAMES = 10  # 80 frames, every 8th a keyframe.
EVERY = 4  # Every fourth held-out view is scored, to keep the run short.
SCENES = "room,street,corridor,two_rooms"


@dataclass(frozen=True)
class Scored:
    """Held-out views and the pixels of each that count."""

    views: list[measure.TruthView]
    seen: list[NDArray[np.bool_]]

    def psnr(self, splats: Splats) -> float:
        """Mean PSNR over the views that show enough seen points [dB]."""
        found = []
        for view, seen in zip(self.views, self.seen, strict=True):
            if seen.mean() >= measure.SEEN_SHARE_MIN:
                picture = np.clip(draw(splats, view), 0, 1)
                error = (picture - view.truth.rgb)[seen].astype(np.float64)
                found.append(-10 * np.log10(np.mean(error**2)))
        return round(float(np.mean(found)), 2) if found else float("nan")


def draw(splats: Splats, view: measure.TruthView) -> NDArray[np.float32]:
    """The picture of the splats at a view."""
    return rasterise(splats, view.c2w, view.K, view.size, backend="numba").rgb


def truth_frames(scene: object, cameras: object, noise_seed: int | None) -> list[Frame]:
    """Keyframes of a walk, with errors of depth and exposure if a seed is given."""
    model = TruthModel(scene, VIEW_SIZE)
    frames = [model.first(), *model.chunk(cameras.select(slice(1, None)), FrameCache())]
    if noise_seed is None:
        return frames
    out = []
    for frame in frames:
        error = frame_noise("noisy", noise_seed, frame.frame_id, VIEW_SIZE)
        out.append(replace(frame, rgb=error.rgb(frame.rgb), depth=error.depth(frame.depth)))
    return out


def by_chunks(frames: list[Frame], options: SplatOptions) -> Splats:
    """Splats as the pipeline makes them: the photo, then ten keyframes a chunk."""
    covered, parts = Covered(), []
    ends = [0, *range(1, len(frames), CHUNK_KEYFRAMES), len(frames)]
    for first, end in itertools.pairwise(ends):
        parts.append(
            chunk_splats(
                frames[first:end], covered=covered, context=frames[:first], options=options
            )
        )
    return Splats.concat(parts)


def by_voxels(frames: list[Frame]) -> tuple[Splats, Splats]:
    """One splat per pixel of every frame, and those merged by voxels of 1.5 footprints."""
    parts, fine = [], []
    for frame in frames:
        covered = Covered()
        parts.append(
            lift(frame.rgb, frame.depth, frame.origin, frame.c2w, frame.K, covered=covered)
        )
        fine.append(covered.fineness)
    raw, fineness = Splats.concat(parts), np.concatenate(fine)
    marks = Marks(raw.opacities / fineness**2, fineness)
    return raw, merge_groups(raw, marks, voxel_groups(raw, marks))[0]


def measure_scene(name: str, frames_count: int, steps: int, noise_seed: int | None) -> dict:
    """All numbers of one scene; writes the picture of one view."""
    scene, _ = named_scene(name)
    cameras = walkthrough(scene, frames_count)
    keyframes = measure.keyframes_of(cameras)
    held = measure.held_out(cameras).select(slice(None, None, EVERY))
    views = measure.truth_views(scene, held)
    on = Scored(views, [measure.seen_pixels(scene, v, keyframes) for v in views])
    beside = measure.truth_views(scene, measure.off_path(scene, held))
    off = Scored(beside, [measure.seen_pixels(scene, v, keyframes) for v in beside])
    photo = keyframes.select(slice(0, 1))
    alone = Scored(views, [measure.seen_pixels(scene, v, photo) for v in views])
    frames = truth_frames(scene, cameras, noise_seed)
    pixels = sum(int((frame.depth > 0).sum()) for frame in frames)
    start = time.process_time()
    if noise_seed is not None:
        gains = solve_exposure(frames)
        frames = [apply_exposure(f, g) for f, g in zip(frames, gains, strict=True)]
    exposure_s = time.process_time() - start
    start = time.process_time()
    merged = by_chunks(frames, SplatOptions())
    build_s = time.process_time() - start
    start, wall = time.process_time(), time.monotonic()
    refined = refine_splats(merged, frames, steps=steps, seed=0)
    refine_s, wall_s = time.process_time() - start, time.monotonic() - wall
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    raw, voxels = by_voxels(frames)
    single = by_chunks(frames, SplatOptions(merge=False))
    at_once = lift_frames(frames, covered=Covered())
    one = chunk_splats(frames[:1], covered=Covered())
    tag = name if noise_seed is None else f"{name}-noise{noise_seed}"
    save_picture(tag, on, merged, refined)
    return {
        "pixels": pixels,
        "one_per_pixel": raw.n,
        "share_covered": round(single.n / pixels, 3),
        "share_merged": round(merged.n / pixels, 3),
        "share_voxels": round(voxels.n / pixels, 3),
        "one_per_pixel_db": on.psnr(raw),
        "voxels_db": on.psnr(voxels),
        "covered_all_frames_at_once_db": on.psnr(at_once),
        "covered_db": on.psnr(single),
        "merged_db": on.psnr(merged),
        "refined_db": on.psnr(refined),
        "merged_off_path_db": off.psnr(merged),
        "refined_off_path_db": off.psnr(refined),
        "one_photo_db": alone.psnr(one),
        "exposure_cpu_s": round(exposure_s, 1),
        "build_cpu_s": round(build_s, 1),
        "refine_cpu_s": round(refine_s, 1),
        "refine_wall_s": round(wall_s, 1),
        "refine_steps": steps,
        "keyframes": len(frames),
        "peak_memory_mb": round(peak),
    }


def save_picture(name: str, scored: Scored, before: Splats, after: Splats) -> None:
    """Truth | merged | refined of the middle view as results/splats-<name>.png."""
    view = scored.views[len(scored.views) // 2]
    row = [view.truth.rgb, draw(before, view), draw(after, view)]
    levels = (np.clip(np.concatenate(row, 1), 0, 1) * 255 + 0.5).astype(np.uint8)
    Image.fromarray(levels).save(RESULTS / f"splats-{name}.png")


def main() -> None:
    """Measure, print and write results/splats.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenes", default=SCENES)
    parser.add_argument("--frames", type=int, default=161)
    parser.add_argument("--steps", type=int, default=84)
    parser.add_argument("--noise", type=int, default=None, metavar="SEED")
    parser.add_argument("--out", type=Path, default=RESULTS / "splats.json")
    args = parser.parse_args()
    RESULTS.mkdir(exist_ok=True)
    results = json.loads(args.out.read_text()) if args.out.exists() else {}
    context = multiprocessing.get_context("spawn")
    for name in args.scenes.split(","):
        with context.Pool(1) as pool:
            found = pool.apply(measure_scene, (name, args.frames, args.steps, args.noise))
        results[name if args.noise is None else f"{name}-noise{args.noise}"] = found
        print(name, json.dumps(found, indent=2), flush=True)
        args.out.write_text(json.dumps(results, indent=2, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
