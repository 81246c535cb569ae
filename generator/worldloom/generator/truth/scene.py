"""Scene files -> TruthScene: solids, materials, light, sky, and the cameras' way through.

The files in `scenes/` are data, frozen by the hashes in `scenes/frozen.json`: numbers measured on
them stay comparable for as long as the files stay the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from worldloom.generator.truth.solids import FACE_SLOTS, FACES, Solid, SolidArrays, build, pack
from worldloom.scene.errors import EngineFailed, InvalidRequest

TRUTH_SCHEMA = "worldloom.truth/1"
WALK_FRAMES = 161  # A walk that its file gives no length: two chunks of 80 frames after the photo.


class MaterialArrays(NamedTuple):
    """The materials as arrays for compiled loops; see `texture` for what they mean."""

    color: NDArray[np.float64]
    """sRGB 0..1 of the face of a cell, shape [m 3]."""
    second: NDArray[np.float64]
    """sRGB 0..1 of seams and of every other check, shape [m 3]."""
    cell: NDArray[np.float64]
    """Width and height of a cell of the pattern [m], shape [m 2]."""
    seam: NDArray[np.float64]
    """Width of the seams between columns and between rows [m], shape [m 2]."""
    mix: NDArray[np.float64]
    """Row shift (in cells), strength of checks, tint per cell, noise, shape [m 4]."""
    stretch: NDArray[np.float64]
    """How much longer than wide the noise is, along u, shape [m]."""


class Light(NamedTuple):
    """What brightens the surfaces; it does not depend on the view."""

    ambient: float
    """Brightness of a surface that the lamp does not reach."""
    lamp: NDArray[np.float64]
    """Position of the lamp [m], or direction towards the sun, shape [3]."""
    reach: float
    """Distance at which a lamp has half its strength [m]; 0 means the sun."""


@dataclass(frozen=True)
class TruthScene:
    """One analytic place. Its first camera looks along +X from above the origin."""

    name: str
    title: str
    solids: tuple[Solid, ...]
    arrays: SolidArrays
    materials: MaterialArrays
    light: Light
    sky: NDArray[np.float64] | None
    """sRGB at the zenith and at the horizon, shape [2 3]; None in a closed place."""
    bounds: NDArray[np.float64]
    """Lower and upper corner of the box that the mesh is cut to [m], shape [2 3]."""
    camera_height: float
    """Height of the first camera above the floor [m]."""
    camera_pitch_deg: float
    """Pitch of the first camera; negative looks down."""
    fov_deg: float
    """Horizontal field of view of all cameras."""
    walk: NDArray[np.float64]
    """Way points x, y, z [m], yaw, pitch [degrees], shape [k 5]."""
    walk_frames: int = WALK_FRAMES
    """Frames that the walk takes: 1 + 80 n."""

    def surface_name(self, surface: int) -> str:
        """What a surface number stands for; negative numbers are the sky."""
        if surface < 0:
            return "sky"
        return f"{self.solids[surface // FACE_SLOTS].name}/{FACES[surface % FACE_SLOTS]}"


def scene_names() -> list[str]:
    """Names of all scenes, in alphabetical order."""
    folder = resources.files("worldloom.generator.truth") / "scenes"
    return sorted(f.name[: -len(".yaml")] for f in folder.iterdir() if f.name.endswith(".yaml"))


@cache
def scene(name: str) -> TruthScene:
    """The scene called `name`.

    Raises:
        InvalidRequest: There is none; the text lists those that exist.
        EngineFailed: The scene's file is malformed.
    """
    if name not in scene_names():
        raise InvalidRequest(
            f"unknown truth scene {name!r}; there are {', '.join(scene_names())}", field="scene"
        )
    folder = resources.files("worldloom.generator.truth") / "scenes"
    return read_scene(name, (folder / f"{name}.yaml").read_text("utf-8"))


def read_scene(name: str, text: str) -> TruthScene:
    """Read the text of a scene file.

    Raises:
        EngineFailed: The text is no scene.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        data: Any = OmegaConf.to_container(OmegaConf.create(text))
        if data["schema"] != TRUTH_SCHEMA:
            raise EngineFailed(f"scene {name} has schema {data['schema']!r}, not {TRUTH_SCHEMA!r}")
        return _scene(name, data)
    except (KeyError, TypeError, ValueError, OmegaConfBaseException) as error:
        raise EngineFailed(f"scene {name} is malformed: {type(error).__name__} {error}") from error


def _scene(name: str, data: dict[str, Any]) -> TruthScene:
    solids = tuple(solid for item in data["solids"] for solid in build(item))
    names = list(data["materials"])
    sky = data.get("sky")
    return TruthScene(
        name=name,
        title=str(data["title"]),
        solids=solids,
        arrays=pack(solids, names),
        materials=_materials(list(data["materials"].values())),
        light=_light(data["light"]),
        sky=None if sky is None else np.array([sky["zenith"], sky["horizon"]], float),
        bounds=np.array(data["bounds"], float),
        camera_height=float(data["camera"]["height"]),
        camera_pitch_deg=float(data["camera"]["pitch_deg"]),
        fov_deg=float(data["camera"]["fov_deg"]),
        walk=np.array(data["walk"], float),
        walk_frames=int(data.get("frames", WALK_FRAMES)),
    )


def _materials(items: list[dict[str, Any]]) -> MaterialArrays:
    keys = ("shift", "checks", "tint", "noise")
    return MaterialArrays(
        np.array([item["color"] for item in items], float),
        np.array([item.get("second", item["color"]) for item in items], float),
        np.array([item.get("cell", [1.0, 1.0]) for item in items], float),
        np.array([item.get("seam", [0.0, 0.0]) for item in items], float),
        np.array([[item.get(key, 0.0) for key in keys] for item in items], float),
        np.array([item.get("stretch", 1.0) for item in items], float),
    )


def _light(data: dict[str, Any]) -> Light:
    ambient = float(data["ambient"])
    if "lamp" in data:
        return Light(ambient, np.array(data["lamp"], float), float(data["reach"]))
    sun = np.array(data["sun"], float)
    return Light(ambient, sun / np.linalg.norm(sun), 0.0)
