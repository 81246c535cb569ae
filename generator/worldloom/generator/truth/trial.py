"""One truth scene -> worlds made of it by the real pipeline, and their scores.

Row A: every frame is exact, so that lifting, fusion and the collider are measured alone. Row B:
one photo with its exact depth, and engine `preview` along the same path.
"""

from __future__ import annotations

from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from worldloom.generator.checkpoint import load_checkpoint
from worldloom.generator.engines import load_engine
from worldloom.generator.layers.read import read_mesh_layer, read_world_splats
from worldloom.generator.pipeline import make_world
from worldloom.generator.publish import Emit
from worldloom.generator.splats.refine import refine_splats
from worldloom.generator.truth import measure
from worldloom.generator.truth.growth_measures import (
    lap_measures,
    level_measures,
    one_per_pixel,
    surface_measures,
)
from worldloom.generator.truth.opening import named_scene
from worldloom.generator.truth.photos import photo_view
from worldloom.generator.truth.surface import mesh
from worldloom.generator.truth.walk import walk_path, walkthrough
from worldloom.render.rasterise import rasterise
from worldloom.scene.cameras import Cameras
from worldloom.scene.errors import EngineFailed
from worldloom.scene.manifest import Manifest
from worldloom.scene.mesh import TriMesh
from worldloom.scene.request import InputRef, Intrinsics, ScaleHint, WorldRequest
from worldloom.scene.splats import Splats
from worldloom.scene.worldfolder import file_sha256, make_folder, open_world

ROWS = ("A", "B")
OFF_PATH_EVERY = 2  # Every second held-out view is also scored off the path.
REACH_ENGINE = "preview"
"""Engine whose `far_m` says how far a world must have a surface; all rows are asked the same."""


