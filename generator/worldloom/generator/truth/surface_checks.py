"""A collider and the frames that it was made from -> cracks, invented, inward and dense triangles.

Four of the numbers that a surface is held to (issue 4): they need no truth, only the depth maps and
cameras of the keyframes. What counts as seen is decided by those depth maps, never by the surface.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numba as nb
import numpy as np
from numpy.typing import NDArray

from worldloom.generator.surface.depthmaps import depth_geometry
from worldloom.generator.surface.plan import LevelPlan
from worldloom.generator.surface.simplify import border_edges
from worldloom.scene.cameras import strided
from worldloom.scene.frame import invert_rigid
from worldloom.scene.mesh import TriMesh

WELD_M = 1e-4  # Vertices of different tiles nearer than this are one (issue 4).
INSIDE_VOXELS = 2.0 + 0.87
"""A border more than 2 voxels inside the observed mask is a crack (issue 4); the mask ends at the
faces of a voxel, up to 0.87 from its middle. Voxels are those of the level at which it was seen."""
SHELL = 128  # Places on a sphere around a border that must be observed.
BAND_VOXELS = 3.5  # Observed reaches so far to both sides of a surface: a fusion knows 4 voxels.
CLEAR_COSINE = 0.35  # A camera must see that surface at less than 70 degrees.
SAME_VOXELS = 0.5  # Depth within which a pixel shows a point, in voxels,
SAME_SHARE = 0.005  # or relative.
FRONT_VOXELS = 1.0  # So far in front of a triangle space must have been seen.
BEHIND_COSINE = 0.02  # Faces seen at a flatter angle are edge-on.
FLOOR_NORMAL, FLOOR_BAND_M = 0.9, 0.15
"""Triangles that count as floor: nearly level, and within this of the lowest common height."""
RAYS_STRIDE = 2  # Every second pixel is a ray for the inward-facing check.


class Look(Protocol):
    """A depth map [h w] in metres (0 = none) with its camera; a Frame is one."""

    depth: NDArray[np.float32]
    c2w: NDArray[np.float64]
    K: NDArray[np.float64]


@dataclass(frozen=True)
class SurfaceChecks:
    """What is wrong with a collider."""

    border_edges: int
    """Edges that one triangle alone has, after welding."""
    crack_edges: int
    """Those more than two voxels inside what cameras saw of the surface."""
    crack_m: float
    """Their length together [m]."""
    invented_share: float
    """Area share of the triangles whose front no camera saw."""
    inward: int
    """Triangles that some camera sees from behind with nothing of its depth in front."""
    triangles: int
    """All triangles."""
    per_100_m2: float
    """Triangles for every 100 square metres of floor."""


def check_surface(
    tiles: Sequence[TriMesh], frames: Sequence[Look], *, plan: LevelPlan
) -> SurfaceChecks:
    """Check a collider.

    Args:
        tiles: Its tiles, world frame.
        frames: Depth maps that it was made from.
        plan: Voxels by distance.
    """
    voxel = plan.voxel
    mesh = welded(TriMesh.concat(list(tiles)))
    edges = border_edges(mesh.faces)
    cracks = crack_edges(mesh, frames, plan=plan)
    length = np.linalg.norm(np.diff(mesh.vertices[edges[cracks]].astype(float), axis=1), axis=-1)
    floor = floor_area(mesh)
    return SurfaceChecks(
        border_edges=len(edges),
        crack_edges=int(cracks.sum()),
        crack_m=float(length.sum()),
        invented_share=invented_share(mesh, frames, voxel=voxel),
        inward=int(inward_faces(mesh, frames, voxel=voxel).sum()),
        triangles=len(mesh.faces),
        per_100_m2=100 * len(mesh.faces) / floor if floor > 0 else float("inf"),
    )


def welded(mesh: TriMesh, *, within_m: float = WELD_M) -> TriMesh:
    """The mesh with vertices nearer than `within_m` made one; faces that collapse are dropped."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components
    from scipy.spatial import cKDTree

    if len(mesh.faces) == 0:
        return mesh
    pairs = cKDTree(mesh.vertices).query_pairs(within_m, output_type="ndarray")
    count = len(mesh.vertices)
    graph = coo_matrix((np.ones(len(pairs), np.int8), (pairs[:, 0], pairs[:, 1])), (count, count))
    _, label = connected_components(graph, directed=False)
    first = np.zeros(label.max() + 1, np.int64)
    first[label[::-1]] = np.arange(count)[::-1]
    faces = label[mesh.faces].astype(np.int32)
    whole = (faces != np.roll(faces, -1, axis=1)).all(1)
    return TriMesh(mesh.vertices[first], faces[whole])


