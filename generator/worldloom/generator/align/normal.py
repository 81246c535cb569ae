"""Matches -> normal equations of the joint correction (numba).

Unknowns of a frame: a small turn and shift of its camera in its own axes, and the knots of its
depth field. A match of host i and target j gives three residuals: two of the place in the picture,
one of the logarithm of depth. `[a]` below is the cross product matrix of a.

    Y = R_j^T (R_i X + c_i - c_j),  X = exp(f_i) z r
    dY = R_j^T R_i (-[X] w_i + v_i + X df_i) + [Y] w_j - v_j
"""

from __future__ import annotations

import numba as nb
import numpy as np

POSE = 6  # Turn [rad] and shift [m] of a camera in its own axes.
KNOTS = 16  # Knots of a field that reach one place.
ROW = 2 * (POSE + KNOTS)


@nb.njit(cache=True)
def residual(R_i, c_i, R_j, c_j, K, ray, depth, seen, out):
    """Point in the target's axes into `out` [3] and the miss in pixels; False behind the camera."""
    world = R_i @ (ray * depth) + c_i
    point = R_j.T @ (world - c_j)
    out[:] = point
    if point[2] < 0.02:
        return False, 0.0, 0.0
    u = K[0, 0] * point[0] / point[2] + K[0, 2]
    v = K[1, 1] * point[1] / point[2] + K[1, 2]
    return True, u - seen[0], v - seen[1]


@nb.njit(cache=True)
def all_residuals(R, c, K, host, target, rays, z, seen, seen_z, field_host, field_target):
    """Misses of all matches: pixels [m 2] and log depth [m]; nan where there is none."""
    count = len(host)
    pixels, depths = np.full((count, 2), np.nan), np.full(count, np.nan)
    point = np.zeros(3)
    for m in range(count):
        i, j = host[m], target[m]
        fine, du, dv = residual(
            R[i], c[i], R[j], c[j], K[j], rays[m], z[m] * np.exp(field_host[m]), seen[m], point
        )
        if fine:
            pixels[m, 0], pixels[m, 1] = du, dv
            if seen_z[m] > 0:
                depths[m] = np.log(point[2] / seen_z[m]) - field_target[m]
    return pixels, depths


@nb.njit(cache=True)
def _jacobian(Rji, X, Y, K, rows):
    """Rows [3 12 + 1]: by w_i, v_i, w_j, v_j and f_i of (u, v, log z)."""
    moved = np.zeros((3, 13))
    turned = Rji @ np.array([[0.0, X[2], -X[1]], [-X[2], 0.0, X[0]], [X[1], -X[0], 0.0]])
    along = Rji @ X
    for r in range(3):
        for k in range(3):
            moved[r, k] = turned[r, k]
            moved[r, 3 + k] = Rji[r, k]
        moved[r, 9 + r] = -1.0
        moved[r, 12] = along[r]
    moved[0, 7], moved[0, 8] = -Y[2], Y[1]
    moved[1, 6], moved[1, 8] = Y[2], -Y[0]
    moved[2, 6], moved[2, 7] = -Y[1], Y[0]
    a, b, z = K[0, 0] / Y[2], K[1, 1] / Y[2], 1 / Y[2]
    for k in range(13):
        rows[0, k] = a * (moved[0, k] - Y[0] * z * moved[2, k])
        rows[1, k] = b * (moved[1, k] - Y[1] * z * moved[2, k])
        rows[2, k] = z * moved[2, k]


@nb.njit(cache=True)
def add_matches(
    H, g, R, c, K, host, target, rays, z, seen, seen_z, field_host, field_target,
    knot_host, weight_host, knot_target, weight_target, start, pixel_weight, depth_weight,
):  # fmt: skip
    """Add every match to the normal matrix H [n n] and the gradient g [n].

    `start` [f] is the first unknown of each frame, -1 for frames that stay as they are;
    `pixel_weight` and `depth_weight` [m] are inverse variances with robust weights inside.
    """
    index, row = np.zeros(ROW, np.int64), np.zeros(ROW)
    rows, point = np.zeros((3, 13)), np.zeros(3)
    for m in range(len(host)):
        i, j = host[m], target[m]
        X = rays[m] * (z[m] * np.exp(field_host[m]))
        fine, du, dv = residual(R[i], c[i], R[j], c[j], K[j], X, 1.0, seen[m], point)
        if not fine:
            continue
        _jacobian(R[j].T @ R[i], X, point, K[j], rows)
        dz = np.log(point[2] / seen_z[m]) - field_target[m] if seen_z[m] > 0 else 0.0
        for kind in range(3):
            w = depth_weight[m] if kind == 2 else pixel_weight[m]
            if w <= 0 or (kind == 2 and seen_z[m] <= 0):
                continue
            miss = du if kind == 0 else (dv if kind == 1 else dz)
            n = 0
            if start[i] >= 0:
                for k in range(POSE):
                    index[n], row[n] = start[i] + k, rows[kind, k]
                    n += 1
                for k in range(KNOTS):
                    index[n] = start[i] + POSE + knot_host[m, k]
                    row[n] = rows[kind, 12] * weight_host[m, k]
                    n += 1
            if start[j] >= 0:
                for k in range(POSE):
                    index[n], row[n] = start[j] + k, rows[kind, POSE + k]
                    n += 1
                if kind == 2:
                    for k in range(KNOTS):
                        index[n] = start[j] + POSE + knot_target[m, k]
                        row[n] = -weight_target[m, k]
                        n += 1
            for a in range(n):
                scaled = w * row[a]
                g[index[a]] -= scaled * miss
                for b in range(n):
                    H[index[a], index[b]] += scaled * row[b]
