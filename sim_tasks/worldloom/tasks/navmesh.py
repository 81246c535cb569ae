"""A navigation grid -> `navmesh.usda`: the walkable floor as a mesh for people to look at."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from worldloom.scene.mesh import TriMesh
from worldloom.scene.worldfolder import write_whole
from worldloom.tasks.navgrid import Floor, NavGrid

LIFT_M = 0.01  # Above the floor, so that the two do not flicker through each other [m].
MAX_RUN_M = 0.5  # A strip of cells is no longer than this, so that it follows the floor [m].
COLORS = ((0.25, 0.75, 0.45), (0.95, 0.75, 0.25), (0.35, 0.55, 0.95), (0.85, 0.40, 0.65))
"""Colours of islands in order of size, repeated."""


def write_navmesh(grid: NavGrid, file: Path) -> None:
    """Write the walkable cells of all floors; it neither collides nor casts shadows.

    Raises:
        StorageUnwritable: The folder cannot be written.
    """
    from pxr import Sdf, Usd, UsdGeom, UsdPhysics, Vt

    stage = Usd.Stage.CreateInMemory()
    UsdGeom.SetStageUpAxis(stage, UsdGeom.Tokens.z)
    UsdGeom.SetStageMetersPerUnit(stage, 1.0)
    UsdPhysics.SetStageKilogramsPerUnit(stage, 1.0)
    root = UsdGeom.Xform.Define(stage, "/NavMesh")
    stage.SetDefaultPrim(root.GetPrim())
    for number, floor in enumerate(grid.floors):
        surface = walkable_surface(grid, floor)
        if not len(surface.faces):
            continue
        mesh = UsdGeom.Mesh.Define(stage, f"/NavMesh/Floor_{number}")
        mesh.CreatePointsAttr(Vt.Vec3fArray.FromNumpy(surface.vertices))
        mesh.CreateFaceVertexCountsAttr(Vt.IntArray.FromNumpy(_threes(len(surface.faces))))
        mesh.CreateFaceVertexIndicesAttr(Vt.IntArray.FromNumpy(surface.faces.ravel()))
        mesh.CreateSubdivisionSchemeAttr(UsdGeom.Tokens.none)
        mesh.CreateExtentAttr(Vt.Vec3fArray.FromNumpy(surface.extent()))
        mesh.CreatePurposeAttr(UsdGeom.Tokens.guide)
        color = UsdGeom.PrimvarsAPI(mesh).CreatePrimvar(
            "displayColor", Sdf.ValueTypeNames.Color3fArray, UsdGeom.Tokens.vertex
        )
        color.Set(Vt.Vec3fArray.FromNumpy(surface.colors))
        UsdGeom.PrimvarsAPI(mesh).CreatePrimvar(
            "doNotCastShadows", Sdf.ValueTypeNames.Bool
        ).Set(True)
    write_whole(file, stage.GetRootLayer().ExportToString().encode())


def walkable_surface(grid: NavGrid, floor: Floor) -> TriMesh:
    """Strips of walkable cells as triangles facing up, coloured by island."""
    row, first, last, island = _strips(floor.island, max(1, round(MAX_RUN_M / grid.cell)))
    x0, y0 = grid.origin_xy
    left, right = x0 + first * grid.cell, x0 + (last + 1) * grid.cell
    low, high = y0 + row * grid.cell, y0 + (row + 1) * grid.cell
    z_left, z_right = floor.z[row, first] + LIFT_M, floor.z[row, last] + LIFT_M
    corners = [(left, low, z_left), (right, low, z_right), (right, high, z_right),
               (left, high, z_left)]  # fmt: skip
    points = np.stack([np.stack(corner, 1) for corner in corners], 1)
    base = 4 * np.arange(len(row))
    faces = (base[:, None] + np.array([0, 1, 2, 0, 2, 3])).reshape(-1, 3)
    colors = np.asarray(COLORS, np.float32)[island % len(COLORS)]
    return TriMesh(
        np.ascontiguousarray(points.reshape(-1, 3), np.float32),
        np.ascontiguousarray(faces, np.int32),
        np.repeat(colors, 4, axis=0),
    )


def _strips(island: NDArray[np.int32], longest: int) -> tuple[NDArray[np.int64], ...]:
    """Row, first and last column, and island of runs of equal cells, at most `longest` cells."""
    columns = island.shape[1]
    inside = island >= 0
    starts = inside.copy()
    starts[:, 1:] &= (island[:, 1:] != island[:, :-1]) | (np.arange(1, columns) % longest == 0)
    ends = inside.copy()
    ends[:, :-1] &= (island[:, 1:] != island[:, :-1]) | (np.arange(1, columns) % longest == 0)
    row, first = np.nonzero(starts)
    last = np.nonzero(ends)[1]
    return row, first, last, island[row, first].astype(np.int64)


def _threes(count: int) -> NDArray[np.int32]:
    return np.full(count, 3, np.int32)
