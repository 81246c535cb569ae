"""One truth scene: its worlds are made by the real pipeline and measured on the truth."""

from __future__ import annotations

import time
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from worldloom.cli import console
from worldloom.cli.bench_drive import score_driving
from worldloom.cli.requests import input_ref
from worldloom.generator.engines import load_engine
from worldloom.generator.layers.read import read_splat_layer
from worldloom.generator.pipeline import make_world
from worldloom.generator.truth import measure
from worldloom.generator.truth.opening import named_scene
from worldloom.generator.truth.photos import photo_view
from worldloom.generator.truth.surface import mesh
from worldloom.generator.truth.walk import walk_path, walkthrough
from worldloom.render.rasterise import rasterise
from worldloom.scene.request import Intrinsics, ScaleHint, WorldRequest
from worldloom.scene.splats import Splats
from worldloom.scene.worldfolder import make_folder
from worldloom.tasks.world import NavWorld, open_navworld

OFF_PATH_EVERY = 2  # Every second held-out view is also scored off the path.
REACH_ENGINE = "preview"
"""Engine whose `far_m` says how far a world must have a surface; all rows are asked the same."""


class Bench:
    """What all rows of one scene share: its cameras, and the true pictures at scored views."""

    def __init__(self, scene: str, frames: int, quality: str, pairs: int) -> None:
        self.scene, _ = named_scene(scene)
        self.quality, self.pairs, self.frames = quality, pairs, frames
        self.cameras = walkthrough(self.scene, frames)
        self.keyframes = measure.keyframes_of(self.cameras)

    @cached_property
    def on_path(self) -> list[measure.TruthView]:
        """True pictures half-way between keyframes."""
        return measure.truth_views(self.scene, measure.held_out(self.cameras))

    @cached_property
    def off_path(self) -> list[measure.TruthView]:
        """True pictures beside the path."""
        views = measure.held_out(self.cameras).select(slice(None, None, OFF_PATH_EVERY))
        return measure.truth_views(self.scene, measure.off_path(self.scene, views))

    def measure(self, row: str, folder: Path, *, noise: str, seed: int) -> dict[str, float]:
        """Make the world of a row under `folder` and score everything about it.

        Raises:
            EngineFailed: The world could not be made.
        """
        start = time.monotonic()
        self._make(row, make_folder(folder), noise, seed)
        world = open_navworld(folder / "world")
        made = time.monotonic() - start
        # Row B is asked only for what its one photo saw; the rest of that world is made up.
        witnesses = self.keyframes if row == "A" else self.keyframes.select(slice(0, 1))
        reach = load_engine(REACH_ENGINE).qualities[self.quality].far_m
        scores = {
            **asdict(self._depth(world, len(witnesses.frame_id))),
            **asdict(self._pictures(world, witnesses)),
            **asdict(measure.score_collider(self.scene, world.collider, witnesses, reach_m=reach)),
            **score_driving(world, mesh(self.scene), self.scene.name, pairs=self.pairs),
        }
        scores["depth_abs_rel"] = scores.pop("abs_rel")
        total = time.monotonic() - start
        return {**scores, "generation_seconds": round(made, 1), "seconds": round(total, 1)}

    def _make(self, row: str, folder: Path, noise: str, seed: int) -> None:
        request, inputs = self._request(row, folder, noise, seed)
        with console.meter() as meter:
            make_world(
                request, inputs=inputs, work=folder, resume=True, cancelled=lambda: False,
                emit=lambda event: meter.update(event) if hasattr(event, "stage") else None,
            )  # fmt: skip

    def _request(
        self, row: str, folder: Path, noise: str, seed: int
    ) -> tuple[WorldRequest, dict[str, Path]]:
        path = walk_path(self.scene, self.frames)
        if row == "A":
            name = self.scene.name if noise == "exact" else f"{self.scene.name}-{noise}"
            request = WorldRequest("truth", path, scene=name, seed=seed, quality=self.quality)
            return request, {}
        from PIL import Image

        photo = photo_view(self.scene)
        inputs = {"photo": folder / "photo.png", "depth": folder / "depth.npy"}
        levels = (np.clip(photo.rgb, 0, 1) * 255 + 0.5).astype(np.uint8)
        Image.fromarray(levels).save(inputs["photo"])
        np.save(inputs["depth"], photo.depth)
        height, width = photo.depth.shape
        fx, fy, cx, cy = (float(photo.K[at]) for at in ((0, 0), (1, 1), (0, 2), (1, 2)))
        refs: dict[str, Any] = {role: input_ref(role, file) for role, file in inputs.items()}
        request = WorldRequest(
            "preview", path, seed=seed, quality=self.quality, **refs,
            intrinsics=Intrinsics(fx, fy, cx, cy, width, height),
            scale=ScaleHint(camera_height_m=photo.camera_height),
        )  # fmt: skip
        return request, inputs

    def _pictures(self, world: NavWorld, witnesses: Any) -> measure.PictureScore:
        files = [world.folder / entry.path for entry in world.manifest.live("splats")]
        splats = Splats.concat([read_splat_layer(file) for file in files])

        def draw(c2w: Any, K: Any, size: tuple[int, int]) -> Any:
            return rasterise(splats, c2w, K, size).rgb

        return measure.score_pictures(self.scene, draw, self.on_path, self.off_path, witnesses)

    def _depth(self, world: NavWorld, count: int) -> measure.DepthScore:
        frames = world.keyframes
        cameras = self.keyframes.select(slice(0, count))
        return measure.score_depth(self.scene, frames.depth[:count], frames.K[:count], cameras)
