"""A world folder of 17 small frames of a truth scene, made without the pipeline in a second."""

import hashlib
import json

import numpy as np

from worldloom.generator.layers.collider_layer import write_collider_layer
from worldloom.generator.layers.splat_layer import write_splat_layer
from worldloom.generator.records import keyframes_npz
from worldloom.generator.truth.opening import named_scene
from worldloom.generator.truth.render import render_view
from worldloom.generator.truth.surface import mesh
from worldloom.generator.truth.walk import walkthrough
from worldloom.generator.video.frame import Frame
from worldloom.generator.videofile import VideoWriter
from worldloom.scene.cameras import unproject
from worldloom.scene.frame import rigid, rotation_about
from worldloom.scene.manifest import FileEntry, Manifest
from worldloom.scene.splats import Splats

SIZE, FRAMES, STRIDE = (104, 60), 17, 8


def make_small_world(folder, *, name="corridor", turn_deg=0.0, black=False, video=True):
    """Write a world; its keyframes but the first are turned by `turn_deg` about the vertical."""
    place, _ = named_scene(name)
    cameras = walkthrough(place, 161, size=SIZE).select(slice(0, FRAMES))
    views = [
        render_view(place, cameras.c2w[i], cameras.K[i], SIZE, supersample=1) for i in range(FRAMES)
    ]
    for part in ("splats", "collision", "video", "depth"):
        (folder / part).mkdir(parents=True)
    entries = []
    if video:
        writer = VideoWriter(folder / "video" / "a.mp4", *SIZE)
        for view in views[1:]:
            writer.add(view.rgb * (not black))
        writer.close()
        entries.append(_entry(folder, "video/a.mp4", "video", FRAMES - 1))
    keyframes = [_keyframe(cameras, views[i], i, turn_deg) for i in range(0, FRAMES, STRIDE)]
    (folder / "depth" / "keyframes.npz").write_bytes(keyframes_npz(keyframes))
    splats = Splats.concat([_lifted(frame) for frame in keyframes])
    write_splat_layer(splats, folder / "splats" / "a.usdc")
    write_collider_layer(mesh(place), folder / "collision" / "a.usdc")
    entries += [
        _entry(folder, "splats/a.usdc", "splats", splats.n),
        _entry(folder, "collision/a.usdc", "collision", 1),
    ]
    (folder / "cameras.npz").write_bytes(cameras.to_npz())
    run = {"seconds": 8.0, "peak_memory_mb": 100.0, "frames": FRAMES, "machine": {"cpus": 2}}
    (folder / "run.json").write_text(json.dumps(run))
    manifest = Manifest(
        "ab" * 32, {"scene": name, "quality": "draft"}, {"preset": "truth", "weights": []}, {},
        1 if video else 0, FRAMES, tuple(entries),
    )  # fmt: skip
    (folder / "manifest.json").write_bytes(manifest.to_bytes())
    return folder


def _keyframe(cameras, view, i, turn_deg):
    c2w = cameras.c2w[i]
    if i:
        turn = rotation_about([0, 0, 1], np.radians(turn_deg))
        c2w = rigid(turn @ c2w[:3, :3], c2w[:3, 3])
    origin = (view.depth > 0).astype(np.uint8)
    return Frame(i, view.rgb, view.depth, origin, c2w, cameras.K[i])


def _lifted(frame):
    seen = frame.depth > 0
    points = unproject(frame.depth, frame.K, frame.c2w)[seen]
    scales = np.repeat((0.6 * frame.depth[seen] / frame.K[0, 0])[:, None], 3, 1)
    quats_wxyz = np.tile([1.0, 0, 0, 0], (len(points), 1))
    return Splats.from_rgb(points, scales, quats_wxyz, np.full(len(points), 0.9), frame.rgb[seen])


def _entry(folder, path, kind, count):
    data = (folder / path).read_bytes()
    return FileEntry(path, hashlib.sha256(data).hexdigest(), len(data), kind, 1, 0, count)
