"""The kernels of quadric edge collapse: rings, quadrics, and one pass over all edges (numba)."""

from __future__ import annotations

import numba as nb
import numpy as np

TURN_MIN = 0.3  # A face may turn by no more than this cosine (73 degrees) in one collapse.
SLIVER = 0.9997  # Cosine of the smallest angle that a collapse may make (1.4 degrees).
ORDER_STRIDE = 7919  # Faces are visited in steps of this prime, so that no direction is favoured.
RING_MOST = 64  # Vertices with more neighbours are left alone.
DET_MIN = 1e-4  # Below this (of normals that are units) the best point is not determined.


@nb.njit(cache=True)
def rings(faces, alive, count):
    """Faces around each vertex: `ring[start[v]:start[v + 1]]`."""
    start = np.zeros(count + 1, np.int64)
    for f in range(faces.shape[0]):
        if alive[f]:
            for c in range(3):
                start[faces[f, c] + 1] += 1
    for v in range(count):
        start[v + 1] += start[v]
    ring = np.zeros(start[count], np.int32)
    fill = start[:count].copy()
    for f in range(faces.shape[0]):
        if alive[f]:
            for c in range(3):
                v = faces[f, c]
                ring[fill[v]] = f
                fill[v] += 1
    return start, ring


@nb.njit(cache=True)
def _normal(points, a, b, c, out):
    """Unit normal of a triangle into `out`; returns twice its area."""
    ux, uy, uz = (points[b, 0] - points[a, 0], points[b, 1] - points[a, 1],
                  points[b, 2] - points[a, 2])  # fmt: skip
    vx, vy, vz = (points[c, 0] - points[a, 0], points[c, 1] - points[a, 1],
                  points[c, 2] - points[a, 2])  # fmt: skip
    out[0], out[1], out[2] = uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx
    size = np.sqrt(out[0] ** 2 + out[1] ** 2 + out[2] ** 2)
    if size > 0:
        out[0] /= size
        out[1] /= size
        out[2] /= size
    return size


@nb.njit(cache=True)
def _add_plane(q, n, d):
    """Add the squared distance to the plane n . x + d = 0 to a quadric [10]."""
    q[0] += n[0] * n[0]
    q[1] += n[0] * n[1]
    q[2] += n[0] * n[2]
    q[3] += n[0] * d
    q[4] += n[1] * n[1]
    q[5] += n[1] * n[2]
    q[6] += n[1] * d
    q[7] += n[2] * n[2]
    q[8] += n[2] * d
    q[9] += d * d


@nb.njit(cache=True)
def _shared(faces, start, ring, a, b):
    """How many of the faces around vertex a also have vertex b."""
    count = 0
    for r in range(start[a], start[a + 1]):
        f = ring[r]
        count += faces[f, 0] == b or faces[f, 1] == b or faces[f, 2] == b
    return count


@nb.njit(cache=True)
def border_of(faces, start, ring):
    """Directed edges [e 2] that only one face has, in the order of faces."""
    out, count = np.zeros((1024, 2), np.int32), 0
    for f in range(faces.shape[0]):
        for c in range(3):
            a, b = faces[f, c], faces[f, (c + 1) % 3]
            if _shared(faces, start, ring, a, b) != 1:
                continue
            if count == out.shape[0]:
                larger = np.zeros((2 * count, 2), np.int32)
                larger[:count] = out
                out = larger
            out[count, 0], out[count, 1] = a, b
            count += 1
    return out[:count]


