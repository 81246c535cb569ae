"""Small holes in flat surface -> closed, within a documented limit and only where cameras looked.

A wheel that meets a hole of a few centimetres falls into it although the cameras saw that there is
floor; a large hole, or one that nobody looked at, is unknown ground and stays open. Walls and table
tops are treated alike.
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
FLAT_COSINE = 0.85  # The faces around a hole turn by less than this (32 degrees) from their mean.
RELIEF_VOXELS = 1.0  # A border that is less flat than this is not a hole in one surface.
FRONT_VOXELS = 1.0  # Free space must have been seen so far in front of the hole.


def close_holes(surface: Surface, observed: Observed) -> Surface:
    """Close holes in flat surface whose border is at most `HOLE_VOXELS` long.

    A hole is closed by a fan around its middle, and only if cameras looked at every part of it.
    """
    mesh = surface.mesh
    if len(mesh.faces) == 0:
        return surface
    edges = border_edges(mesh.faces)
    voxel = surface.voxel * 2.0 ** surface.vertex_level().astype(float)
    around = _normals_at(mesh, np.unique(edges))
    rings = []
    for ring in loops(edges):
        points, normals = mesh.vertices[ring].astype(np.float64), around[ring]
        normal = normals.sum(0) / max(float(np.linalg.norm(normals.sum(0))), 1e-12)
        if not (normals @ normal > FLAT_COSINE).all():
            continue
        size = float(voxel[ring].max())
        if _is_small_hole(points, normal, size) and _looked_at(points, normal, size, observed):
            rings.append((ring, normal))
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


def _normals_at(mesh: TriMesh, wanted: NDArray[np.integer]) -> NDArray[np.float64]:
    """Unit normals [v 3] of the vertices `wanted`, means of their faces; zero elsewhere."""
    mark = np.zeros(len(mesh.vertices), bool)
    mark[wanted] = True
    near = mesh.faces[mark[mesh.faces].any(1)]
    a, b, c = (mesh.vertices[near[:, k]].astype(np.float64) for k in range(3))
    cross = np.cross(b - a, c - a)
    out = np.zeros((len(mesh.vertices), 3))
    for k in range(3):
        np.add.at(out, near[:, k], cross)
    return out / np.maximum(np.linalg.norm(out, axis=1, keepdims=True), 1e-30)


def _is_small_hole(ring: NDArray[np.float64], normal: NDArray[np.float64], voxel: float) -> bool:
    """Whether a border loop [n 3] is short, flat, and runs around a hole (not an island)."""
    after = np.roll(ring, -1, axis=0)
    if np.linalg.norm(after - ring, axis=1).sum() > HOLE_VOXELS * voxel:
        return False
    if np.ptp(ring @ normal) > RELIEF_VOXELS * voxel:
        return False
    # Faces lie on the left of their border: around a hole it runs clockwise seen from in front.
    middle = ring.mean(0)
    return float(np.cross(ring - middle, after - middle).sum(0) @ normal) < 0


def _looked_at(
    ring: NDArray[np.float64], normal: NDArray[np.float64], voxel: float, observed: Observed
) -> bool:
    """Whether every sampled place inside a border loop [n 3] was seen by some camera."""
    middle = ring.mean(0)
    samples = np.concatenate([middle[None], 0.5 * (ring + middle)])
    return bool((observed.look(samples + FRONT_VOXELS * voxel * normal) != UNSEEN).all())


def _fanned(
    surface: Surface, rings: list[tuple[NDArray[np.int64], NDArray[np.float64]]]
) -> Surface:
    """The surface with a fan in each ring, wound as the faces around it."""
    mesh = surface.mesh
    vertices, colors, weight, faces, level = [], [], [], [], []
    finest = surface.vertex_level()
    for ring, front in rings:
        number = len(mesh.vertices) + len(vertices)
        middle = mesh.vertices[ring].mean(0)
        fan = np.column_stack([np.roll(ring, -1), ring, np.full(len(ring), number)])
        corner = np.concatenate([mesh.vertices, middle[None]])[np.minimum(fan, len(mesh.vertices))]
        normal = np.cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0])
        if (normal @ front <= 0).any():
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