def crack_edges(
    mesh: TriMesh, frames: Sequence[Look], *, plan: LevelPlan
) -> NDArray[np.bool_]:
    """Which border edges lie inside the observed mask, [e] in the order of `border_edges`.

    Observed is what lies within the truncation of a surface that a camera sees clearly (no depth
    edge, less than 70 degrees). A border is more than two voxels inside when all of a ball of that
    radius around its middle is observed: nothing unseen is near that could end the surface. Far
    looks have coarse voxels (`LevelPlan.level_of`), so each level is asked with its own ball, and
    with the looks that are as fine as that.
    """
    edges = border_edges(mesh.faces)
    if len(edges) == 0:
        return np.zeros(0, bool)
    middle = mesh.vertices[edges].astype(np.float64).mean(1)
    cracks = np.zeros(len(edges), bool)
    for level in range(plan.levels):
        ball = INSIDE_VOXELS * plan.voxel_at(level) * _ball()
        points = (middle[~cracks, None] + ball).reshape(-1, 3)
        seen = _observed(points, frames, plan, level).reshape(-1, len(ball)).all(1)
        cracks[~cracks] = seen
    return cracks


def _observed(
    points: NDArray[np.float64], frames: Sequence[Look], plan: LevelPlan, level: int
) -> NDArray[np.bool_]:
    """Whether a look of at most `level` has each point [n 3] within its truncation."""
    seen = np.zeros(len(points), bool)
    reach = plan.near * 2 ** (level + 1) if level < plan.levels - 1 else np.inf
    for frame in frames:
        geometry = depth_geometry(frame.depth, frame.K)
        clear = np.where(geometry.valid & (geometry.facing > CLEAR_COSINE), geometry.facing, 0)
        seen |= _within_truncation(
            points,
            np.ascontiguousarray(frame.depth, np.float32),
            clear.astype(np.float32),
            invert_rigid(frame.c2w),
            np.asarray(frame.K, np.float64),
            BAND_VOXELS * plan.voxel,
            plan.near,
            reach,
        )
    return seen


def invented_share(mesh: TriMesh, frames: Sequence[Look], *, voxel: float) -> float:
    """Area share of the triangles in front of which no camera saw free space or a surface."""
    area = mesh.areas()
    if area.sum() == 0:
        return 0.0
    front = mesh.corners().mean(1) + FRONT_VOXELS * voxel * mesh.normals()
    seen = np.zeros(len(mesh.faces), bool)
    for frame in frames:
        known = frame.depth > 0
        shown, before = _compare(front, frame, known, voxel)
        seen |= shown | before
    return float(area[~seen].sum() / area.sum())


def inward_faces(mesh: TriMesh, frames: Sequence[Look], *, voxel: float) -> NDArray[np.bool_]:
    """Faces that a camera sees from behind although its depth shows nothing in front, [f]."""
    from worldloom.render.zbuffer import view_mesh

    out, normals = np.zeros(len(mesh.faces), bool), mesh.normals()
    start = mesh.vertices.astype(np.float64)[mesh.faces[:, 0]]
    for frame in frames:
        depth = frame.depth[::RAYS_STRIDE, ::RAYS_STRIDE]
        K = strided(frame.K, RAYS_STRIDE)
        view = view_mesh(mesh, frame.c2w, K, (depth.shape[1], depth.shape[0]))
        hit = view.face >= 0
        face, z, own = view.face[hit], view.depth[hit], depth[hit]
        ray = start[face] - frame.c2w[:3, 3]
        behind = np.sum(normals[face] * ray, -1) > BEHIND_COSINE * np.linalg.norm(ray, axis=-1)
        nothing = ~(own > 0) | (z <= own * (1 + SAME_SHARE) + voxel)
        out[face[behind & nothing]] = True
    return out


def floor_area(mesh: TriMesh) -> float:
    """Area of the nearly level triangles at the commonest low height [m^2]."""
    area = mesh.areas()
    level = mesh.normals()[:, 2] > FLOOR_NORMAL
    if not level.any():
        return 0.0
    height = mesh.corners()[:, :, 2].mean(1)
    bins = np.round(height[level] / FLOOR_BAND_M).astype(np.int64)
    values, inverse = np.unique(bins, return_inverse=True)
    share = np.bincount(inverse.reshape(-1), area[level])
    # The lowest height that holds a good part of what is level: tables do not count.
    common = values[share >= 0.25 * share.max()].min() * FLOOR_BAND_M
    return float(area[level & (np.abs(height - common) <= FLOOR_BAND_M)].sum())


