"""A surface and the cameras that saw it -> no face that one of them sees from behind.

Physics collides with the front of a triangle only, so a face that is seen from behind is a hole or
a ghost.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numba as nb
import numpy as np
from numpy.typing import NDArray

from worldloom.generator.surface.extract import Surface
from worldloom.scene.cameras import strided
from worldloom.scene.mesh import TriMesh

LOOK_STRIDE = 2  # Every second pixel of a frame is a ray that verifies the winding.
BEHIND_COSINE = 0.02  # A face seen at a flatter angle than this counts as seen edge-on.
BEHIND_SHARE = 0.02  # Relative depth within which a camera's own surface is that face.
ROUNDS = 40  # What was hidden by a removed face may be seen from behind too.
AHEAD, SAME, GHOST = 1, 2, 4
"""Marks of a face: its front was seen; its back where the camera saw a surface; its back in the
air before what the camera saw."""
FINE_ROUNDS = 2  # Of small faces, what these leave is so little that the final ones may find it.


class Look(Protocol):
    """A camera with its depth map; a Frame is one."""

    depth: NDArray[np.float32]
    c2w: NDArray[np.float64]
    K: NDArray[np.float64]


def surface_without_backs(surface: Surface, frames: Sequence[Look]) -> Surface:
    """The surface without what a camera sees from behind, or with it turned over; see `backs`.

    Done on the small triangles of a surface that is not yet simplified, it takes away no more than
    what was seen: a large triangle would leave a hole in what is sound.
    """
    found = backs(surface.mesh, frames, surface.voxel, rounds=FINE_ROUNDS)
    if not (found.turn.any() or found.drop.any()):
        return surface
    return replace(surface, mesh=_turned(surface.mesh, found.turn)).select(~found.drop)


def tiles_without_backs(
    tiles: Sequence[TriMesh], frames: Sequence[Look], voxel: float
) -> list[TriMesh]:
    """The same of all tiles together: what is written is what was verified."""
    found = backs(TriMesh.concat(list(tiles)), frames, voxel)
    ends = np.cumsum([len(tile.faces) for tile in tiles])[:-1]
    masks = zip(tiles, np.split(found.turn, ends), np.split(found.drop, ends), strict=True)
    return [_turned(tile, turn).select_faces(~drop) for tile, turn, drop in masks]


@dataclass(frozen=True)
class Backs:
    """What to do with faces that cameras see from behind; each [f]."""

    turn: NDArray[np.bool_]
    """Cameras saw a surface there and none its front: it is wound the wrong way."""
    drop: NDArray[np.bool_]
    """It should not be there."""


def backs(
    mesh: TriMesh, frames: Sequence[Look], voxel: float, *, rounds: int = ROUNDS
) -> Backs:
    """Faces that some camera sees from behind although its depth shows nothing in front.

    Args:
        mesh: World frame.
        frames: Depth maps with cameras.
        voxel: Voxel of level 0 [m].
        rounds: Looks at what the last one has left.
    """
    turn, drop = np.zeros((2, len(mesh.faces)), bool)
    looks = list(frames)
    for attempt in range(rounds if len(mesh.faces) else 0):
        left = np.flatnonzero(~drop)
        rest = TriMesh(mesh.vertices, _turned(mesh, turn).faces[left])
        found = [winding(rest, look, voxel) for look in looks]
        bad, over, front = np.zeros((3, len(left)), bool)
        for seen in found:
            bad[seen.behind] = True
            over[seen.turned] = True
            front[seen.ahead] = front[seen.ghost] = True
        if bad.any():
            over &= ~front & (attempt == 0)
            turn[left[over]] = True
            drop[left[bad & ~over]] = True
            # Mostly the cameras that saw it will see what was behind it; the others come last.
            looks = [look for look, seen in zip(looks, found, strict=True) if len(seen.behind)]
        elif len(looks) < len(frames):
            looks = list(frames)
        else:
            break
    return Backs(turn & ~drop, drop)


def _turned(mesh: TriMesh, over: NDArray[np.bool_]) -> TriMesh:
    """The mesh with some faces [f] wound the other way."""
    faces = np.where(over[:, None], mesh.faces[:, ::-1], mesh.faces)
    return TriMesh(mesh.vertices, faces, mesh.colors)


@dataclass(frozen=True)
class Winding:
    """What the rays of one camera tell of the faces that they meet first; numbers of faces."""

    behind: NDArray[np.int64]
    """Seen from behind although the camera's own depth shows nothing in front; `turned` and
    `ghost` together."""
    turned: NDArray[np.int64]
    """Where the camera itself saw a surface: the face is there but wound the wrong way."""
    ghost: NDArray[np.int64]
    """Where some ray looked through the face."""
    ahead: NDArray[np.int64]
    """Seen from the front."""


def winding(mesh: TriMesh, look: Look, voxel: float) -> Winding:
    """Verify the winding of a surface by the rays of a depth map.

    Physics collides with the front of a triangle only, so a face that is seen from behind is a
    hole or a ghost. A back that shows through a gap in the surface before it is right, and stays.

    Args:
        mesh: World frame.
        look: A depth map with its camera; depth 0 says that nothing is there.
        voxel: Voxel of level 0 [m]; depths that agree within one are the same surface.
    """
    from worldloom.render.zbuffer import view_mesh

    depth = look.depth[::LOOK_STRIDE, ::LOOK_STRIDE]
    K = strided(look.K, LOOK_STRIDE)
    view = view_mesh(mesh, look.c2w, K, (depth.shape[1], depth.shape[0]))
    centre = np.asarray(look.c2w, np.float64)[:3, 3]
    marks = _marks(
        view.face, view.depth, depth, mesh.vertices, mesh.faces, centre,
        voxel, BEHIND_COSINE, BEHIND_SHARE,
    )  # fmt: skip
    ghost = np.flatnonzero(marks & GHOST)
    turned = np.flatnonzero((marks & (SAME | GHOST)) == SAME)
    behind = np.flatnonzero(marks & (SAME | GHOST))
    return Winding(behind, turned, ghost, np.flatnonzero(marks & AHEAD))


@nb.njit(cache=True, error_model="numpy")
def _marks(face, z, own, vertices, faces, centre, voxel, cosine, share):
    """What the pixels [h w] tell of the faces that they show: AHEAD, SAME and GHOST, [f]."""
    out = np.zeros(faces.shape[0], np.uint8)
    a, u, v, ray = np.zeros(3), np.zeros(3), np.zeros(3), np.zeros(3)
    for row in range(face.shape[0]):
        for column in range(face.shape[1]):
            f = face[row, column]
            if f < 0:
                continue
            for r in range(3):
                a[r] = vertices[faces[f, 0], r]
                u[r] = vertices[faces[f, 1], r] - a[r]
                v[r] = vertices[faces[f, 2], r] - a[r]
                ray[r] = a[r] - centre[r]
            nx, ny = u[1] * v[2] - u[2] * v[1], u[2] * v[0] - u[0] * v[2]
            nz = u[0] * v[1] - u[1] * v[0]
            along = nx * ray[0] + ny * ray[1] + nz * ray[2]
            if along < 0:
                out[f] |= AHEAD
                continue
            size = math.sqrt(nx * nx + ny * ny + nz * nz)
            if along <= cosine * size * math.sqrt(ray[0] ** 2 + ray[1] ** 2 + ray[2] ** 2):
                continue
            known, at = own[row, column] > 0, z[row, column]
            near = own[row, column] * share + voxel
            if known and abs(at - own[row, column]) <= near:
                out[f] |= SAME
            elif not known or at <= own[row, column] + near:
                out[f] |= GHOST
    return out
