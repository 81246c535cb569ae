"""Coloured mesh -> preview layer: /Visual/Mesh with a colour at each vertex, no physics.

For viewers without splats, and for depth cameras and lidars, which see meshes but no splats.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pxr import Sdf

from worldloom.generator.layers.authoring import (
    VERTEX,
    add_attribute,
    add_mesh,
    add_prim,
    new_layer,
    save_layer,
    vec3,
)
from worldloom.generator.layers.collider_layer import sound_triangles
from worldloom.scene.mesh import TriMesh, srgb_to_linear

VISUAL_PATH = "/Visual/Mesh"
PLAIN_GREY = 0.5  # sRGB colour of a mesh that has none.


def write_visual_layer(mesh: TriMesh, file: Path) -> None:
    """Write the preview mesh; the same mesh gives the same bytes.

    Args:
        mesh: Triangles in the world [m]; sRGB colours are stored as linear light, which is what
            displayColor means.
        file: `.usdc` to write.

    Raises:
        CorruptData: A vertex is not finite, or no triangle has an area.
        StorageFull: The disk has no space left.
        StorageUnwritable: The file cannot be written.
    """
    solid = sound_triangles(mesh)
    srgb = solid.colors
    if srgb is None:
        srgb = np.full_like(solid.vertices, PLAIN_GREY)
    layer, root = new_layer("Visual")
    prim = add_prim(root, "Mesh", "Mesh")
    add_mesh(prim, solid.vertices, solid.faces, solid.normals())
    types = Sdf.ValueTypeNames
    # A room seen from outside should show its inside, not vanish.
    add_attribute(prim, "doubleSided", types.Bool, True, uniform=True)
    colors = vec3(srgb_to_linear(np.clip(srgb, 0, 1)))
    name = "primvars:displayColor"
    add_attribute(prim, name, types.Color3fArray, colors, interpolation=VERTEX)
    save_layer(layer, file)
