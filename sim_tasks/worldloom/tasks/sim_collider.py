"""Triangles in square columns: floor heights and disc contacts of a collider, exactly and fast.

A robot touches a handful of triangles at a time. They are found through a grid of columns over the
ground plane; each question then looks at the true triangles, never at a rasterised copy.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba as nb
import numpy as np
from numpy.typing import ArrayLike, NDArray

from worldloom.scene.errors import InvalidRequest
from worldloom.scene.mesh import TriMesh

COLUMN_M = 0.2  # About a robot radius: few columns a query, few triangles a column.
COLUMNS_MAX = 4_000_000  # Larger worlds get wider columns instead of more memory.
Columns = tuple[
    NDArray[np.float64],
    NDArray[np.int64],
    NDArray[np.int32],
    NDArray[np.float64],
    NDArray[np.int64],
    float,
]
"""Corners, starts, members, origin, counts and side: the fields of `ColliderIndex`."""
EDGE_TOLERANCE = 1e-9  # Barycentric slack, so that a ray through a shared edge meets one face.


@dataclass(frozen=True)
class ColliderIndex:
    """A collider, ready for queries."""

    corners: NDArray[np.float64]
    """Triangle corners in the world [m], wound towards free space, shape [f 3 3]."""
    starts: NDArray[np.int64]
    """First entry of each column in `members`, shape [columns + 1]."""
    members: NDArray[np.int32]
    """Triangle numbers, column by column."""
    origin: NDArray[np.float64]
    """Lower-left corner of the columns in the world [m], shape [2]."""
    counts: NDArray[np.int64]
    """Columns along x and y, shape [2]."""
    column: float
    """Side of a column [m]."""

    @staticmethod
    def build(mesh: TriMesh, *, column: float = COLUMN_M) -> ColliderIndex:
        """Sort the triangles of a mesh into columns.

        Args:
            mesh: Collider in the world frame.
            column: Side of a column [m]; widened where the world is too large for it.

        Raises:
            InvalidRequest: The mesh is empty or has vertices that are not finite.
        """
        corners = mesh.corners()
        if len(corners) == 0 or not np.isfinite(corners).all():
            raise InvalidRequest(
                f"the collider has {len(corners)} triangles and "
                f"{int((~np.isfinite(corners)).sum())} coordinates that are not finite; a robot "
                "needs a finite, non-empty collider. Generate the world again, or check it with "
                "'worldloom check'"
            )
        low, high = corners.min((0, 1))[:2], corners.max((0, 1))[:2]
        span = np.maximum(high - low, 1e-6)
        column = max(column, float(np.sqrt(np.prod(span) / COLUMNS_MAX)))
        counts = np.floor(span / column).astype(np.int64) + 1
        starts, members = _sort(corners, low, counts, column)
        return ColliderIndex(corners, starts, members, low, counts, column)

    @property
    def columns(self) -> Columns:
        """The arrays as the one tuple that the compiled queries take."""
        return (self.corners, self.starts, self.members, self.origin, self.counts, self.column)

    def floor_below(self, points: ArrayLike) -> NDArray[np.float64]:
        """Height [m] of the highest upward face at or below points [n 3]; -inf where none is."""
        return _floors(np.atleast_2d(np.asarray(points, np.float64)), self.columns)

    def distance(self, points: ArrayLike, *, limit: float) -> NDArray[np.float64]:
        """Distance [m] from points [n 3] to the nearest triangle, at most `limit` [m]."""
        return _distances(np.atleast_2d(np.asarray(points, np.float64)), limit, self.columns)


@nb.njit(cache=True)
def _span(low, high, origin, count, column):
    """First and last column of the interval low..high; empty when it lies outside."""
    first = max(0, int(np.floor((low - origin) / column)))
    last = min(count - 1, int(np.floor((high - origin) / column)))
    return first, last


@nb.njit(cache=True)
def _sort(corners, origin, counts, column):
    starts = np.zeros(counts[0] * counts[1] + 1, np.int64)
    cursor = np.zeros(0, np.int64)
    members = np.zeros(0, np.int32)
    for write in (False, True):
        for f in range(corners.shape[0]):
            t = corners[f]
            x0, x1 = _span(t[:, 0].min(), t[:, 0].max(), origin[0], counts[0], column)
            y0, y1 = _span(t[:, 1].min(), t[:, 1].max(), origin[1], counts[1], column)
            for y in range(y0, y1 + 1):
                for x in range(x0, x1 + 1):
                    cell = y * counts[0] + x
                    if write:
                        members[cursor[cell]] = f
                        cursor[cell] += 1
                    else:
                        starts[cell + 1] += 1
        if not write:
            starts = np.cumsum(starts)
            cursor = starts[:-1].copy()
            members = np.zeros(starts[-1], np.int32)
    return starts, members


@nb.njit(cache=True)
def surface_at(x: float, y: float, z_top: float, columns: Columns) -> tuple[float, float]:
    """Highest upward face at (x, y) with z <= z_top: its height [m] and slope (rise over run)."""
    corners, starts, members, origin, counts, column = columns
    best, slope = -np.inf, 0.0
    cx = int(np.floor((x - origin[0]) / column))
    cy = int(np.floor((y - origin[1]) / column))
    if cx < 0 or cy < 0 or cx >= counts[0] or cy >= counts[1]:
        return best, slope
    cell = cy * counts[0] + cx
    for k in range(starts[cell], starts[cell + 1]):
        a, b, c = corners[members[k], 0], corners[members[k], 1], corners[members[k], 2]
        area = (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])
        # Physics engines see triangles from their front only: a floor turned over is a hole.
        if area <= 1e-14:
            continue
        wb = ((x - a[0]) * (c[1] - a[1]) - (y - a[1]) * (c[0] - a[0])) / area
        wc = ((b[0] - a[0]) * (y - a[1]) - (b[1] - a[1]) * (x - a[0])) / area
        if wb < -EDGE_TOLERANCE or wc < -EDGE_TOLERANCE or wb + wc > 1 + EDGE_TOLERANCE:
            continue
        z = a[2] + wb * (b[2] - a[2]) + wc * (c[2] - a[2])
        if z <= z_top and z > best:
            nx = (b[1] - a[1]) * (c[2] - a[2]) - (b[2] - a[2]) * (c[1] - a[1])
            ny = (b[2] - a[2]) * (c[0] - a[0]) - (b[0] - a[0]) * (c[2] - a[2])
            best, slope = z, np.sqrt(nx * nx + ny * ny) / area
    return best, slope


@nb.njit(cache=True)
def disc_penetration(
    x: float,
    y: float,
    plane: tuple[float, float, float],
    low: float,
    high: float,
    radius: float,
    columns: Columns,
) -> float:
    """How deep [m] an upright disc is inside the triangles between two heights above a plane.

    `plane` holds (z0, slope x, slope y) at (x, y). 0 when nothing is nearer than `radius`.
    """
    corners, starts, members, origin, counts, column = columns
    deepest = 0.0
    x0, x1 = _span(x - radius, x + radius, origin[0], counts[0], column)
    y0, y1 = _span(y - radius, y + radius, origin[1], counts[1], column)
    above = np.zeros((3, 3))
    for cy in range(y0, y1 + 1):
        for cx in range(x0, x1 + 1):
            cell = cy * counts[0] + cx
            for k in range(starts[cell], starts[cell + 1]):
                t = corners[members[k]]
                if max(t[0, 0], t[1, 0], t[2, 0]) < x - radius:
                    continue
                if min(t[0, 0], t[1, 0], t[2, 0]) > x + radius:
                    continue
                if max(t[0, 1], t[1, 1], t[2, 1]) < y - radius:
                    continue
                if min(t[0, 1], t[1, 1], t[2, 1]) > y + radius:
                    continue
                for i in range(3):
                    px, py = t[i, 0] - x, t[i, 1] - y
                    above[i, 0], above[i, 1] = px, py
                    above[i, 2] = t[i, 2] - (plane[0] + plane[1] * px + plane[2] * py)
                if max(above[0, 2], above[1, 2], above[2, 2]) <= low:
                    continue
                if min(above[0, 2], above[1, 2], above[2, 2]) >= high:
                    continue
                depth = radius - _distance_in_slab(above, low, high)
                if depth > deepest:
                    deepest = depth
    return deepest


@nb.njit(cache=True)
def _distance_in_slab(triangle, low, high):
    """Distance from the z axis to the part of a triangle between two heights."""
    polygon = np.zeros((7, 3))
    count = 3
    polygon[:3] = triangle
    for side in range(2):
        sign = 1.0 if side == 0 else -1.0
        limit = low if side == 0 else -high
        clipped = np.zeros((7, 3))
        kept = 0
        for i in range(count):
            a, b = polygon[i], polygon[(i + 1) % count]
            da, db = sign * a[2] - limit, sign * b[2] - limit
            if da >= 0:
                clipped[kept] = a
                kept += 1
            if (da >= 0) != (db >= 0):
                clipped[kept] = a + (da / (da - db)) * (b - a)
                kept += 1
        polygon, count = clipped, kept
    return _distance_to_polygon(polygon, count)


@nb.njit(cache=True)
def _distance_to_polygon(polygon, count):
    """Distance from the origin to a convex polygon in the plane; 0 inside."""
    if count == 0:
        return np.inf
    best = np.inf
    left, right = False, False
    for i in range(count):
        a, b = polygon[i], polygon[(i + 1) % count]
        dx, dy = b[0] - a[0], b[1] - a[1]
        length2 = dx * dx + dy * dy
        share = 0.0
        if length2 > 0:
            share = min(1.0, max(0.0, -(a[0] * dx + a[1] * dy) / length2))
        px, py = a[0] + share * dx, a[1] + share * dy
        best = min(best, px * px + py * py)
        turn = a[0] * dy - a[1] * dx
        left, right = left or turn > 1e-15, right or turn < -1e-15
    inside = left != right
    return 0.0 if inside else np.sqrt(best)


@nb.njit(cache=True)
def _floors(points, columns):
    out = np.zeros(points.shape[0])
    for i in range(points.shape[0]):
        out[i] = surface_at(points[i, 0], points[i, 1], points[i, 2], columns)[0]
    return out


@nb.njit(cache=True)
def _distances(points, limit, columns):
    corners, starts, members, origin, counts, column = columns
    out = np.full(points.shape[0], limit)
    for i in range(points.shape[0]):
        p = points[i]
        x0, x1 = _span(p[0] - limit, p[0] + limit, origin[0], counts[0], column)
        y0, y1 = _span(p[1] - limit, p[1] + limit, origin[1], counts[1], column)
        for cy in range(y0, y1 + 1):
            for cx in range(x0, x1 + 1):
                cell = cy * counts[0] + cx
                for k in range(starts[cell], starts[cell + 1]):
                    near = _point_triangle(p, corners[members[k]])
                    out[i] = min(out[i], near)
    return out


@nb.njit(cache=True)
def _point_triangle(p, t):
    """Distance from a point to a triangle: to its plane inside, to its edges elsewhere."""
    normal = np.cross(t[1] - t[0], t[2] - t[0])
    area2 = np.dot(normal, normal)
    if area2 > 0:
        inside = True
        for i in range(3):
            edge = t[(i + 1) % 3] - t[i]
            if np.dot(np.cross(edge, p - t[i]), normal) < 0:
                inside = False
        if inside:
            return abs(np.dot(p - t[0], normal)) / np.sqrt(area2)
    best = np.inf
    for i in range(3):
        edge = t[(i + 1) % 3] - t[i]
        length2 = np.dot(edge, edge)
        share = 0.0
        if length2 > 0:
            share = min(1.0, max(0.0, np.dot(p - t[i], edge) / length2))
        gap = p - t[i] - share * edge
        best = min(best, np.dot(gap, gap))
    return np.sqrt(best)