def _ball() -> NDArray[np.float64]:
    """Places in a unit ball: its middle, and shells at 0.5, 0.8 and 1 of the radius, [n 3]."""
    n = np.arange(SHELL) + 0.5
    # Fibonacci's sphere: even spacing in height, golden angle around.
    z, angle = 1 - 2 * n / SHELL, n * np.pi * (3 - np.sqrt(5))
    ring = np.sqrt(1 - z * z)
    shell = np.stack([ring * np.cos(angle), ring * np.sin(angle), z], -1)
    return np.concatenate([np.zeros((1, 3)), 0.5 * shell, 0.8 * shell, shell])


def _compare(
    points: NDArray[np.float64], frame: Look, clear: NDArray[np.bool_], voxel: float
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which points [n 3] the frame shows (at pixels `clear`), and which lie before its surface."""
    state = _states(
        np.ascontiguousarray(points, np.float64),
        np.ascontiguousarray(frame.depth, np.float32),
        clear,
        invert_rigid(frame.c2w),
        np.asarray(frame.K, np.float64),
        SAME_VOXELS * voxel,
    )
    return state == 1, state == 2


@nb.njit(cache=True, inline="always")
def _pixel(point, w2c, K, height, width):
    """Row and column (-1 outside) that show a point, its depth, and ray length over depth."""
    x = w2c[0, 0] * point[0] + w2c[0, 1] * point[1] + w2c[0, 2] * point[2] + w2c[0, 3]
    y = w2c[1, 0] * point[0] + w2c[1, 1] * point[1] + w2c[1, 2] * point[2] + w2c[1, 3]
    z = w2c[2, 0] * point[0] + w2c[2, 1] * point[1] + w2c[2, 2] * point[2] + w2c[2, 3]
    if z <= 0:
        return -1, -1, z, 1.0
    x, y = x / z, y / z
    u, v = K[0, 0] * x + K[0, 2], K[1, 1] * y + K[1, 2]
    if u < 0 or v < 0 or u >= width or v >= height:
        return -1, -1, z, 1.0
    return int(v), int(u), z, np.sqrt(x * x + y * y + 1)


@nb.njit(cache=True, parallel=True)
def _states(points, depth, clear, w2c, K, tolerance):
    """0 not told, 1 shown, 2 before the surface, for each point."""
    height, width = depth.shape
    out = np.zeros(points.shape[0], np.uint8)
    for n in nb.prange(points.shape[0]):
        row, column, z, _ = _pixel(points[n], w2c, K, height, width)
        if row < 0 or not clear[row, column]:
            continue
        own = depth[row, column]
        near = max(tolerance, SAME_SHARE * own)
        # Between pixels a slanted surface changes depth: the pixels around may show it too.
        least, most = own, own
        for dr in range(-1, 2):
            for dc in range(-1, 2):
                i, j = row + dr, column + dc
                if 0 <= i < height and 0 <= j < width and clear[i, j]:
                    least, most = min(least, depth[i, j]), max(most, depth[i, j])
        if least - near <= z <= most + near:
            out[n] = 1
        elif z < own:
            out[n] = 2
    return out


@nb.njit(cache=True, parallel=True)
def _within_truncation(points, depth, clear, w2c, K, band, near, reach):
    """Whether each point lies within the band of the surface at its pixel; `clear` is its cosine.

    The band is `band` up to twice the distance `near`, twice as wide up to four times, and so on;
    surface beyond `reach` tells nothing.
    """
    height, width = depth.shape
    out = np.zeros(points.shape[0], np.bool_)
    for n in nb.prange(points.shape[0]):
        row, column, z, stretch = _pixel(points[n], w2c, K, height, width)
        if row < 0 or clear[row, column] <= 0:
            continue
        distance = depth[row, column] * stretch
        if distance >= reach:
            continue
        wide, limit = band, 2 * near
        while distance >= limit and limit < reach:
            wide, limit = 2 * wide, 2 * limit
        out[n] = abs((depth[row, column] - z) * stretch * clear[row, column]) <= wide
    return out
