"""Engine presets: one YAML file each -> what a job needs to know of its engine.

A preset is data. Its `frame_model` is the one string that leads to code: a function that opens
the inputs of a request and returns the first arrow, a Seed, and the model that makes frames.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from worldloom.generator.align.belief import Belief
from worldloom.scene.errors import EngineFailed, InvalidRequest
from worldloom.scene.limits import Limits
from worldloom.scene.request import WorldRequest

if TYPE_CHECKING:
    from worldloom.generator.seams import Opening

ENGINE_SCHEMA = "worldloom.engine/1"


@dataclass(frozen=True)
class QualityLevel:
    """How fine an engine works at one quality."""

    long_side: int
    """Longer side of the frames [px]."""
    voxel_m: tuple[float, float]
    """Smallest and largest voxel of the surface fusion [m]."""
    far_m: float
    """Depth beyond which surfaces are seen but not fused into the collider [m]."""


@dataclass(frozen=True)
class Engine:
    """One preset."""

    name: str
    title: str
    summary: str
    frame_model: str
    """`module:function` that opens a request."""
    needs: str
    """The input it cannot do without: `photo`, `scene` or `capture`."""
    research_only: bool
    """Whether its weights forbid commercial use."""
    seconds_per_frame: float
    """Typical cost on its usual machine [s]."""
    keyframe_stride: int
    """Every so many frames one enters the memory, the splats and the surface."""
    qualities: Mapping[str, QualityLevel]
    options: Mapping[str, Any] = field(default_factory=dict)
    """What only this engine's own code understands."""
    flatten_floor_m: float = 0.0
    """Height up to which the fused floor is put onto z = 0, where that plane is the floor [m]."""
    belief: Belief | None = None
    """Trust in cameras and depth of its frames; None where they agree by construction."""
    surface_beside: bool = False
    """Whether a chunk's surface is made while the next is generated: worth it where frames come
    from a GPU."""

    def open(
        self,
        request: WorldRequest,
        inputs: Mapping[str, Path],
        *,
        limits: Limits | None = None,
    ) -> Opening:
        """Decode the inputs of `request` and load the model.

        Raises:
            InvalidRequest: An input is unusable.
            EngineFailed: The model cannot be loaded.
        """
        module, _, function = self.frame_model.partition(":")
        opener: Callable[..., Opening] = getattr(importlib.import_module(module), function)
        level = self.qualities[request.quality]
        extra = {"options": self.options} if self.options else {}
        return opener(request, inputs, level, limits or Limits(), **extra)


@cache
def engines() -> dict[str, Engine]:
    """All presets by name, in alphabetical order.

    Raises:
        EngineFailed: A preset file is malformed.
    """
    folder = resources.files("worldloom.generator") / "presets"
    files = sorted(item.name for item in folder.iterdir() if item.name.endswith(".yaml"))
    found = [_read((folder / name).read_text("utf-8"), name) for name in files]
    return {engine.name: engine for engine in found}


def load_engine(name: str) -> Engine:
    """The preset called `name`.

    Raises:
        InvalidRequest: There is none; the text lists those that exist.
    """
    engine = engines().get(name)
    if engine is None:
        raise InvalidRequest(
            f"unknown engine preset {name!r}; this server has {', '.join(engines())}",
            field="engine",
        )
    return engine


def describe() -> list[dict[str, Any]]:
    """All presets as plain dictionaries, for `GetServer`.

    The weights that are present are part of the answer: a result that was made without them must
    not be taken for one that is made with them.
    """
    from worldloom.generator.weights import catalogue, find_weights

    present = {
        entry.name: entry.licence
        for entry in catalogue()
        if find_weights(entry.name) is not None
    }
    return [
        {
            "name": engine.name,
            "title": engine.title,
            "summary": engine.summary,
            "needs": engine.needs,
            "research_only": engine.research_only,
            "seconds_per_frame": engine.seconds_per_frame,
            "qualities": sorted(engine.qualities),
            "weights": list(present) if engine.needs == "photo" else [],
            "licences": present if engine.needs == "photo" else {},
        }
        for engine in engines().values()
    ]


def _read(text: str, name: str) -> Engine:
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        data: Any = OmegaConf.to_container(OmegaConf.create(text), resolve=True)
        if data["schema"] != ENGINE_SCHEMA:
            raise EngineFailed(
                f"preset {name} has schema {data['schema']!r}; expected {ENGINE_SCHEMA!r}"
            )
        levels = {
            key: QualityLevel(int(q["long_side"]), tuple(q["voxel_m"]), float(q["far_m"]))
            for key, q in data["qualities"].items()
        }
        return Engine(
            name=data["name"],
            title=data["title"],
            summary=data["summary"],
            frame_model=data["frame_model"],
            needs=data["needs"],
            research_only=bool(data["research_only"]),
            seconds_per_frame=float(data["seconds_per_frame"]),
            keyframe_stride=int(data["memory"]["keyframe_stride"]),
            qualities=levels,
            options=data.get("options", {}),
            flatten_floor_m=float(data.get("surface", {}).get("flatten_floor_m", 0.0)),
            surface_beside=bool(data.get("surface", {}).get("beside", False)),
            belief=Belief(**data["align"]) if "align" in data else None,
        )
    except (KeyError, TypeError, ValueError, OmegaConfBaseException) as error:
        raise EngineFailed(f"preset {name} is malformed: {type(error).__name__} {error}") from error
