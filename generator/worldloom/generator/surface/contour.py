"""Signed distances on sparse blocks -> a triangle mesh, by surface nets (numba).

One vertex for each cell whose corners change sign, at the mean of the crossings on its edges; one
quad for each voxel edge that crosses. Cells share their vertices across blocks, so there are no
cracks; a cell with a corner that no camera measured makes nothing, so unseen space gets no
surface. Where the field is linear the vertices lie exactly on the surface.
"""

from __future__ import annotations

import numba as nb
import numpy as np
from numpy.typing import NDArray

from worldloom.generator.surface.fusion import BLOCK, TsdfVolume
from worldloom.scene.mesh import TriMesh

WEIGHT_MIN = 1e-3
"""Weight below which a voxel counts as unmeasured (one view at 10 m and 84 degrees gives this)."""
ZERO_BAND = 1e-3
"""Distances this near to zero (in truncations) count as just outside; see `_away_from_zero`."""


def extract(volume: TsdfVolume) -> TriMesh:
    """The zero level of a volume, faces towards free space, with vertex colours."""
    coords, tsdf, weight, rgb = volume.field()
    if len(coords) == 0:
        return TriMesh.empty()
    order = np.lexsort((coords[:, 2], coords[:, 1], coords[:, 0]))
    coords, tsdf, weight, rgb = coords[order], tsdf[order], weight[order], rgb[order]
    tsdf = _away_from_zero(tsdf)
    low = coords.min(0) - 1
    index = np.full(coords.max(0) - low + 2, -1, np.int32)
    at = coords - low
    index[at[:, 0], at[:, 1], at[:, 2]] = np.arange(len(coords), dtype=np.int32)
    points, colors, number = _vertices(coords, at, index, tsdf, weight, rgb)
    faces = _faces(at, index, tsdf, weight, number, points)
    vertices = (points * volume.voxel).astype(np.float32)
    return TriMesh(vertices, faces, np.clip(colors, 0, 1))


def _away_from_zero(tsdf: NDArray[np.float32]) -> NDArray[np.float32]:
    """Distances [b 512] without values at zero.

    A surface that runs exactly through voxel centres would take its signs from rounding, and
    vertices of neighbouring cells would coincide: thousands of faces without area. The shift is a
    fiftieth of a millimetre for every centimetre of voxel.
    """
    return np.where(np.abs(tsdf) < ZERO_BAND, np.float32(ZERO_BAND), tsdf)


@nb.njit(cache=True)
def _voxel(at, index, block, i, j, k):
    """Block and place of a voxel given relative to `block`, which may lie in a neighbour."""
    bx, by, bz = at[block, 0], at[block, 1], at[block, 2]
    if i < 0:
        bx, i = bx - 1, i + BLOCK
    elif i >= BLOCK:
        bx, i = bx + 1, i - BLOCK
    if j < 0:
        by, j = by - 1, j + BLOCK
    elif j >= BLOCK:
        by, j = by + 1, j - BLOCK
    if k < 0:
        bz, k = bz - 1, k + BLOCK
    elif k >= BLOCK:
        bz, k = bz + 1, k - BLOCK
    return index[bx, by, bz], (i * BLOCK + j) * BLOCK + k


@nb.njit(cache=True)
def _doubled(array):
    """The rows of `array`, and room for as many more."""
    larger = np.zeros((2 * array.shape[0], array.shape[1]), array.dtype)
    larger[: array.shape[0]] = array
    return larger