@nb.njit(cache=True)
def quadrics(points, faces, start, ring):
    """Quadric of every vertex [v 10], and whether it lies on an open border [v].

    A border edge also counts the plane through it that stands on its face, so that an outline is
    kept as well as the surface.
    """
    sums = np.zeros((points.shape[0], 10))
    border = np.zeros(points.shape[0], np.bool_)
    n, m = np.zeros(3), np.zeros(3)
    for f in range(faces.shape[0]):
        if _normal(points, faces[f, 0], faces[f, 1], faces[f, 2], n) <= 0:
            continue
        d = -(n[0] * points[faces[f, 0], 0] + n[1] * points[faces[f, 0], 1]
              + n[2] * points[faces[f, 0], 2])  # fmt: skip
        for c in range(3):
            _add_plane(sums[faces[f, c]], n, d)
        for c in range(3):
            a, b = faces[f, c], faces[f, (c + 1) % 3]
            if _shared(faces, start, ring, a, b) != 1:
                continue
            border[a] = border[b] = True
            ex, ey, ez = (points[b, 0] - points[a, 0], points[b, 1] - points[a, 1],
                          points[b, 2] - points[a, 2])  # fmt: skip
            m[0], m[1], m[2] = ey * n[2] - ez * n[1], ez * n[0] - ex * n[2], ex * n[1] - ey * n[0]
            size = np.sqrt(m[0] ** 2 + m[1] ** 2 + m[2] ** 2)
            if size > 0:
                m /= size
                d_edge = -(m[0] * points[a, 0] + m[1] * points[a, 1] + m[2] * points[a, 2])
                _add_plane(sums[a], m, d_edge)
                _add_plane(sums[b], m, d_edge)
    return sums, border


@nb.njit(cache=True)
def _error(q, x, y, z):
    """Sum of squared distances of a point to the planes of a quadric."""
    return max(0.0, (
        q[0] * x * x + 2 * q[1] * x * y + 2 * q[2] * x * z + 2 * q[3] * x + q[4] * y * y
        + 2 * q[5] * y * z + 2 * q[6] * y + q[7] * z * z + 2 * q[8] * z + q[9]
    ))  # fmt: skip


@nb.njit(cache=True)
def _best_point(q, a, b, points, out):
    """Where two vertices that may both move meet best; returns the error there."""
    best = np.inf
    for choice in range(3):
        share = 0.5 * choice
        x = points[a, 0] + share * (points[b, 0] - points[a, 0])
        y = points[a, 1] + share * (points[b, 1] - points[a, 1])
        z = points[a, 2] + share * (points[b, 2] - points[a, 2])
        error = _error(q, x, y, z)
        if error < best:
            best, out[0], out[1], out[2] = error, x, y, z
    ca, cb, cc = q[4] * q[7] - q[5] ** 2, q[2] * q[5] - q[1] * q[7], q[1] * q[5] - q[2] * q[4]
    det = q[0] * ca + q[1] * cb + q[2] * cc
    scale = q[0] + q[4] + q[7]
    if det <= DET_MIN * scale**3:
        return best
    cd, ce, cf = q[0] * q[7] - q[2] ** 2, q[1] * q[2] - q[0] * q[5], q[0] * q[4] - q[1] ** 2
    x = -(ca * q[3] + cb * q[6] + cc * q[8]) / det
    y = -(cb * q[3] + cd * q[6] + ce * q[8]) / det
    z = -(cc * q[3] + ce * q[6] + cf * q[8]) / det
    error = _error(q, x, y, z)
    length = 0.0
    away = 0.0
    for r in range(3):
        at = (x, y, z)[r]
        length += (points[b, r] - points[a, r]) ** 2
        away += (at - 0.5 * (points[a, r] + points[b, r])) ** 2
    if error < best and away <= length:
        best, out[0], out[1], out[2] = error, x, y, z
    return best


@nb.njit(cache=True)
def _turns(points, faces, alive, start, ring, a, b, at):
    """Whether moving vertex a to `at` turns over or flattens a face that does not have b."""
    old, new = np.zeros(3), np.zeros(3)
    for r in range(start[a], start[a + 1]):
        f = ring[r]
        if not alive[f]:
            continue
        c = 0
        while faces[f, c] != a:
            c += 1
        p, q = faces[f, (c + 1) % 3], faces[f, (c + 2) % 3]
        if p == b or q == b:
            continue
        had = _normal(points, a, p, q, old)
        ux, uy, uz = points[p, 0] - at[0], points[p, 1] - at[1], points[p, 2] - at[2]
        vx, vy, vz = points[q, 0] - at[0], points[q, 1] - at[1], points[q, 2] - at[2]
        wx, wy, wz = ux - vx, uy - vy, uz - vz
        uu, vv = ux * ux + uy * uy + uz * uz, vx * vx + vy * vy + vz * vz
        ww = wx * wx + wy * wy + wz * wz
        new[0], new[1], new[2] = uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx
        size = np.sqrt(new[0] ** 2 + new[1] ** 2 + new[2] ** 2)
        # The smallest angle is between the two longest sides.
        longest = max(uu, vv, ww)
        least = min(uu, vv, ww)
        middle = uu + vv + ww - longest - least
        if size <= np.sqrt(1 - SLIVER * SLIVER) * np.sqrt(longest * middle):
            return True
        if had > 0 and (old[0] * new[0] + old[1] * new[1] + old[2] * new[2]) < TURN_MIN * size:
            return True
    return False


