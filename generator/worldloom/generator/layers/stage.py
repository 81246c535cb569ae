"""A USD layer file with our stage metadata, written whole."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pxr import Sdf, Usd, UsdGeom, UsdPhysics, Vt

from worldloom.scene.errors import StorageUnwritable


@contextmanager
def new_layer(file: Path, root: str) -> Iterator[tuple[Usd.Stage, Usd.Prim]]:
    """Author a layer whose default prim is the Xform `/root`; saved when the block ends.

    The stage is built in memory and exported once: a crate file that is saved twice carries the
    first version's bytes along.

    Raises:
        StorageUnwritable: The file cannot be written.
    """
    layer = Sdf.Layer.CreateAnonymous(".usdc")
    stage = Usd.Stage.Open(layer)
    UsdGeom.SetStageUpAxis(stage, UsdGeom.Tokens.z)
    UsdGeom.SetStageMetersPerUnit(stage, 1.0)
    UsdPhysics.SetStageKilogramsPerUnit(stage, 1.0)
    prim = UsdGeom.Xform.Define(stage, f"/{root}").GetPrim()
    stage.SetDefaultPrim(prim)
    yield stage, prim
    if not layer.Export(str(file)):
        raise StorageUnwritable(f"OpenUSD could not write {file}; check the folder and its space")


def vec3f(array: NDArray[np.floating]) -> Vt.Vec3fArray:
    """Rows [n 3] as a USD array without a Python loop."""
    return Vt.Vec3fArray.FromNumpy(np.ascontiguousarray(array, np.float32))


def box(low_high: NDArray[np.floating]) -> Vt.Vec3fArray:
    """A box [2 3] as a USD extent."""
    return vec3f(np.asarray(low_high, np.float32))
