"""Opens a world with whatever OpenUSD runs this and prints what it sees as JSON.

Usage: read_world.py WORLD_USDA. Needs nothing but `pxr` and numpy; the pytest beside it starts it.
"""

import json
import sys

import numpy as np
from pxr import Usd, UsdGeom

ARRAYS = ("positions", "scales", "orientations", "opacities", "points", "faceVertexIndices",
          "radiance:sphericalHarmonicsCoefficients", "primvars:displayColor")  # fmt: skip


def describe(stage):
    """Type and array sums of every prim."""
    seen = {}
    for prim in stage.Traverse():
        values = [prim.GetAttribute(name).Get() for name in ARRAYS if prim.HasAttribute(name)]
        sums = [round(float(np.array(v, np.float64).sum()), 3) for v in values if v is not None]
        seen[str(prim.GetPath())] = [str(prim.GetTypeName()), sums]
    return seen


def main():
    """Describe both variants, and where the camera is in the middle of the path."""
    stage = Usd.Stage.Open(sys.argv[1])
    report = {"version": Usd.GetVersion()}
    choice = stage.GetPrimAtPath("/World/Splats").GetVariantSet("splatFormat")
    for variant in ("particleField", "points"):
        choice.SetVariantSelection(variant)
        report[variant] = describe(stage)
    camera = UsdGeom.Xformable(stage.GetPrimAtPath("/World/Cameras/Path"))
    # The stage runs at 60 time codes a second, the camera layer at its own frame rate.
    middle = camera.ComputeLocalToWorldTransform(2 * 60 / 16).ExtractTranslation()
    report["camera"] = [round(x, 6) for x in middle]
    sys.stdout.write(json.dumps(report) + "\n")


main()
