"""Splat centres -> plain `Points` layers: /Chunk/Points, for viewers that know no splats.

Isaac Sim 5.1, usdview and most other tools show these where they cannot show splats.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike
from pxr import Sdf, Vt

from worldloom.generator.layers.authoring import (
    VERTEX,
    add_attribute,
    add_extent,
    add_prim,
    new_layer,
    save_layer,
    vec3,
)
from worldloom.scene.errors import CorruptData
from worldloom.scene.mesh import srgb_to_linear

POINTS_PATH = "/Chunk/Points"
SPACING_SAMPLE = 2000  # Points whose neighbours are looked up to guess a width.


def write_points_layer(
    points: ArrayLike, rgb: ArrayLike, file: Path, *, widths: ArrayLike | None = None
) -> None:
    """Write one chunk file of coloured points; the same points give the same bytes.

    Args:
        points: Positions in the world [m], shape [n 3], n > 0.
        rgb: sRGB colours 0..1, shape [n 3]; stored as linear light, which displayColor means.
        file: `.usdc` to write.
        widths: Diameter of each point [m], shape [n]; one guess from their spacing by default.

    Raises:
        CorruptData: There are no points, or one is not finite.
        StorageFull: The disk has no space left.
        StorageUnwritable: The file cannot be written.
    """
    points = np.ascontiguousarray(points, np.float32)
    if len(points) == 0 or not np.isfinite(points).all():
        raise CorruptData(
            f"{len(points)} points, {int((~np.isfinite(points)).any(-1).sum())} of them not "
            "finite; a layer of points needs at least one, and all of them finite"
        )
    # One width a point, even where all are equal: OpenUSD cannot compute extents otherwise.
    width = np.full(len(points), _spacing(points)) if widths is None else np.asarray(widths)
    width = np.ascontiguousarray(width, np.float32)
    layer, root = new_layer("Chunk")
    prim = add_prim(root, "Points", "Points")
    types = Sdf.ValueTypeNames
    add_attribute(prim, "points", types.Point3fArray, vec3(points))
    sizes = Vt.FloatArray.FromNumpy(width)
    add_attribute(prim, "widths", types.FloatArray, sizes, interpolation=VERTEX)
    colors = vec3(srgb_to_linear(np.clip(np.asarray(rgb), 0, 1)))
    name = "primvars:displayColor"
    add_attribute(prim, name, types.Color3fArray, colors, interpolation=VERTEX)
    radius = (width / 2)[:, None]
    add_extent(prim, np.stack([(points - radius).min(0), (points + radius).max(0)]))
    save_layer(layer, file)


def _spacing(points: np.ndarray) -> float:
    """Typical distance of neighbouring points [m]."""
    from scipy.spatial import cKDTree

    if len(points) < 2:
        return 0.01
    sample = points[:: max(1, len(points) // SPACING_SAMPLE)]
    nearest = cKDTree(points).query(sample, k=2)[0][:, 1]
    return max(float(np.median(nearest)), 1e-4)
