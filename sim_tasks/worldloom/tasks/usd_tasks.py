"""Episodes -> the USD task layer: a thin layer over the world, never a copy (spec 4.5).

Picking a variant of `episode` on /Task sets start, goal and reference path. Guides neither collide
nor cast shadows; no ground plane is added, since it would hide holes of the floor.
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

from worldloom.tasks.episodes import Episode
from worldloom.tasks.robots import RobotProfile

MARKER_HEIGHT_M = 0.02
PATH_WIDTH_M = 0.02


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
    """
    from pxr import Sdf, Usd, UsdGeom, UsdPhysics

    file.parent.mkdir(parents=True, exist_ok=True)
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
    final.Export(str(file))


def variant_name(episode_id: str) -> str:
    """An episode's id as USD allows it for a variant."""
    return "".join(c if c.isalnum() or c in "_-" else "_" for c in episode_id)


def _episode(stage: Any, episode: Episode, robot: RobotProfile) -> None:
    from pxr import Sdf, UsdGeom

    task = stage.GetPrimAtPath("/Task")
    numbers = {
        "geodesicDistance": episode.geodesic,
        "timeLimit": 4.0 * episode.reference_time,
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
        marker.CreatePurposeAttr(UsdGeom.Tokens.guide)
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
    curve.CreatePurposeAttr(UsdGeom.Tokens.guide)
    curve.CreateDisplayColorAttr([(0.2, 0.5, 1.0)])
    extent = UsdGeom.Curves.ComputeExtent(curve.GetPointsAttr().Get(), [PATH_WIDTH_M])
    curve.CreateExtentAttr(extent)


def _robot(stage: Any, robot: RobotProfile) -> None:
    """The robot's frame with its embodiments: a cylinder, and Isaac's own asset as a payload."""
    from pxr import Sdf, UsdGeom

    prim = UsdGeom.Xform.Define(stage, "/Task/Robot").GetPrim()
    embodiment = prim.GetVariantSets().AddVariantSet("embodiment")
    embodiment.AddVariant("proxy_cylinder")
    embodiment.SetVariantSelection("proxy_cylinder")
    with embodiment.GetVariantEditContext():
        body = UsdGeom.Cylinder.Define(stage, "/Task/Robot/Body")
        _cylinder(body, robot.radius, robot.height, (0.95, 0.55, 0.1))
        UsdGeom.XformCommonAPI(body).SetTranslate((0.0, 0.0, robot.height / 2))
    if robot.usd:
        # Written past the stage: selecting the variant would compose an asset that is not here.
        embodiment.AddVariant(robot.name)
        layer = stage.GetRootLayer()
        spec = layer.GetPrimAtPath(f"/Task/Robot{{embodiment={robot.name}}}")
        spec.payloadList.prependedItems.append(Sdf.Payload(robot.usd))


def _cylinder(prim: Any, radius: float, height: float, color: tuple[float, float, float]) -> None:
    from pxr import Sdf, UsdGeom

    prim.CreateRadiusAttr(float(radius))
    prim.CreateHeightAttr(float(height))
    prim.CreateAxisAttr(UsdGeom.Tokens.z)
    prim.CreateExtentAttr([(-radius, -radius, -height / 2), (radius, radius, height / 2)])
    prim.CreateDisplayColorAttr([color])
    UsdGeom.PrimvarsAPI(prim).CreatePrimvar("doNotCastShadows", Sdf.ValueTypeNames.Bool).Set(True)


def _place(prim: Any, position: tuple[float, float, float], yaw: float) -> None:
    from pxr import UsdGeom

    api = UsdGeom.XformCommonAPI(prim)
    api.SetTranslate(tuple(float(x) for x in position))
    api.SetRotate((0.0, 0.0, math.degrees(yaw)))
