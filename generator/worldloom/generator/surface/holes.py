"""Small holes in the floor -> closed, within a documented limit and only where cameras looked.

A wheel that meets a hole of a few centimetres falls into it although the cameras saw that there is
floor; a large hole, or one that nobody looked at, is unknown ground and stays open.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from worldloom.generator.surface.extract import Surface
from worldloom.generator.surface.observed import UNSEEN, Observed
from worldloom.generator.surface.simplify import border_edges
from worldloom.scene.mesh import TriMesh

HOLE_VOXELS = 20.0  # Longest border of a hole that is closed, in voxels (spec 4.2): 40 cm at 2 cm.
FLOOR_NORMAL = 0.85  # z of the normals around a hole; floors and ramps up to 32 degrees.
RELIEF_VOXELS = 1.0  # A border that is less flat than this is not a hole in one floor.
ABOVE_VOXELS = 1.0  # Free space must have been seen so high above the hole.


def close_floor_holes(surface: Surface, observed: Observed) -> Surface:
    """Close the holes of the floor whose border is at most `HOLE_VOXELS` long.

    A hole is closed by a fan around its middle, and only if cameras looked at every part of it.
    """
    mesh = surface.mesh
    if len(mesh.faces) == 0:
        return surface
    voxel = surface.voxel * 2.0 ** surface.vertex_level().astype(float)
    floor = _floor_vertices(mesh)
    rings = [
        ring
        for ring in loops(border_edges(mesh.faces))
        if floor[ring].all() and _is_small_hole(mesh.vertices[ring], float(voxel[ring].max()))
    ]
    rings = _looked_at(mesh, rings, voxel, observed)
    return _fanned(surface, rings) if rings else surface


def loops(edges: NDArray[np.int32]) -> list[NDArray[np.int64]]:
    """Closed loops of directed border edges [e 2]; where borders touch, nothing is followed."""
    start, counts = np.unique(edges[:, 0], return_counts=True)
    single = set(start[counts == 1].tolist())
    follow = {a: b for a, b in edges.tolist() if a in single}
    out, done = [], set()
    for first in sorted(follow):
        if first in done:
            continue
        ring, at = [], first
        while at in follow and at not in done:
            done.add(at)
            ring.append(at)
            at = follow[at]
        if at == first and len(ring) >= 3:
            out.append(np.array(ring))
    return out


def _floor_vertices(mesh: TriMesh) -> NDArray[np.bool_]:
    """Vertices all of whose faces are nearly level and face up, [v]."""
    cross = mesh.cross()
    steep = cross[:, 2] <= FLOOR_NORMAL * np.linalg.norm(cross, axis=1)
    out = np.ones(len(mesh.vertices), bool)
    out[mesh.faces[steep].ravel()] = False
    return out


def _is_small_hole(ring: NDArray[np.float32], voxel: float) -> bool:
    """Whether a border loop [n 3] is short, flat, and runs around a hole (not an island)."""
    step = np.roll(ring, -1, axis=0) - ring
    if np.linalg.norm(step, axis=1).sum() > HOLE_VOXELS * voxel:
        return False
    if np.ptp(ring[:, 2]) > RELIEF_VOXELS * voxel:
        return False
    # Faces lie on the left of their border: around a hole it runs clockwise seen from above.
    x, y = ring[:, 0] - ring[0, 0], ring[:, 1] - ring[0, 1]
    return float(np.sum(x * np.roll(y, -1) - y * np.roll(x, -1))) < 0


def _looked_at(
    mesh: TriMesh,
    rings: list[NDArray[np.int64]],
    voxel: NDArray[np.float64],
    observed: Observed,
) -> list[NDArray[np.int64]]:
    """The rings inside which every sampled place was seen by some camera."""
    kept = []
    for ring in rings:
        border = mesh.vertices[ring].astype(np.float64)
        middle = border.mean(0)
        samples = np.concatenate([middle[None], 0.5 * (border + middle)])
        samples[:, 2] += ABOVE_VOXELS * voxel[ring].max()
        if (observed.look(samples) != UNSEEN).all():
            kept.append(ring)
    return kept


def _fanned(surface: Surface, rings: list[NDArray[np.int64]]) -> Surface:
    """The surface with a fan in each ring, wound as the faces around it."""
    mesh = surface.mesh
    vertices, colors, weight, faces, level = [], [], [], [], []
    finest = surface.vertex_level()
    for ring in rings:
        number = len(mesh.vertices) + len(vertices)
        middle = mesh.vertices[ring].mean(0)
        fan = np.column_stack([np.roll(ring, -1), ring, np.full(len(ring), number)])
        corner = np.concatenate([mesh.vertices, middle[None]])[np.minimum(fan, len(mesh.vertices))]
        normal = np.cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0])
        if (normal[:, 2] <= 0).any():
            continue  # Not star-shaped: a fan would fold.
        vertices.append(middle)
        faces.append(fan)
        level.append(np.full(len(ring), finest[ring].max(), np.int8))
        weight.append(surface.weight[ring].min())
        if mesh.colors is not None:
            colors.append(mesh.colors[ring].mean(0))
    if not faces:
        return surface
    return replace(
        surface,
        mesh=TriMesh(
            np.concatenate([mesh.vertices, np.array(vertices, np.float32)]),
            np.concatenate([mesh.faces, *faces]).astype(np.int32),
            None
            if mesh.colors is None
            else np.concatenate([mesh.colors, np.array(colors, np.float32)]),
        ),
        level=np.concatenate([surface.level, *level]),
        weight=np.concatenate([surface.weight, np.array(weight, np.float32)]),
    )