@nb.njit(cache=True)
def _common(faces, alive, start, ring, a, b, marks):
    """Vertices that are neighbours of both a and b; -1 when a has too many neighbours."""
    count = 0
    for r in range(start[a], start[a + 1]):
        f = ring[r]
        if alive[f]:
            for c in range(3):
                if count == RING_MOST:
                    return -1
                marks[count] = faces[f, c]
                count += 1
    common = 0
    for r in range(start[b], start[b + 1]):
        f = ring[r]
        if not alive[f]:
            continue
        for c in range(3):
            v = faces[f, c]
            if v in (a, b):
                continue
            for m in range(count):
                if marks[m] == v:
                    # Counted once: later faces find the mark spent.
                    common += 1
                    for again in range(count):
                        if marks[again] == v:
                            marks[again] = -1
                    break
    return common


@nb.njit(cache=True)
def collapse_pass(
    points, faces, alive, active, sums, border, held, bound, start, ring, share, most
):
    """Collapse every edge whose error is below `share` of its squared bound, each face once.

    Works in place on points, faces, alive, active, sums, border, held and bound; returns how many
    faces went, about `most` at the most. Only `active` faces are tried; left active are those
    where something has changed since.
    """
    total = faces.shape[0]
    dirty = np.zeros(total, np.bool_)
    marks = np.zeros(RING_MOST, np.int64)
    at, q = np.zeros(3), np.zeros(10)
    stride = ORDER_STRIDE if total % ORDER_STRIDE else 1
    f, gone = 0, 0
    for _ in range(total):
        f = (f + stride) % total
        if not alive[f] or dirty[f] or not active[f]:
            continue
        active[f] = False
        for c in range(3):
            a, b = faces[f, c], faces[f, (c + 1) % 3]
            if held[a] and held[b]:
                continue
            if held[b] or (border[b] and not border[a] and not held[a]):
                a, b = b, a
            # From here a stays, or both move.
            q[:] = sums[a] + sums[b]
            if held[a] or (border[a] and not border[b]):
                at[:] = points[a]
                error = _error(q, at[0], at[1], at[2])
            else:
                error = _best_point(q, a, b, points, at)
            limit = min(bound[a], bound[b])
            if error > share * limit * limit:
                continue
            uses = 0
            for r in range(start[a], start[a + 1]):
                g = ring[r]
                if alive[g] and (faces[g, 0] == b or faces[g, 1] == b or faces[g, 2] == b):
                    uses += 1
            if border[a] and border[b] and uses != 1:
                continue
            if uses > 2 or _common(faces, alive, start, ring, a, b, marks) != uses:
                continue
            if _turns(points, faces, alive, start, ring, a, b, at) or _turns(
                points, faces, alive, start, ring, b, a, at
            ):
                continue
            points[a] = at
            sums[a] = q
            bound[a] = limit
            border[a] |= border[b]
            held[a] |= held[b]
            for side in range(2):
                v = a if side == 0 else b
                for r in range(start[v], start[v + 1]):
                    g = ring[r]
                    if not alive[g]:
                        continue
                    dirty[g] = True
                    active[g] = True
                    if side == 1:
                        if faces[g, 0] == a or faces[g, 1] == a or faces[g, 2] == a:
                            alive[g] = False
                            gone += 1
                        else:
                            for e in range(3):
                                if faces[g, e] == b:
                                    faces[g, e] = a
            break
        if gone >= most:
            break
    return gone
