"""Rays and points against a scene's solids, in closed form (compiled, in parallel over rays)."""

from __future__ import annotations

import math

import numba as nb
import numpy as np
from numpy.typing import ArrayLike, NDArray

from worldloom.generator.truth.scene import TruthScene
from worldloom.generator.truth.solids import BOTTOM, BOX, FACE_SLOTS, SIDE, TOP

PARALLEL_TO = 1e-12  # Direction components below this count as this: no division by zero.
GRAZE_M = 1e-4  # A point hidden by less than this is on the surface that hides it.


def cast_rays(
    scene: TruthScene, origins: ArrayLike, directions: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """First hit of each ray.

    Args:
        scene: The place.
        origins: World [m], shape [n 3] or [3].
        directions: World, any length but zero, shape [n 3].

    Returns:
        Distance in lengths of the direction, inf where nothing is hit, shape [n]; and the number
        of the surface that is hit, -1 for none, shape [n].
    """
    directions = np.ascontiguousarray(directions, np.float64)
    origins = np.ascontiguousarray(np.broadcast_to(np.asarray(origins, float), directions.shape))
    return _cast(scene.arrays, origins, directions)


def visible(scene: TruthScene, points: ArrayLike, eye: ArrayLike) -> NDArray[np.bool_]:
    """Which surface points [n 3] nothing hides from `eye` [3] (world metres)."""
    points = np.ascontiguousarray(points, np.float64)
    return _visible(scene.arrays, points, np.asarray(eye, np.float64))


def seen_by_any(
    scene: TruthScene,
    points: ArrayLike,
    w2c: ArrayLike,
    K: ArrayLike,
    size: ArrayLike,
    reach_m: float,
) -> NDArray[np.bool_]:
    """Which surface points [n 3] lie unhidden in the picture of some camera, within reach.

    Args:
        scene: The place.
        points: World [m].
        w2c: World to camera of each camera, [k 4 4]; they are asked in this order.
        K: Intrinsics in pixels, [k 3 3].
        size: Width and height in pixels, [k 2].
        reach_m: Largest z-depth at which a camera sees [m].
    """
    arrays = [np.ascontiguousarray(array, np.float64) for array in (points, w2c, K, size)]
    return _seen(scene.arrays, *arrays, float(reach_m))


def signed_distance(scene: TruthScene, points: ArrayLike) -> NDArray[np.float64]:
    """Distance [n] of points [n 3] to the nearest surface [m]; negative inside solids.

    Exact in free space; inside, it is the depth in the solid that holds the point deepest.
    """
    return _signed_distance(scene.arrays, np.ascontiguousarray(points, np.float64))


def face_normals(scene: TruthScene, surface: ArrayLike, points: ArrayLike) -> NDArray[np.float64]:
    """Outward unit normals [n 3] of surface numbers [n] at `points` [n 3]; zero for the sky."""
    surface, points = np.asarray(surface), np.asarray(points, float)
    index, face = np.maximum(surface, 0) // FACE_SLOTS, np.maximum(surface, 0) % FACE_SLOTS
    cosine, sine = scene.arrays.turn[index].T
    zero = np.zeros_like(cosine)
    radial = (points - scene.arrays.centre[index])[:, :2]
    radial = radial / np.maximum(np.linalg.norm(radial, axis=1, keepdims=True), 1e-30)
    x_axis, y_axis = np.stack([cosine, sine, zero], -1), np.stack([-sine, cosine, zero], -1)
    up = np.broadcast_to([0.0, 0.0, 1.0], x_axis.shape)
    mantle = np.column_stack([radial, zero])
    table = np.stack([-x_axis, x_axis, -y_axis, y_axis, -up, up, mantle], 1)
    return np.where((surface >= 0)[:, None], table[np.arange(len(face)), face], 0.0)


@nb.njit(cache=True, error_model="numpy")
def enter(solids, s, o, d):
    """Where a ray enters solid `s` from outside: (t, face), t = inf when it does not."""
    # The plainest test comes first: most solids are missed and need no more than this.
    z, high = o[2] - solids.centre[s, 2], solids.half[s, 2]
    inverse = 1.0 / (d[2] if abs(d[2]) > PARALLEL_TO else PARALLEL_TO)
    reach = abs(high * inverse)
    near, far = -z * inverse - reach, -z * inverse + reach
    face = BOTTOM if inverse > 0 else TOP
    if far <= 0:
        return math.inf, 0
    cosine, sine = solids.turn[s, 0], solids.turn[s, 1]
    x, y = o[0] - solids.centre[s, 0], o[1] - solids.centre[s, 1]
    x, y = cosine * x + sine * y, cosine * y - sine * x
    dx, dy = cosine * d[0] + sine * d[1], cosine * d[1] - sine * d[0]
    if solids.kind[s] == BOX:
        inverse = 1.0 / (dx if abs(dx) > PARALLEL_TO else PARALLEL_TO)
        reach = abs(solids.half[s, 0] * inverse)
        if -x * inverse - reach > near:
            near, face = -x * inverse - reach, 0 if inverse > 0 else 1
        far = min(far, -x * inverse + reach)
        if near >= far:
            return math.inf, 0
        inverse = 1.0 / (dy if abs(dy) > PARALLEL_TO else PARALLEL_TO)
        reach = abs(solids.half[s, 1] * inverse)
        if -y * inverse - reach > near:
            near, face = -y * inverse - reach, 2 if inverse > 0 else 3
        far = min(far, -y * inverse + reach)
    else:
        q = max(dx * dx + dy * dy, PARALLEL_TO)
        p = x * dx + y * dy
        root = p * p - q * (x * x + y * y - solids.half[s, 0] * solids.half[s, 0])
        if root <= 0:
            return math.inf, 0
        root = math.sqrt(root)
        if (-p - root) / q > near:
            near, face = (-p - root) / q, SIDE
        far = min(far, (-p + root) / q)
    if near > 0 and near < far:
        return near, face
    return math.inf, 0


@nb.njit(cache=True, error_model="numpy")
def distance(solids, s, p):
    """Signed distance of a point to solid `s`."""
    cosine, sine = solids.turn[s, 0], solids.turn[s, 1]
    x, y = p[0] - solids.centre[s, 0], p[1] - solids.centre[s, 1]
    half = solids.half[s]
    qz = abs(p[2] - solids.centre[s, 2]) - half[2]
    if solids.kind[s] == BOX:
        qx = abs(cosine * x + sine * y) - half[0]
        qy = abs(cosine * y - sine * x) - half[1]
        outside = math.sqrt(max(qx, 0.0) ** 2 + max(qy, 0.0) ** 2 + max(qz, 0.0) ** 2)
        return outside + min(max(qx, qy, qz), 0.0)
    qr = math.sqrt(x * x + y * y) - half[0]
    return math.sqrt(max(qr, 0.0) ** 2 + max(qz, 0.0) ** 2) + min(max(qr, qz), 0.0)


@nb.njit(cache=True, parallel=True, error_model="numpy")
def _cast(solids, origins, directions):
    n = len(origins)
    best, surface = np.full(n, np.inf), np.full(n, -1, np.int64)
    for i in nb.prange(n):
        for s in range(len(solids.kind)):
            t, face = enter(solids, s, origins[i], directions[i])
            if t < best[i]:
                best[i], surface[i] = t, s * FACE_SLOTS + face
    return best, surface


@nb.njit(cache=True, error_model="numpy")
def _hidden(solids, eye, d):
    """Whether a solid stands between `eye` and `eye + d`."""
    limit = 1.0 - GRAZE_M / max(math.sqrt(d[0] ** 2 + d[1] ** 2 + d[2] ** 2), GRAZE_M)
    for s in range(len(solids.kind)):
        t, _ = enter(solids, s, eye, d)
        if t < limit:
            return True
    return False


@nb.njit(cache=True, parallel=True, error_model="numpy")
def _visible(solids, points, eye):
    n = len(points)
    out = np.ones(n, np.bool_)
    for i in nb.prange(n):
        out[i] = not _hidden(solids, eye, points[i] - eye)
    return out


@nb.njit(cache=True, parallel=True, error_model="numpy")
def _seen(solids, points, w2c, K, size, reach):
    n = len(points)
    out = np.zeros(n, np.bool_)
    for i in nb.prange(n):
        p, q = points[i], np.zeros(3)
        for k in range(len(w2c)):
            R, t = w2c[k, :3, :3], w2c[k, :3, 3]
            for r in range(3):
                q[r] = R[r, 0] * p[0] + R[r, 1] * p[1] + R[r, 2] * p[2] + t[r]
            if not 0 < q[2] <= reach:
                continue
            u, v = K[k, 0, 0] * q[0] / q[2] + K[k, 0, 2], K[k, 1, 1] * q[1] / q[2] + K[k, 1, 2]
            if 0 < u < size[k, 0] and 0 < v < size[k, 1]:
                eye = np.zeros(3)
                for r in range(3):
                    eye[r] = -(R[0, r] * t[0] + R[1, r] * t[1] + R[2, r] * t[2])
                if not _hidden(solids, eye, p - eye):
                    out[i] = True
                    break
    return out


@nb.njit(cache=True, parallel=True, error_model="numpy")
def _signed_distance(solids, points):
    n = len(points)
    out = np.zeros(n)
    for i in nb.prange(n):
        outside, inside = math.inf, 0.0
        for s in range(len(solids.kind)):
            d = distance(solids, s, points[i])
            outside, inside = min(outside, d), min(inside, d)
        out[i] = inside if inside < 0 else outside
    return out
