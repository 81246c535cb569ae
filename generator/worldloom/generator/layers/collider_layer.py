"""Triangles -> collider layers: /Tile/Mesh with UsdPhysics, exact and one-sided.

The geometry is what PhysX collides with, triangle by triangle (approximation `none`, which static
bodies allow). PhysX sees only the front of a triangle, and no flag changes that: the winding must
face free space. Only neutral UsdPhysics is written; engine settings belong to the task layer.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pxr import Sdf

from worldloom.generator.layers.authoring import (
    add_attribute,
    add_mesh,
    add_prim,
    add_target,
    new_layer,
    save_layer,
)
from worldloom.scene.errors import CorruptData
from worldloom.scene.mesh import TriMesh

COLLIDER_PATH = "/Tile/Mesh"
COLLIDER_SCHEMAS = ("PhysicsCollisionAPI", "PhysicsMeshCollisionAPI", "MaterialBindingAPI")
STATIC_FRICTION, DYNAMIC_FRICTION, RESTITUTION = 0.8, 0.6, 0.05
"""Rubber wheels on a dry indoor floor; a photo does not tell better."""
SMALLEST_HEIGHT = 1e-6
"""Height of the thinnest triangle kept [m]: below float32's steps at ten metres it has no plane."""


def write_collider_layer(mesh: TriMesh, file: Path) -> None:
    """Write one tile of the collider; the same mesh gives the same bytes.

    Triangles without area and unused vertices are left out: they change nothing and upset tools.

    Args:
        mesh: Triangles in the world [m], counter-clockwise seen from free space.
        file: `.usdc` to write.

    Raises:
        CorruptData: A vertex is not finite, a face names a vertex that is not there, or nothing
            is left.
        StorageFull: The disk has no space left.
        StorageUnwritable: The file cannot be written.
    """
    solid = sound_triangles(mesh)
    layer, root = new_layer("Tile")
    prim = add_prim(root, "Mesh", "Mesh", schemas=COLLIDER_SCHEMAS)
    add_mesh(prim, solid.vertices, solid.faces, solid.normals())
    types = Sdf.ValueTypeNames
    add_attribute(prim, "physics:collisionEnabled", types.Bool, True)
    add_attribute(prim, "physics:approximation", types.Token, "none", uniform=True)
    add_attribute(prim, "purpose", types.Token, "guide", uniform=True)
    add_target(prim, "material:binding:physics", "/Tile/Material")
    material = add_prim(root, "Material", "Material", schemas=("PhysicsMaterialAPI",))
    add_attribute(material, "physics:staticFriction", types.Float, STATIC_FRICTION)
    add_attribute(material, "physics:dynamicFriction", types.Float, DYNAMIC_FRICTION)
    add_attribute(material, "physics:restitution", types.Float, RESTITUTION)
    save_layer(layer, file)


def sound_triangles(mesh: TriMesh) -> TriMesh:
    """The triangles of `mesh` that have an area, with only the vertices that they use.

    Raises:
        CorruptData: A vertex is not finite, a face names a vertex that is not there, or nothing
            is left. PhysX would drop the whole collider with no more than a log line.
    """
    bad = ~np.isfinite(mesh.vertices).all(1)
    if bad.any():
        raise CorruptData(
            f"{int(bad.sum())} of {len(mesh.vertices)} vertices are not finite (first: "
            f"{int(bad.argmax())}); a physics engine would drop the whole mesh"
        )
    if len(mesh.faces) and not (mesh.faces.min() >= 0 and mesh.faces.max() < len(mesh.vertices)):
        raise CorruptData(
            f"faces name vertices {mesh.faces.min()}..{mesh.faces.max()}; there are "
            f"{len(mesh.vertices)}"
        )
    corners = mesh.corners()
    longest = np.linalg.norm(corners - np.roll(corners, 1, axis=1), axis=2).max(1)
    flat = 2 * mesh.areas() <= SMALLEST_HEIGHT * longest
    if flat.all():
        raise CorruptData(f"none of {len(mesh.faces)} triangles has an area; there is no surface")
    return mesh.select_faces(~flat)
