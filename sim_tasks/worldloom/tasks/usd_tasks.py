"""Episodes -> the USD task layer: a thin layer over the world, never a copy (spec 4.5).

Picking a variant of `episode` on /Task sets start, goal and reference path. Guides neither collide
nor cast shadows; no ground plane is added, since it would hide holes of the floor.
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

from worldloom.scene.worldfolder import write_whole
from worldloom.tasks.episodes import Episode
from worldloom.tasks.robots import RobotProfile

MARKER_HEIGHT_M = 0.02
PATH_WIDTH_M = 0.02
PROXY_MASS_KG = 5.0  # Of the cylinder that stands for the robot; a small robot's mass.
TIME_FACTOR = 4.0
"""An episode may take this many times the time of its reference path (spec navigation 4.3)."""


def write_task_layer(
    file: Path,
    world: Path,
    episodes: list[Episode],
    robot: RobotProfile,
    *,
    dataset: str,
    manifest_sha256: str = "",
) -> None:
    """Write `tasks.usda`.

    Args:
        file: Where to.
        world: The `world.usda` that it lies over.
        episodes: One variant each.
        robot: Stands at the start as a cylinder; its Isaac asset is a second embodiment.
        dataset: Name of the dataset.
        manifest_sha256: Hash of the world's manifest.

    Raises:
        StorageUnwritable: The folder cannot be written.
    """
    from pxr import Sdf, Usd, UsdGeom, UsdPhysics

    layer = Sdf.Layer.CreateAnonymous(".usda")
    stage = Usd.Stage.Open(layer)
    UsdGeom.SetStageUpAxis(stage, UsdGeom.Tokens.z)
    UsdGeom.SetStageMetersPerUnit(stage, 1.0)
    UsdPhysics.SetStageKilogramsPerUnit(stage, 1.0)
    layer.defaultPrim = "World"
    layer.customLayerData = {
        "navtask": {
            "schema": "navtask/1",
            "dataset": dataset,
            "manifest_sha256": manifest_sha256,
            "robot": robot.name,
        }
    }
    task = UsdGeom.Xform.Define(stage, "/Task").GetPrim()
    Usd.ModelAPI(task).SetKind("component")
    if not has_physics_scene(world):
        scene = UsdPhysics.Scene.Define(stage, "/Task/PhysicsScene")
        scene.CreateGravityDirectionAttr((0, 0, -1))
        scene.CreateGravityMagnitudeAttr(9.81)
    _robot(stage, robot)
    variants = task.GetVariantSets().AddVariantSet("episode")
    for episode in episodes:
        name = variant_name(episode.id)
        variants.AddVariant(name)
        variants.SetVariantSelection(name)
        with variants.GetVariantEditContext():
            _episode(stage, episode, robot)
    if episodes:
        variants.SetVariantSelection(variant_name(episodes[0].id))
    # Into a layer of its own, so that authoring does not compose the whole world.
    final = Sdf.Layer.CreateAnonymous(".usda")
    final.TransferContent(layer)
    final.subLayerPaths = [os.path.relpath(world.resolve(), file.parent.resolve())]
    write_whole(file, final.ExportToString().encode())


def has_physics_scene(world: Path) -> bool:
    """Whether a world's own layer defines a PhysicsScene; two of them would fight."""
    from pxr import Sdf

    layer = Sdf.Layer.FindOrOpen(str(world)) if world.is_file() else None
    found: list[bool] = []
    if layer is not None:
        layer.Traverse(
            Sdf.Path.absoluteRootPath,
            lambda path: found.append(_type_at(layer, path) == "PhysicsScene"),
        )
    return any(found)


def _type_at(layer: Any, path: Any) -> str:
    prim = layer.GetPrimAtPath(path) if path.IsPrimPath() else None
    return prim.typeName if prim else ""


def variant_name(episode_id: str) -> str:
    """An episode's id as USD allows it for a variant."""
    return "".join(c if c.isalnum() or c in "_-" else "_" for c in episode_id)


