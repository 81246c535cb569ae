"""Gravity, scale and loop closure on the truth scenes -> benchmarks/results/poses.json.

Gravity and scale: every walk is moved to a world that is neither level nor in metres; the height
of the first camera is told, as a user would. Loop closure: one lap of scene `loop`, preset `drift`;
the last keyframe stands where the first one does. Three ways beside each other: windows chained by
the frames that they share (what is left are the cameras as they drifted), keyframes aligned with
their neighbours in time alone, and the alignment that worlds are made with.
Run: python benchmarks/bench_poses.py [scene ...] [--laps-only]
"""

import json
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from worldloom.generator.align.align import align_frames
from worldloom.generator.align.belief import Belief
from worldloom.generator.memory.cache import FrameCache
from worldloom.generator.poses.gravity import estimate_up
from worldloom.generator.poses.scale import camera_height_evidence
from worldloom.generator.poses.similarity import Similarity
from worldloom.generator.truth.measure import keyframes_of
from worldloom.generator.truth.model import TruthModel
from worldloom.generator.truth.noise import SEEDS, frame_noise
from worldloom.generator.truth.render import depth_view
from worldloom.generator.truth.scene import TruthScene, scene, scene_names
from worldloom.generator.truth.walk import VIEW_SIZE, walkthrough
from worldloom.generator.video.frame import Frame

RESULTS = Path(__file__).parent / "results" / "poses.json"
MOVED = Similarity.exp([3.0, 2.0, 1.0, 0.7, -0.4, 1.1, np.log(2.7)])


def walk_frames(place: TruthScene) -> list[Frame]:
    """The exact keyframes of a scene's walk."""
    cameras = keyframes_of(walkthrough(place, size=VIEW_SIZE))
    frames = []
    for i in range(cameras.n):
        depth = depth_view(place, cameras.c2w[i], cameras.K[i], VIEW_SIZE)
        rgb, origin = np.zeros((*depth.shape, 3), np.float32), (depth > 0).astype(np.uint8)
        number = int(cameras.frame_id[i])
        frames.append(Frame(number, rgb, depth, origin, cameras.c2w[i], cameras.K[i]))
    return frames


def disturbed(frames: list[Frame], seed: int) -> list[Frame]:
    """The frames with the errors of preset `noisy`; the first camera is exact."""
    out = []
    for f in frames:
        error = frame_noise("noisy", seed, f.frame_id, VIEW_SIZE)
        c2w = f.c2w if f.frame_id == 0 else error.pose(f.c2w)
        out.append(replace(f, depth=error.depth(f.depth), c2w=c2w))
    return out


def errors(frames: list[Frame], height: float) -> dict[str, float]:
    """Angle of up [degrees], relative error of the scale [percent], and CPU seconds."""
    frames = [
        replace(f, c2w=MOVED.apply_cameras(f.c2w), depth=MOVED.apply_depth(f.depth)) for f in frames
    ]
    start = time.process_time()
    up = estimate_up(frames)
    spent = time.process_time() - start
    angle = np.degrees(np.arccos(np.clip(MOVED.R[:, 2] @ up.direction, -1, 1)))
    told = camera_height_evidence(up, frames[0].c2w[:3, 3], height)
    off = float("inf") if told is None else 100 * abs(told.value * MOVED.scale - 1)
    return {
        "up_deg": round(float(angle), 3),
        "up_sigma_deg": round(up.sigma_deg, 3),
        "scale_percent": round(off, 2),
        "cpu_s": round(spent, 2),
    }


def lap(seed: int) -> dict[str, dict[str, float]]:
    """Errors of height [cm] and heading [degrees] after one lap of `loop`, by way of chaining."""
    place = scene("loop")
    cameras = walkthrough(place, size=VIEW_SIZE)
    model = TruthModel(place, VIEW_SIZE, noise="drift", seed=seed)
    frames = [model.first(), *model.chunk(cameras.select(slice(1, cameras.n)), FrameCache())]
    true = cameras.c2w[frames[-1].frame_id]
    start = time.process_time()
    aligned = align_frames(frames)
    spent = time.process_time() - start
    neighbours = align_frames(frames, reach=2, belief=Belief(turn_deg=20.0, centre=0.3))
    out = {
        "chained_by_shared_frames": _end(frames[-1].c2w, true),
        "chained_by_neighbours": _end(neighbours.frames[-1].c2w, true),
        "aligned": {**_end(aligned.frames[-1].c2w, true), "cpu_s": round(spent, 1)},
    }
    print(f"loop, drift {seed}: {out}", flush=True)
    return out


def _end(c2w: np.ndarray, true: np.ndarray) -> dict[str, float]:
    turn = np.degrees(np.arctan2(c2w[1, 2], c2w[0, 2]) - np.arctan2(true[1, 2], true[0, 2]))
    return {
        "height_cm": round(100 * abs(float(c2w[2, 3] - true[2, 3])), 3),
        "heading_deg": round(abs(float((turn + 180) % 360 - 180)), 4),
    }


def laps() -> dict[str, dict]:
    """The lap with all seeds, and the medians."""
    runs = [lap(seed) for seed in SEEDS]
    median = {
        way: {
            key: round(float(np.median([run[way][key] for run in runs])), 4)
            for key in ("height_cm", "heading_deg")
        }
        for way in runs[0]
    }
    print(f"loop, drift, medians: {median}", flush=True)
    return {"runs": runs, "median": median, "bounds": {"height_cm": 5.0, "heading_deg": 1.0}}


def levels(names: list[str]) -> dict[str, dict]:
    """Gravity and scale of scenes, exact and noisy."""
    table = {}
    for name in names:
        place = scene(name)
        frames = walk_frames(place)
        exact = errors(frames, place.camera_height)
        noisy = [errors(disturbed(frames, seed), place.camera_height) for seed in SEEDS]
        median = {key: round(float(np.median([n[key] for n in noisy])), 3) for key in noisy[0]}
        table[name] = {"exact": exact, "noisy_median": median, "noisy": noisy}
        print(f"{name}: exact {exact}; noisy {median}", flush=True)
    return table


def main() -> None:
    """Measure the scenes named, or all, and the lap; write the table."""
    names = [name for name in sys.argv[1:] if not name.startswith("-")] or scene_names()
    record = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    record |= {
        "schema": "worldloom.bench-poses/1",
        "bounds_deg_percent": {"exact": [0.2, 1.0], "noisy": [0.5, 3.0]},
        "lap": laps(),
    }
    if "--laps-only" not in sys.argv:
        record["scenes"] = record.get("scenes", {}) | levels(names)
    RESULTS.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
