"""A request for engine `truth` -> its seed and its model.

The scene's name may end in a noise preset: `room`, `room-noisy`, `street-drift`; the request's
seed then draws the noise.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from worldloom.generator.engines import QualityLevel
from worldloom.generator.seams import Opening
from worldloom.generator.seed import SCALE_SCHEMA, Seed
from worldloom.generator.truth.cast import face_normals
from worldloom.generator.truth.model import TruthModel
from worldloom.generator.truth.noise import PRESETS, Preset
from worldloom.generator.truth.render import render_view
from worldloom.generator.truth.scene import TruthScene, scene
from worldloom.generator.truth.walk import photo_camera, walk_path
from worldloom.scene.cameras import unproject
from worldloom.scene.errors import InvalidRequest
from worldloom.scene.limits import Limits
from worldloom.scene.path import CameraPath
from worldloom.scene.request import WorldRequest

ASPECT = (26, 15)
"""Width to height of the frames: 416x240, 832x480, 1248x720, as Lyra's videos."""
FLOOR_M = 1e-3  # Heights within this of zero belong to the floor plane.


def open_truth(
    request: WorldRequest, inputs: Mapping[str, Path], level: QualityLevel, limits: Limits
) -> Opening:
    """Load the scene that the request names.

    Raises:
        InvalidRequest: There is no such scene or noise preset.
    """
    if request.scene is None:
        raise InvalidRequest("engine 'truth' needs a scene name and the request has none")
    place, noise = named_scene(request.scene)
    size = (level.long_side, level.long_side * ASPECT[1] // ASPECT[0])
    model = TruthModel(place, size, noise=noise, seed=request.seed)
    return Opening(truth_seed(place, size), model)


def named_scene(name: str) -> tuple[TruthScene, Preset]:
    """The scene and noise preset that a name such as `room-noisy` stands for.

    Raises:
        InvalidRequest: One of them does not exist.
    """
    base, _, suffix = name.partition("-")
    if (suffix or "exact") not in PRESETS:
        raise InvalidRequest(
            f"unknown noise preset {suffix!r} in scene {name!r}; use {base}-noisy or {base}-drift",
            field="scene",
        )
    return scene(base), suffix or "exact"


def walkthrough_path(name: str, frames: int | None = None) -> CameraPath:
    """The path that sees the whole of a named scene, in as many frames as its file says.

    Raises:
        InvalidRequest: There is no such scene.
    """
    return walk_path(named_scene(name)[0], frames)


def truth_seed(place: TruthScene, size: tuple[int, int]) -> Seed:
    """The scene's photo as a seed: exact depth, true scale."""
    camera = photo_camera(place, size)
    c2w, K = camera.c2w[0], camera.K[0]
    view = render_view(place, c2w, K, size)
    points = unproject(view.depth, K, c2w)
    up = face_normals(place, view.surface_id.ravel(), points.reshape(-1, 3))[:, 2]
    level = up.reshape(view.depth.shape) > 0.99
    scale = {
        "schema": SCALE_SCHEMA,
        "value": 1.0,
        "sigma": 0.0,
        "sources": [{"name": "truth", "value": 1.0, "sigma": 0.0}],
        "status": "calibrated",
        "up_in_photo_camera": c2w[2, :3].tolist(),
        "level_rms_deg": 0.0,
    }
    return Seed(
        rgb=view.rgb,
        depth=view.depth,
        floor=level & (np.abs(points[..., 2]) < FLOOR_M),
        sky=view.surface_id < 0,
        K=K,
        c2w=c2w,
        scale=scale,
        depth_source="truth",
    )