class Trial:
    """What all worlds of one scene share: cameras, and the true pictures at scored views."""

    def __init__(self, scene: str, *, frames: int | None, quality: str) -> None:
        self.scene, _ = named_scene(scene)
        self.frames = frames or self.scene.walk_frames
        self.quality = quality
        self.cameras = walkthrough(self.scene, self.frames)
        self.held_out = measure.held_out(self.cameras)
        self.keyframes = measure.keyframes_of(self.cameras)

    @cached_property
    def surface(self) -> TriMesh:
        """The true surface."""
        return mesh(self.scene)

    @cached_property
    def on_path(self) -> list[measure.TruthView]:
        """True pictures half-way between keyframes."""
        return measure.truth_views(self.scene, self.held_out)

    @cached_property
    def off_path(self) -> list[measure.TruthView]:
        """True pictures beside the path."""
        views = self.held_out.select(slice(None, None, OFF_PATH_EVERY))
        return measure.truth_views(self.scene, measure.off_path(self.scene, views))

    def make(
        self, row: str, folder: Path, *, noise: str = "exact", seed: int = 0, emit: Emit
    ) -> Path:
        """Make the world of a row under `folder`; returns the world's folder.

        Args:
            row: `A` or `B`.
            folder: Work folder; an earlier run in it is resumed.
            noise: `exact`, `noisy` or `drift`; row A only.
            seed: Seed of the request, and of the noise.
            emit: Receives the pipeline's messages.

        Raises:
            EngineFailed: The world could not be made.
        """
        make_folder(folder)
        request, inputs = self.request(row, folder, noise=noise, seed=seed)
        make_world(
            request, inputs=inputs, work=folder, resume=True, emit=emit, cancelled=lambda: False
        )
        return folder / "world"

    def request(
        self, row: str, folder: Path, *, noise: str = "exact", seed: int = 0
    ) -> tuple[WorldRequest, dict[str, Path]]:
        """The request of a row and its input files, which are written into `folder`."""
        path = walk_path(self.scene, self.frames)
        if row == "A":
            name = self.scene.name if noise == "exact" else f"{self.scene.name}-{noise}"
            return WorldRequest("truth", path, scene=name, seed=seed, quality=self.quality), {}
        from PIL import Image

        photo = photo_view(self.scene)
        inputs = {"photo": folder / "photo.png", "depth": folder / "depth.npy"}
        levels = (np.clip(photo.rgb, 0, 1) * 255 + 0.5).astype(np.uint8)
        Image.fromarray(levels).save(inputs["photo"])
        np.save(inputs["depth"], photo.depth)
        height, width = photo.depth.shape
        fx, fy, cx, cy = (float(photo.K[at]) for at in ((0, 0), (1, 1), (0, 2), (1, 2)))
        refs: dict[str, Any] = {
            role: InputRef(role, file_sha256(file), file.stat().st_size, file.suffix[1:])
            for role, file in inputs.items()
        }
        request = WorldRequest(
            "preview", path, seed=seed, quality=self.quality, **refs,
            intrinsics=Intrinsics(fx, fy, cx, cy, width, height),
            scale=ScaleHint(camera_height_m=photo.camera_height),
        )  # fmt: skip
        return request, inputs

    def score(self, row: str, world: Path, *, refine_steps: int = 0) -> dict[str, float]:
        """Depth, pictures and collider of the world of a row, against the truth.

        Args:
            row: `A` or `B`.
            world: The world's folder, inside the work folder of its job.
            refine_steps: Steps of photometric refinement to measure as well (row A).
        """
        # Row B is asked only for what its one photo saw; the rest of that world is made up.
        witnesses = self.keyframes if row == "A" else self.keyframes.select(slice(0, 1))
        manifest = open_world(world)
        tiles = [read_mesh_layer(world / entry.path) for entry in manifest.live("collision")]
        reach = load_engine(REACH_ENGINE).qualities[self.quality].far_m
        return {
            **asdict(self._depth(world, witnesses)),
            **asdict(self._pictures(world, manifest, witnesses)),
            **asdict(
                measure.score_collider(
                    self.scene, self.surface, TriMesh.concat(tiles), witnesses, reach_m=reach
                )
            ),
            **(self._growth(world, manifest, tiles, refine_steps) if row == "A" else {}),
        }

    def _growth(
        self, world: Path, manifest: Manifest, tiles: list[TriMesh], refine_steps: int
    ) -> dict[str, float]:
        """What only the job's last checkpoint can tell."""
        growth = load_checkpoint(world.parent)
        if growth is None:
            raise EngineFailed(f"{world.parent} has no checkpoint; make the world again")
        splats = read_world_splats(world, manifest)
        plain = one_per_pixel(growth.keyframes)
        seen = self._score_splats(splats, self.keyframes).seen_db
        out = {
            **surface_measures(growth, tiles),
            **level_measures(growth, self.scene.camera_height),
            **lap_measures(growth, self.cameras),
            "splat_share": splats.n / max(plain.n, 1),
            "merge_loss_db": self._score_splats(plain, self.keyframes).seen_db - seen,
        }
        if refine_steps:
            fitted = refine_splats(splats, growth.keyframes, steps=refine_steps, seed=0)
            out["refined_db"] = self._score_splats(fitted, self.keyframes).seen_db
        return out

    def _pictures(
        self, world: Path, manifest: Manifest, witnesses: Cameras
    ) -> measure.PictureScore:
        splats = read_world_splats(world, manifest)
        return measure.score_pictures(
            self.scene, drawing(splats), self.on_path, self.off_path, witnesses
        )

    def _score_splats(self, splats: Splats, witnesses: Cameras) -> measure.PictureScore:
        """Splats at the held-out views on the path."""
        return measure.score_pictures(self.scene, drawing(splats), self.on_path, [], witnesses)

    def _depth(self, world: Path, witnesses: Cameras) -> measure.DepthScore:
        with np.load(world / "depth" / "keyframes.npz", allow_pickle=False) as data:
            depth, K = data["depth"][: witnesses.n], data["K"][: witnesses.n]
        return measure.score_depth(self.scene, depth, K, witnesses)


def drawing(splats: Splats) -> measure.Draw:
    """A function that renders these splats."""

    def draw(c2w: Any, K: Any, size: tuple[int, int]) -> Any:
        return rasterise(splats, c2w, K, size).rgb

    return draw
