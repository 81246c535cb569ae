"""Splats -> `ParticleField3DGaussianSplat` layers: /Chunk/Gaussians, float attributes.

The schema is OpenUSD 26.3's (UsdVol); Isaac Sim 6 renders it. Scales are linear and opacities
0..1, unlike in PLY files; colours stay sRGB, which is how untagged harmonics are read. Half
precision is legal USD, but NVIDIA's rule VG.035 and with it the converters refuse it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
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
from worldloom.scene.splats import Splats

SPLATS_PER_FILE = 250_000
"""Splats in one file: 14 MB a payload, which Kit takes without a hitch (spec kit 4.1)."""
SPLAT_TYPE = "ParticleField3DGaussianSplat"
SPLAT_PATH = "/Chunk/Gaussians"
SH = "radiance:sphericalHarmonics"
UNIT_TOLERANCE = 1e-3  # Largest error of a quaternion's length (rule VG.035).


def split_splats(splats: Splats, *, limit: int = SPLATS_PER_FILE) -> list[Splats]:
    """Split into parts of at most `limit` splats, each a compact piece of space.

    Within a part any prefix covers the piece evenly, so that a file read half shows half of the
    detail everywhere and not half of the place. No splats give no parts.
    """
    if splats.n == 0:
        return []
    pieces = np.array_split(splats.morton_order(), -(-splats.n // limit))
    parts = [splats.select(piece) for piece in pieces]
    return [part.select(part.cover_order()) for part in parts]


def write_splat_layer(splats: Splats, file: Path) -> None:
    """Write one chunk file of splats; the same splats give the same bytes.

    Args:
        splats: At least one, at most SPLATS_PER_FILE, in the order to store; see `split_splats`.
        file: `.usdc` to write.

    Raises:
        CorruptData: There are none or too many, or a value that no renderer accepts.
        StorageFull: The disk has no space left.
        StorageUnwritable: The file cannot be written.
    """
    check_splats(splats)
    if splats.n > SPLATS_PER_FILE:
        raise CorruptData(
            f"{splats.n} splats for one layer; the limit is {SPLATS_PER_FILE}. Use split_splats"
        )
    layer, root = new_layer("Chunk")
    prim = add_prim(root, "Gaussians", SPLAT_TYPE)
    types = Sdf.ValueTypeNames
    add_attribute(prim, "positions", types.Point3fArray, vec3(splats.means))
    add_attribute(prim, "scales", types.Float3Array, vec3(splats.scales))
    add_attribute(prim, "orientations", types.QuatfArray, _quaternions(splats.quats_wxyz))
    opacities = Vt.FloatArray.FromNumpy(np.ascontiguousarray(splats.opacities, np.float32))
    add_attribute(prim, "opacities", types.FloatArray, opacities)
    add_attribute(prim, f"{SH}Degree", types.Int, splats.degree, uniform=True)
    coefficients = splats.sh.reshape(-1, 3)
    # The schema has no primvars: prefix here, yet NVIDIA's tools want primvar metadata on it.
    add_attribute(
        prim, f"{SH}Coefficients", types.Float3Array, vec3(coefficients),
        interpolation=VERTEX, element_size=splats.sh.shape[1],
    )  # fmt: skip
    add_attribute(prim, "projectionModeHint", types.Token, "perspective", uniform=True)
    add_attribute(prim, "sortingModeHint", types.Token, "zDepth", uniform=True)
    add_extent(prim, splats.extent())
    save_layer(layer, file)


def check_splats(splats: Splats) -> None:
    """Refuse splats that renderers show as black or not at all.

    Raises:
        CorruptData: Says which property is wrong and for how many splats.
    """
    if splats.n == 0:
        raise CorruptData("no splats to write; a chunk without splats has no file")
    if splats.degree not in (0, 3):
        raise CorruptData(
            f"splats of harmonics degree {splats.degree}; only 0 and 3 render everywhere"
        )
    arrays = (splats.means, splats.scales, splats.quats_wxyz, splats.opacities, splats.sh)
    lengths = np.linalg.norm(splats.quats_wxyz, axis=1)
    bad = {
        "a NaN or infinity": ~np.isfinite(
            np.stack([array.reshape(splats.n, -1).sum(1) for array in arrays])
        ).all(0),
        "a scale that is not above zero": ~(splats.scales > 0).all(1),
        "an opacity outside 0..1": ~((splats.opacities >= 0) & (splats.opacities <= 1)),
        "a quaternion that is not of unit length": ~(np.abs(lengths - 1) <= UNIT_TOLERANCE),
    }
    for what, mask in bad.items():
        if mask.any():
            raise CorruptData(
                f"{int(mask.sum())} of {splats.n} splats have {what}; the first is number "
                f"{int(mask.argmax())}"
            )


def _quaternions(quats_wxyz: NDArray[np.float32]) -> Vt.QuatfArray:
    # Gf keeps the real part last in memory although it prints it first.
    xyzw = np.ascontiguousarray(np.roll(quats_wxyz, -1, axis=1), np.float32)
    return Vt.QuatfArray.FromNumpy(xyzw)