@nb.njit(cache=True)
def _vertices(coords, at, index, tsdf, weight, rgb):
    """Vertex of every crossing cell: positions in voxels [v 3], colours [v 3], number [b 512].

    Cell (i, j, k) spans the voxel centres from (i, j, k) to (i + 1, j + 1, k + 1).
    """
    blocks = coords.shape[0]
    number = np.full((blocks, BLOCK**3), -1, np.int32)
    points = np.zeros((4096, 3))
    colors = np.zeros((4096, 3), np.float32)
    count = 0
    value = np.zeros(8)
    home = np.zeros((8, 2), np.int64)
    for b in range(blocks):
        for n in range(BLOCK**3):
            if weight[b, n] <= WEIGHT_MIN:
                continue
            i, j, k = n // (BLOCK * BLOCK), (n // BLOCK) % BLOCK, n % BLOCK
            negative, known = 0, True
            for corner in range(8):
                block, place = _voxel(
                    at, index, b, i + (corner >> 2), j + ((corner >> 1) & 1), k + (corner & 1)
                )
                if block < 0 or weight[block, place] <= WEIGHT_MIN:
                    known = False
                    break
                value[corner] = tsdf[block, place]
                home[corner, 0], home[corner, 1] = block, place
                negative += value[corner] < 0
            if not known or negative == 0 or negative == 8:
                continue
            sx, sy, sz, crossings = 0.0, 0.0, 0.0, 0
            red, green, blue, colour_weight = 0.0, 0.0, 0.0, 0.0
            for first in range(8):
                block, place = home[first, 0], home[first, 1]
                # Colour comes from the voxels next to the surface.
                near = weight[block, place] * (1.001 - min(1.0, abs(value[first])))
                red += near * rgb[block, place, 0]
                green += near * rgb[block, place, 1]
                blue += near * rgb[block, place, 2]
                colour_weight += near
                for bit in (1, 2, 4):
                    second = first | bit
                    if second == first or (value[first] < 0) == (value[second] < 0):
                        continue
                    share = value[first] / (value[first] - value[second])
                    sx += (first >> 2) + share * (bit == 4)
                    sy += ((first >> 1) & 1) + share * (bit == 2)
                    sz += (first & 1) + share * (bit == 1)
                    crossings += 1
            if count == points.shape[0]:
                points = _doubled(points)
                colors = _doubled(colors)
            points[count, 0] = coords[b, 0] * BLOCK + i + 0.5 + sx / crossings
            points[count, 1] = coords[b, 1] * BLOCK + j + 0.5 + sy / crossings
            points[count, 2] = coords[b, 2] * BLOCK + k + 0.5 + sz / crossings
            colors[count, 0] = red / colour_weight
            colors[count, 1] = green / colour_weight
            colors[count, 2] = blue / colour_weight
            number[b, n] = count
            count += 1
    return points[:count], colors[:count], number


@nb.njit(cache=True)
def _faces(at, index, tsdf, weight, number, points):
    """Two triangles for every crossing voxel edge whose four cells all have a vertex."""
    faces = np.zeros((8192, 3), np.int32)
    count = 0
    quad = np.zeros(4, np.int32)
    for b in range(at.shape[0]):
        for n in range(BLOCK**3):
            if weight[b, n] <= WEIGHT_MIN:
                continue
            i, j, k = n // (BLOCK * BLOCK), (n // BLOCK) % BLOCK, n % BLOCK
            for axis in range(3):
                other, place = _voxel(
                    at, index, b, i + (axis == 0), j + (axis == 1), k + (axis == 2)
                )
                if other < 0 or weight[other, place] <= WEIGHT_MIN:
                    continue
                inside = tsdf[b, n] < 0
                if inside == (tsdf[other, place] < 0):
                    continue
                whole = True
                for corner in range(4):
                    # The four cells around the edge, counter-clockwise seen along the axis.
                    s = -1 if corner in (1, 2) else 0
                    t = -1 if corner in (2, 3) else 0
                    if axis == 0:
                        block, cell = _voxel(at, index, b, i, j + s, k + t)
                    elif axis == 1:
                        block, cell = _voxel(at, index, b, i + t, j, k + s)
                    else:
                        block, cell = _voxel(at, index, b, i + s, j + t, k)
                    if block < 0 or number[block, cell] < 0:
                        whole = False
                        break
                    quad[corner] = number[block, cell]
                if not whole:
                    continue
                if count + 2 > faces.shape[0]:
                    faces = _doubled(faces)
                count = _add_quad(faces, count, quad, inside, points)
    return faces[:count]


@nb.njit(cache=True)
def _add_quad(faces, count, quad, inside, points):
    """Split a quad along its shorter diagonal; it faces along the axis when `inside` is below."""
    d02 = np.sum((points[quad[0]] - points[quad[2]]) ** 2)
    d13 = np.sum((points[quad[1]] - points[quad[3]]) ** 2)
    start = 0 if d02 <= d13 else 1
    a, b = quad[start], quad[start + 1]
    c, d = quad[(start + 2) % 4], quad[(start + 3) % 4]
    if inside:
        faces[count, 0], faces[count, 1], faces[count, 2] = a, b, c
        faces[count + 1, 0], faces[count + 1, 1], faces[count + 1, 2] = a, c, d
    else:
        faces[count, 0], faces[count, 1], faces[count, 2] = a, c, b
        faces[count + 1, 0], faces[count + 1, 1], faces[count + 1, 2] = a, d, c
    return count + 2
