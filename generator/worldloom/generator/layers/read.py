"""USD layers that worldloom wrote -> meshes and splats again.

Files are opened detached from disk and from OpenUSD's registry, so that nothing keeps them mapped.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pxr import Sdf, Tf

from worldloom.generator.layers.authoring import usd_reason
from worldloom.generator.layers.splat_layer import SH, SPLAT_PATH
from worldloom.scene.errors import CorruptData
from worldloom.scene.manifest import FileEntry, Manifest
from worldloom.scene.mesh import TriMesh, linear_to_srgb
from worldloom.scene.splats import Splats

MESH_PATHS = ("/Tile/Mesh", "/Visual/Mesh")


def open_layer(file: Path) -> Sdf.Layer:
    """Open a layer without composing anything.

    Raises:
        CorruptData: The file is missing or no USD layer.
    """
    if not file.is_file():
        raise CorruptData(f"{file} is missing")
    try:
        layer = Sdf.Layer.OpenAsAnonymous(str(file))
    except Tf.ErrorException as error:
        raise CorruptData(f"{file} is not a USD layer: {usd_reason(error)}") from error
    if layer is None:
        raise CorruptData(f"{file} is not a USD layer")
    return layer


def read_mesh_layer(file: Path) -> TriMesh:
    """The triangles of a collider or preview layer; colours as sRGB when it has some.

    Raises:
        CorruptData: The file is no such layer.
    """
    layer = open_layer(file)
    path = next((p for p in MESH_PATHS if layer.GetPrimAtPath(p)), None)
    if path is None:
        raise CorruptData(f"{file} holds no mesh at {' or '.join(MESH_PATHS)}")
    points = _array(layer, file, f"{path}.points")
    indices = _array(layer, file, f"{path}.faceVertexIndices")
    counts = _array(layer, file, f"{path}.faceVertexCounts")
    if (counts != 3).any():
        raise CorruptData(f"{file} has faces of other than three corners; triangulate it first")
    colors = None
    if layer.GetAttributeAtPath(f"{path}.primvars:displayColor"):
        linear = _array(layer, file, f"{path}.primvars:displayColor")
        colors = linear_to_srgb(linear)
    return TriMesh(points, indices.reshape(-1, 3), colors)


def read_splat_layer(file: Path) -> Splats:
    """The splats of a chunk file, in its order.

    Raises:
        CorruptData: The file is no such layer, or its arrays differ in length.
    """
    layer = open_layer(file)
    if not layer.GetPrimAtPath(SPLAT_PATH):
        raise CorruptData(f"{file} holds no splats at {SPLAT_PATH}")

    def take(name: str) -> NDArray[Any]:
        return _array(layer, file, f"{SPLAT_PATH}.{name}")

    means, quats_xyzw = take("positions"), take("orientations")
    sh = take(f"{SH}Coefficients")
    k = (int(layer.GetAttributeAtPath(f"{SPLAT_PATH}.{SH}Degree").default) + 1) ** 2
    scales, opacities = take("scales"), take("opacities")
    lengths = {len(means), len(scales), len(quats_xyzw), len(opacities), len(sh) // k}
    if len(lengths) > 1 or len(sh) % k:
        raise CorruptData(f"{file} has arrays of the lengths {sorted(lengths)}; they must agree")
    quats_wxyz = np.ascontiguousarray(np.roll(quats_xyzw, 1, axis=1))
    return Splats(means, scales, quats_wxyz, opacities, sh.reshape(len(means), k, 3))


def read_world_splats(world: Path, manifest: Manifest) -> Splats:
    """All live splats of a world folder where they stand, moved chunks moved.

    Raises:
        CorruptData: A layer is missing or no splat layer.
    """
    return Splats.concat([read_placed_splats(world, e) for e in manifest.live("splats")])


def read_placed_splats(world: Path, entry: FileEntry) -> Splats:
    """The splats of one file where they stand in the world.

    Raises:
        CorruptData: The layer is missing or no splat layer.
    """
    part = read_splat_layer(world / entry.path)
    return part if entry.move is None else part.transformed(np.array(entry.move))


def _array(layer: Sdf.Layer, file: Path, path: str) -> NDArray[Any]:
    attribute = layer.GetAttributeAtPath(path)
    if attribute is None or attribute.default is None:
        raise CorruptData(f"{file} lacks {path}")
    # The copy outlives the layer; a view into Vt would not.
    return np.array(attribute.default)
