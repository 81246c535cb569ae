"""Solids -> the exact mesh of what can be seen of them: hidden and doubled faces cut away.

Every face is a convex polygon. What other solids cover of it is cut off plane by plane, so that
the mesh is the boundary between solid and free space, wound outward, and nothing else.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from worldloom.generator.truth.scene import TruthScene
from worldloom.generator.truth.solids import BOX, FACE_SLOTS, SIDE, Solid
from worldloom.scene.mesh import TriMesh

FACETS = 64  # Sides of a cylinder's mantle; off the true circle by 0.12 % of the radius.
OFFSET_M = 1e-7  # A face is tested this far outside and inside itself.
SLIVER_M2 = 1e-10  # Smaller pieces are rounding.

Polygon = NDArray[np.float64]


def mesh(scene: TruthScene) -> TriMesh:
    """The surface of a scene inside its bounds; faces point into free space."""
    return mesh_with_surfaces(scene)[0]


def mesh_with_surfaces(scene: TruthScene) -> tuple[TriMesh, NDArray[np.int64]]:
    """The mesh, and the number of the surface that each of its triangles lies on, shape [f]."""
    planes = [solid.planes(FACETS) for solid in scene.solids]
    vertices: list[Polygon] = []
    faces: list[NDArray[np.int64]] = []
    surfaces: list[int] = []
    count = 0
    for index, solid in enumerate(scene.solids):
        for face, polygon, normal in _faces(solid):
            for piece in _exposed(polygon, normal, index, planes, scene.bounds):
                fan = np.arange(1, len(piece) - 1)
                faces.append(count + np.column_stack([np.zeros_like(fan), fan, fan + 1]))
                vertices.append(piece)
                surfaces += [index * FACE_SLOTS + face] * len(fan)
                count += len(piece)
    out = TriMesh(
        np.concatenate(vertices).astype(np.float32), np.concatenate(faces).astype(np.int32)
    )
    return out, np.array(surfaces, np.int64)


def _faces(solid: Solid) -> list[tuple[int, Polygon, NDArray[np.float64]]]:
    """Face number, polygon [k 3] counter-clockwise from outside, and normal [3] of each face."""
    around = 4 if solid.kind == BOX else FACETS
    if solid.kind == BOX:
        hx, hy = solid.half[:2]
        rim = np.array([[-hx, -hy], [hx, -hy], [hx, hy], [-hx, hy]])
    else:
        angle = np.arange(FACETS) * 2 * math.pi / FACETS
        rim = solid.half[0] * np.stack([np.cos(angle), np.sin(angle)], -1)
    cosine, sine = math.cos(solid.yaw_rad), math.sin(solid.yaw_rad)
    rim = rim @ np.array([[cosine, sine], [-sine, cosine]]) + solid.centre[:2]
    low, high = (np.column_stack([rim, np.full(around, solid.centre[2] + s * solid.half[2])])
                 for s in (-1, 1))  # fmt: skip
    out = [(4, low[::-1], np.array([0.0, 0.0, -1.0])), (5, high, np.array([0.0, 0.0, 1.0]))]
    side_of = (2, 1, 3, 0) if solid.kind == BOX else (SIDE,) * FACETS
    for k in range(around):
        j = (k + 1) % around
        polygon = np.stack([low[k], low[j], high[j], high[k]])
        edge = rim[j] - rim[k]
        normal = np.array([edge[1], -edge[0], 0.0]) / np.linalg.norm(edge)
        out.append((side_of[k], polygon, normal))
    return out


def _exposed(
    polygon: Polygon,
    normal: NDArray[np.float64],
    index: int,
    planes: list[NDArray[np.float64]],
    bounds: NDArray[np.float64],
) -> list[Polygon]:
    """The parts of a face that border on free space inside the bounds."""
    box = np.concatenate([np.column_stack([np.eye(3), bounds[1]]),
                          np.column_stack([-np.eye(3), -bounds[0]])])  # fmt: skip
    inside = _split(polygon, box, 0.0)[0]
    pieces = [] if inside is None else [inside]
    for other, solid in enumerate(planes):
        if other == index or not pieces:
            continue
        pieces = _subtract(pieces, solid, normal, OFFSET_M)
        # Of two faces in one place, looking the same way, the later solid's gives way.
        if other < index:
            pieces = _subtract(pieces, solid, normal, -OFFSET_M)
    return [piece for piece in pieces if _area(piece) > SLIVER_M2]


def _subtract(
    pieces: list[Polygon], solid: NDArray[np.float64], normal: NDArray[np.float64], lift: float
) -> list[Polygon]:
    """Cut away what a convex solid holds of `pieces` when they are lifted along their normal."""
    shift = solid[:, :3] @ normal * lift
    lifted = np.column_stack([solid[:, :3], solid[:, 3] - shift])
    out: list[Polygon] = []
    for piece in pieces:
        # Most solids are elsewhere: a piece wholly outside one plane is untouched.
        if ((piece @ lifted[:, :3].T - lifted[:, 3]) >= 0).all(0).any():
            out.append(piece)
        else:
            out += _split(piece, lifted, 0.0)[1]
    return out


def _split(
    polygon: Polygon, planes: NDArray[np.float64], slack: float
) -> tuple[Polygon | None, list[Polygon]]:
    """A convex polygon as its part inside all half-spaces, and convex pieces of the rest."""
    rest: list[Polygon] = []
    inside: Polygon | None = polygon
    for plane in planes:
        distance = inside @ plane[:3] - plane[3] - slack
        if (distance <= 0).all():
            continue
        if (distance >= 0).all():
            return None, [*rest, inside]
        rest.append(_cut(inside, -distance))
        inside = _cut(inside, distance)
    return inside, rest


def _cut(polygon: Polygon, distance: NDArray[np.float64]) -> Polygon:
    """The part of a convex polygon [k 3] whose signed distance [k] to a plane is not above 0."""
    out = []
    for a, b, da, db in zip(
        polygon, np.roll(polygon, -1, 0), distance, np.roll(distance, -1), strict=True
    ):
        if da <= 0:
            out.append(a)
        if (da < 0 < db) or (db < 0 < da):
            out.append(a + da / (da - db) * (b - a))
    return np.array(out)


def _area(polygon: Polygon) -> float:
    if len(polygon) < 3:
        return 0.0
    cross = np.cross(polygon[1:-1] - polygon[0], polygon[2:] - polygon[0])
    return 0.5 * float(np.linalg.norm(cross.sum(0)))
