"""A dense surface -> few triangles within a stated distance, borders kept (quadric edge collapse).

Garland and Heckbert 1997: each vertex carries the sum of squared distances to the planes of all
triangles that were merged into it. An edge collapses only while that sum stays below the square of
the bound, so no vertex is farther than the bound from any plane it stands for. Locked vertices
stay where they are; open borders may lose vertices along themselves within the same bound.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from worldloom.generator.surface.collapse import border_of, collapse_pass, quadrics, rings
from worldloom.scene.mesh import TriMesh

FIRST_SHARE, STEP = 1e-3, 6.0
"""Passes begin at this share of the squared bound, which rises by this factor."""
ENOUGH = 0.02  # At the full bound, passes end when one removes less than this share of the faces.
MAX_PASSES = 60
OVER_BOUND = 2.0  # Where a budget cannot be met within the bound, the bound rises by this factor.
OVER_BOUND_MOST = 4096.0  # It rises no further than this; the budget is then not met.


@dataclass(frozen=True)
class Simplified:
    """A simplified mesh and where it came from."""

    mesh: TriMesh
    """The triangles that are left, with the colours of the vertices that are left."""
    face: NDArray[np.int64]
    """Which face each one was, [f]."""
    vertex: NDArray[np.int64]
    """Which vertex each one was, [v]."""
    over_bound: float
    """1 when the bound was kept; else the factor by which a budget made it rise."""


def simplify(
    mesh: TriMesh,
    bound: ArrayLike,
    *,
    locked: NDArray[np.bool_] | None = None,
    target: int | None = None,
) -> Simplified:
    """Collapse edges while the surface stays within `bound`.

    Args:
        mesh: Any triangles; equal meshes give equal results.
        bound: Largest distance [m], one number or one for each vertex [v].
        locked: Vertices that must stay where they are, [v].
        target: Faces that are enough; and when the bound leaves more, the bound rises until there
            are no more than these.
    """
    faces = np.ascontiguousarray(mesh.faces, np.int32).copy()
    if len(faces) == 0:
        return Simplified(mesh, np.zeros(0, np.int64), np.arange(len(mesh.vertices)), 1.0)
    centre = mesh.vertices.astype(np.float64).mean(0)
    points = mesh.vertices.astype(np.float64) - centre
    bound = np.ascontiguousarray(np.broadcast_to(np.asarray(bound, np.float64), len(points))).copy()
    held = (
        np.zeros(len(points), np.bool_) if locked is None else np.asarray(locked, np.bool_).copy()
    )
    alive = np.ones(len(faces), np.bool_)
    over = _reduce(points, faces, bound, held, alive, -1 if target is None else int(target))
    kept = np.flatnonzero(alive)
    vertices = mesh.vertices.copy()
    moved = ~held
    vertices[moved] = (points[moved] + centre).astype(np.float32)
    used = np.zeros(len(points), bool)
    used[faces[kept].ravel()] = True
    small = compacted(TriMesh(vertices, faces, mesh.colors), kept)
    return Simplified(small, kept, np.flatnonzero(used), over)


def compacted(mesh: TriMesh, part: ArrayLike) -> TriMesh:
    """The faces `part` (booleans or numbers) with only the vertices that they use."""
    faces = mesh.faces[np.asarray(part)]
    used = np.zeros(len(mesh.vertices), bool)
    used[faces.ravel()] = True
    number = np.cumsum(used, dtype=np.int32) - 1
    colors = None if mesh.colors is None else mesh.colors[used]
    return TriMesh(mesh.vertices[used], number[faces].astype(np.int32), colors)


def _reduce(
    points: NDArray[np.float64],
    faces: NDArray[np.int32],
    bound: NDArray[np.float64],
    held: NDArray[np.bool_],
    alive: NDArray[np.bool_],
    target: int,
) -> float:
    """Collapse in place; returns by how much the bound had to rise."""
    start, ring = rings(faces, alive, len(points))
    sums, border = quadrics(points, faces, start, ring)
    share, over = FIRST_SHARE, 1.0
    active = alive.copy()
    for _ in range(MAX_PASSES):
        before = int(alive.sum())
        if target >= 0 and before <= target:
            break
        start, ring = rings(faces, alive, len(points))
        gone = collapse_pass(
            points, faces, alive, active, sums, border, held, bound, start, ring,
            share * over * over, before - target if target >= 0 else before,
        )  # fmt: skip
        if share < 1:
            share = min(1.0, share * STEP)
            active[:] = True
        elif gone < ENOUGH * before:
            if target < 0 or over >= OVER_BOUND_MOST:
                break
            over *= OVER_BOUND
            active[:] = True
    return over


def border_edges(faces: NDArray[np.int32]) -> NDArray[np.int32]:
    """Directed edges [e 2] of faces [f 3] that no face has the other way round nor again."""
    if len(faces) == 0:
        return np.zeros((0, 2), np.int32)
    faces = np.ascontiguousarray(faces, np.int32)
    start, ring = rings(faces, np.ones(len(faces), np.bool_), int(faces.max()) + 1)
    return border_of(faces, start, ring)