def _episode(stage: Any, episode: Episode, robot: RobotProfile) -> None:
    from pxr import Sdf, UsdGeom

    task = stage.GetPrimAtPath("/Task")
    numbers = {
        "geodesicDistance": episode.geodesic,
        "timeLimit": TIME_FACTOR * episode.reference_time,
    }
    for name, value in numbers.items():
        task.CreateAttribute(f"navtask:{name}", Sdf.ValueTypeNames.Double).Set(float(value))
    task.CreateAttribute("navtask:episodeId", Sdf.ValueTypeNames.String).Set(episode.id)
    task.CreateAttribute("navtask:seed", Sdf.ValueTypeNames.Int64).Set(episode.seed)
    _place(UsdGeom.Xform.Define(stage, "/Task/Start"), episode.start.position, episode.start.yaw)
    for number, goal in enumerate(episode.goals):
        holder = UsdGeom.Xform.Define(stage, f"/Task/Goal_{number}")
        _place(holder, goal.position, goal.yaw or 0.0)
        holder.GetPrim().CreateAttribute(
            "navtask:successRadius", Sdf.ValueTypeNames.Double
        ).Set(float(goal.radius))
        marker = UsdGeom.Cylinder.Define(stage, f"/Task/Goal_{number}/Marker")
        _cylinder(marker, goal.radius, MARKER_HEIGHT_M, (0.15, 0.75, 0.35))
        _guide(marker)
    _reference_path(stage, episode)
    x, y, z = episode.start.position
    body = UsdGeom.Xformable(stage.GetPrimAtPath("/Task/Robot"))
    _place(body, (x, y, z + robot.spawn_height), episode.start.yaw)


def _reference_path(stage: Any, episode: Episode) -> None:
    from pxr import Gf, UsdGeom, Vt

    curve = UsdGeom.BasisCurves.Define(stage, "/Task/ReferencePath")
    curve.CreateTypeAttr(UsdGeom.Tokens.linear)
    points = [Gf.Vec3f(x, y, z + MARKER_HEIGHT_M) for x, y, z in episode.reference_path]
    curve.CreatePointsAttr(Vt.Vec3fArray(points))
    curve.CreateCurveVertexCountsAttr([len(points)])
    curve.CreateWidthsAttr([PATH_WIDTH_M])
    curve.SetWidthsInterpolation(UsdGeom.Tokens.constant)
    _guide(curve)
    curve.CreateDisplayColorAttr([(0.2, 0.5, 1.0)])
    extent = UsdGeom.Curves.ComputeExtent(curve.GetPointsAttr().Get(), [PATH_WIDTH_M])
    curve.CreateExtentAttr(extent)


def _robot(stage: Any, robot: RobotProfile) -> None:
    """The robot's frame with its embodiments: a cylinder, and Isaac's own asset as a payload."""
    from pxr import Sdf, UsdGeom, UsdPhysics

    prim = UsdGeom.Xform.Define(stage, "/Task/Robot").GetPrim()
    embodiment = prim.GetVariantSets().AddVariantSet("embodiment")
    embodiment.AddVariant("proxy_cylinder")
    embodiment.SetVariantSelection("proxy_cylinder")
    with embodiment.GetVariantEditContext():
        body = UsdGeom.Cylinder.Define(stage, "/Task/Robot/Body")
        _cylinder(body, robot.radius, robot.height, (0.95, 0.55, 0.1))
        UsdGeom.XformCommonAPI(body).SetTranslate((0.0, 0.0, robot.height / 2))
        # A rigid body, so that Play drops it onto the collider as it would a robot.
        UsdPhysics.RigidBodyAPI.Apply(body.GetPrim())
        UsdPhysics.CollisionAPI.Apply(body.GetPrim())
        UsdPhysics.MassAPI.Apply(body.GetPrim()).CreateMassAttr(PROXY_MASS_KG)
    if robot.usd:
        # Written past the stage: selecting the variant would compose an asset that is not here.
        embodiment.AddVariant(robot.name)
        layer = stage.GetRootLayer()
        spec = layer.GetPrimAtPath(f"/Task/Robot{{embodiment={robot.name}}}")
        spec.payloadList.prependedItems.append(Sdf.Payload(robot.usd))


def _cylinder(prim: Any, radius: float, height: float, color: tuple[float, float, float]) -> None:
    from pxr import UsdGeom

    prim.CreateRadiusAttr(float(radius))
    prim.CreateHeightAttr(float(height))
    prim.CreateAxisAttr(UsdGeom.Tokens.z)
    prim.CreateExtentAttr([(-radius, -radius, -height / 2), (radius, radius, height / 2)])
    prim.CreateDisplayColorAttr([color])


def _guide(prim: Any) -> None:
    """Something to look at only: no collision, no shadow."""
    from pxr import Sdf, UsdGeom

    prim.CreatePurposeAttr(UsdGeom.Tokens.guide)
    UsdGeom.PrimvarsAPI(prim).CreatePrimvar("doNotCastShadows", Sdf.ValueTypeNames.Bool).Set(True)


def _place(prim: Any, position: tuple[float, float, float], yaw: float) -> None:
    from pxr import UsdGeom

    api = UsdGeom.XformCommonAPI(prim)
    api.SetTranslate(tuple(float(x) for x in position))
    api.SetRotate((0.0, 0.0, math.degrees(yaw)))
