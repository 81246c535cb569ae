"""The little of Sdf that all layers share: a metric Z-up layer, prims, attributes, saving.

Layers are written with Sdf by type and attribute name, never through schema classes: the same code
then runs on any OpenUSD, also on the older ones that know no ParticleField. Arrays go from numpy
to Vt in one copy.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pxr import Gf, Sdf, Tf, Vt

from worldloom.scene.errors import StorageFull, StorageUnwritable

LAYER_DATA = {"worldloom": {"schema": "worldloom.layer/1"}}
"""Provenance inside a layer: only what never changes, since files are named by their content."""

VERTEX = "vertex"


def new_layer(root: str) -> tuple[Sdf.Layer, Sdf.PrimSpec]:
    """An empty crate layer in memory, in metres and Z up, with the Xform `root` as default prim."""
    layer = Sdf.Layer.CreateAnonymous("layer.usdc")
    layer.defaultPrim = root
    metadata = layer.pseudoRoot
    metadata.SetInfo("metersPerUnit", 1.0)
    metadata.SetInfo("kilogramsPerUnit", 1.0)
    metadata.SetInfo("upAxis", "Z")
    layer.customLayerData = LAYER_DATA
    return layer, Sdf.PrimSpec(layer, root, Sdf.SpecifierDef, "Xform")


def add_prim(
    parent: Sdf.PrimSpec, name: str, type_name: str, *, schemas: Sequence[str] = ()
) -> Sdf.PrimSpec:
    """A typed child prim with API schemas applied by name."""
    prim = Sdf.PrimSpec(parent, name, Sdf.SpecifierDef, type_name)
    if schemas:
        prim.SetInfo("apiSchemas", Sdf.TokenListOp.Create(prependedItems=list(schemas)))
    return prim


def add_attribute(
    prim: Sdf.PrimSpec,
    name: str,
    type_name: Sdf.ValueTypeName,
    value: Any,
    *,
    uniform: bool = False,
    interpolation: str | None = None,
    element_size: int | None = None,
) -> Sdf.AttributeSpec:
    """A schema attribute with its default value."""
    variability = Sdf.VariabilityUniform if uniform else Sdf.VariabilityVarying
    attribute = Sdf.AttributeSpec(prim, name, type_name, variability)
    attribute.default = value
    if interpolation is not None:
        attribute.SetInfo("interpolation", interpolation)
    if element_size is not None:
        attribute.SetInfo("elementSize", element_size)
    return attribute


def add_target(prim: Sdf.PrimSpec, name: str, target: str) -> None:
    """A relationship from `prim` to the prim at `target`."""
    relationship = Sdf.RelationshipSpec(prim, name, custom=False)
    relationship.targetPathList.explicitItems = [Sdf.Path(target)]


def add_mesh(
    prim: Sdf.PrimSpec,
    vertices: NDArray[np.float32],
    faces: NDArray[np.int32],
    normals: NDArray[np.floating],
) -> None:
    """Triangles (vertices [v 3] in metres, faces [f 3]) with one unit normal a face [f 3]."""
    types = Sdf.ValueTypeNames
    add_attribute(prim, "points", types.Point3fArray, vec3(vertices))
    counts = Vt.IntArray.FromNumpy(np.full(len(faces), 3, np.int32))
    add_attribute(prim, "faceVertexCounts", types.IntArray, counts)
    indices = Vt.IntArray.FromNumpy(np.ascontiguousarray(faces, np.int32).reshape(-1))
    add_attribute(prim, "faceVertexIndices", types.IntArray, indices)
    add_attribute(prim, "normals", types.Normal3fArray, vec3(normals), interpolation="uniform")
    add_attribute(prim, "subdivisionScheme", types.Token, "none", uniform=True)
    add_attribute(prim, "orientation", types.Token, "rightHanded", uniform=True)
    add_extent(prim, np.stack([vertices.min(0), vertices.max(0)]))


def add_extent(prim: Sdf.PrimSpec, box: NDArray[np.floating]) -> None:
    """The box [2 3] around a prim's geometry, in metres."""
    corners = [Gf.Vec3f(*(float(x) for x in corner)) for corner in box]
    add_attribute(prim, "extent", Sdf.ValueTypeNames.Float3Array, Vt.Vec3fArray(corners))


def vec3(array: NDArray[Any]) -> Vt.Vec3fArray:
    """An array [n 3] as Vt."""
    return Vt.Vec3fArray.FromNumpy(np.ascontiguousarray(array, np.float32))


def save_layer(layer: Sdf.Layer, file: Path) -> None:
    """Write a layer as crate (`.usdc`) or text (`.usda`), as the name says.

    Raises:
        StorageFull: The disk has no space left.
        StorageUnwritable: The file cannot be written.
    """
    try:
        done = layer.Export(str(file))
        reason = "OpenUSD gave no reason"
    except Tf.ErrorException as error:
        done, reason = False, usd_reason(error)
    if done:
        return
    # OpenUSD reports no errno, so a full disk is told from its free space.
    if file.parent.is_dir() and shutil.disk_usage(file.parent).free < (1 << 20):
        raise StorageFull(f"no space left while writing {file}; free some space and run again")
    raise StorageUnwritable(f"cannot write the layer {file}: {reason}")


def usd_reason(error: Tf.ErrorException) -> str:
    """What OpenUSD said, without where in its own source it said so."""
    last = (str(error).strip().splitlines() or ["no reason given"])[-1]
    return last.split(" : ", 1)[-1].strip("'").strip()
