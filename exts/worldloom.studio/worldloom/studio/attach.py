"""A world folder -> a payload on the stage: checked off-stage first, attached in one edit.

`prepare_world` may run in any thread, since it touches no stage. `attach_world` edits the stage
and belongs on the main thread; it writes to the user's own edit target.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from worldloom.scene.errors import CorruptData
from worldloom.scene.manifest import Manifest
from worldloom.scene.trust import vet_layer_file
from worldloom.scene.worldfile import DEFAULT_VARIANT, render_world_usda
from worldloom.scene.worldfolder import WORLD, check_files, open_world, write_whole

LAYER_KINDS = ("splats", "points", "collision", "visual", "cameras_usd")
SPLAT_TYPE = "ParticleField3DGaussianSplat"
PARENT = "/World"


@dataclass(frozen=True)
class PreparedWorld:
    """A world whose files were checked and may be attached."""

    name: str
    """Name for its prim."""
    root: Path
    """The root layer to bring in; rendered by us, never taken from elsewhere."""
    manifest: Manifest


def prepare_world(folder: Path) -> PreparedWorld:
    """Check every layer of a world off-stage.

    The root on disk is used only when it is what the manifest renders to. Where it is not, since
    somebody edited it, ours is written beside it and theirs is left alone.

    Raises:
        NotFound: The folder holds no world.
        CorruptData: A file is missing, damaged, or holds more than geometry.
        StorageUnwritable: The root has to be written and cannot be.
    """
    manifest = open_world(folder)
    layers = tuple(entry for kind in LAYER_KINDS for entry in manifest.live(kind))
    problems = check_files(folder, replace(manifest, files=layers))
    for entry in layers if not problems else ():
        problems += [f"{entry.path}: {line}" for line in vet_layer_file(folder / entry.path)]
    if problems:
        more = f" and {len(problems) - 1} more" if len(problems) > 1 else ""
        raise CorruptData(f"{folder} was not added: {problems[0]}{more}")
    root = folder / WORLD
    wanted = render_world_usda(manifest)
    if not root.is_file() or root.read_bytes() != wanted:
        root = folder / f"world-{hashlib.sha256(wanted).hexdigest()[:8]}.usda"
        if not root.is_file() or root.read_bytes() != wanted:
            write_whole(root, wanted)
    return PreparedWorld(prim_name(folder), root.resolve(), manifest)


def attach_world(stage: Any, world: PreparedWorld) -> str:
    """Bring a prepared world onto a stage and return the path of its prim.

    A stage that is not in metres or not Z up gets the world scaled and turned accordingly. Where
    OpenUSD does not know the splat type, the world shows its points instead.
    """
    from pxr import UsdGeom

    if not stage.GetPrimAtPath(PARENT):
        UsdGeom.Xform.Define(stage, PARENT)
    if not stage.HasDefaultPrim():
        stage.SetDefaultPrim(stage.GetPrimAtPath(PARENT))
    path = _free_path(stage, f"{PARENT}/{world.name}")
    prim = UsdGeom.Xform.Define(stage, path).GetPrim()
    _fit(UsdGeom, stage, prim)
    prim.GetPayloads().AddPayload(world.root.as_posix())
    variant = splat_variant()
    if variant != DEFAULT_VARIANT:
        splats = stage.OverridePrim(f"{path}/Splats")
        splats.GetVariantSet("splatFormat").SetVariantSelection(variant)
    return path


def splat_variant() -> str:
    """How this OpenUSD can show splats: `particleField`, or `points` where it has no such type."""
    from pxr import Usd

    known = Usd.SchemaRegistry().FindConcretePrimDefinition(SPLAT_TYPE) is not None
    return DEFAULT_VARIANT if known else "points"


def prim_name(folder: Path) -> str:
    """A prim name for a world folder; `<name>/world` is known by the folder above it."""
    folder = folder.absolute()
    stem = folder.parent.name if folder.name == "world" and folder.parent.name else folder.name
    name = re.sub(r"[^A-Za-z0-9_]", "_", stem) or "world"
    return name if not name[0].isdigit() else f"_{name}"


def _free_path(stage: Any, path: str) -> str:
    number, free = 1, path
    while stage.GetPrimAtPath(free):
        free = f"{path}_{number:02d}"
        number += 1
    return free


def _fit(usd_geom: Any, stage: Any, prim: Any) -> None:
    """Scale and turn a metric Z-up world to the stage's own units and axis."""
    xform = usd_geom.Xformable(prim)
    if usd_geom.GetStageUpAxis(stage) == "Y":
        # Turning by -90 degrees about X takes +Z to +Y.
        xform.AddRotateXOp().Set(-90.0)
    units = usd_geom.GetStageMetersPerUnit(stage)
    if abs(units - 1) > 1e-6:
        xform.AddScaleOp().Set((1 / units,) * 3)
