"""The fused volume -> one surface with colours, levels and how well each vertex was seen."""

from __future__ import annotations

from dataclasses import dataclass

import numba as nb
import numpy as np
from numpy.typing import ArrayLike, NDArray

from worldloom.generator.surface.dual import contour
from worldloom.generator.surface.integrate import COLOUR_LEVELS
from worldloom.generator.surface.keys import find, pack
from worldloom.generator.surface.levels import LevelVolume
from worldloom.generator.surface.octree import build_octree
from worldloom.generator.surface.simplify import compacted
from worldloom.scene.mesh import TriMesh


@dataclass(frozen=True)
class Surface:
    """A surface and what the later stages need to know of it."""

    mesh: TriMesh
    """World frame [m], faces towards free space, vertex colours."""
    level: NDArray[np.int8]
    """Level of each face: its voxel is `voxel * 2^level`, [f]."""
    weight: NDArray[np.float32]
    """Votes behind each vertex; one look at near distance, straight on, is 1, [v]."""
    voxel: float
    """Voxel of level 0 [m]."""

    @staticmethod
    def empty(voxel: float) -> Surface:
        """No surface at all."""
        return Surface(TriMesh.empty(), np.zeros(0, np.int8), np.zeros(0, np.float32), voxel)

    def select(self, mask: ArrayLike) -> Surface:
        """The faces at `mask` (booleans or numbers, [f]) with the vertices that they use."""
        used = np.zeros(len(self.mesh.vertices), bool)
        used[self.mesh.faces[np.asarray(mask)].ravel()] = True
        mesh = compacted(self.mesh, np.asarray(mask))
        return Surface(mesh, self.level[np.asarray(mask)], self.weight[used], self.voxel)

    def vertex_level(self) -> NDArray[np.int8]:
        """Finest level of the faces around each vertex, [v]."""
        out = np.full(len(self.mesh.vertices), 127, np.int8)
        # Coarse first, so that finer faces overwrite them.
        for level in np.unique(self.level)[::-1]:
            out[self.mesh.faces[self.level == level].ravel()] = level
        return out


def extract_surface(volume: LevelVolume) -> Surface:
    """The zero level of a volume: closed where it is measured, open where it is not."""
    if volume.blocks == 0:
        return Surface.empty(volume.plan.voxel)
    tree = build_octree(volume)
    dual = contour(tree, voxel=volume.plan.voxel)
    if len(dual.faces) == 0:
        return Surface.empty(volume.plan.voxel)
    points, level = dual.points, tree.coords[dual.home[:, 0], 0]
    keys, values = volume.table
    colors, weight = _sampled(points, level, volume.rgb, volume.weight, volume.tsdf, keys, values)
    vertices = (points * volume.plan.voxel + volume.origin).astype(np.float32)
    mesh = TriMesh(vertices, dual.faces, colors)
    return Surface(mesh, dual.level, weight, volume.plan.voxel)


@nb.njit(cache=True, parallel=True)
def _sampled(points, level, rgb, weight, tsdf, keys, values):
    """Colour 0..1 [v 3] and weight [v] of points [v 3] from the samples around at their level."""
    count = points.shape[0]
    colors = np.full((count, 3), 0.5, np.float32)
    amount = np.zeros(count, np.float32)
    for v in nb.prange(count):
        size = float(1 << level[v])
        base = np.empty(3, np.int64)
        for r in range(3):
            base[r] = int(np.floor(points[v, r] / size))
        total, seen, red, green, blue = 0.0, 0.0, 0.0, 0.0, 0.0
        for corner in range(8):
            i = base[0] + (corner >> 2)
            j = base[1] + ((corner >> 1) & 1)
            k = base[2] + (corner & 1)
            b = find(keys, values, pack(level[v], i >> 3, j >> 3, k >> 3))
            if b < 0:
                continue
            n = ((i & 7) << 6) | ((j & 7) << 3) | (k & 7)
            # Colour comes from the samples next to the surface.
            near = weight[b, n] * (1.001 - abs(tsdf[b, n]))
            red += near * rgb[b, n, 0]
            green += near * rgb[b, n, 1]
            blue += near * rgb[b, n, 2]
            total += near
            seen += weight[b, n] / 8
        if total > 0:
            colors[v, 0] = red / (total * COLOUR_LEVELS)
            colors[v, 1] = green / (total * COLOUR_LEVELS)
            colors[v, 2] = blue / (total * COLOUR_LEVELS)
        amount[v] = seen
    return colors, amount
