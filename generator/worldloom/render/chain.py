"""Gradients of projected ellipses -> gradients of centres, scales and rotations."""

from __future__ import annotations

import numba as nb
import numpy as np


@nb.njit(cache=True, inline="always")
def _rotation(q, out):
    """Write the rotation of a unit quaternion wxyz into `out` [3 3]."""
    w, a, b, c = q[0], q[1], q[2], q[3]
    out[0, 0], out[0, 1], out[0, 2] = (
        1 - 2 * (b * b + c * c),
        2 * (a * b - w * c),
        2 * (a * c + w * b),
    )
    out[1, 0], out[1, 1], out[1, 2] = (
        2 * (a * b + w * c),
        1 - 2 * (a * a + c * c),
        2 * (b * c - w * a),
    )
    out[2, 0], out[2, 1], out[2, 2] = (
        2 * (a * c - w * b),
        2 * (b * c + w * a),
        1 - 2 * (a * a + b * b),
    )


@nb.njit(cache=True, inline="always")
def _quaternion(q, d, out):
    """Write the gradient by a unit quaternion wxyz, tangent to the sphere, into `out` [4].

    `d` [3 3] is the gradient by the rotation's entries.
    """
    w, a, b, c = q[0], q[1], q[2], q[3]
    out[0] = 2 * (
        -c * d[0, 1] + b * d[0, 2] + c * d[1, 0] - a * d[1, 2] - b * d[2, 0] + a * d[2, 1]
    )
    out[1] = 2 * (b * d[0, 1] + c * d[0, 2] + b * d[1, 0] - 2 * a * d[1, 1] - w * d[1, 2]
                  + c * d[2, 0] + w * d[2, 1] - 2 * a * d[2, 2])  # fmt: skip
    out[2] = 2 * (-2 * b * d[0, 0] + a * d[0, 1] + w * d[0, 2] + a * d[1, 0] + c * d[1, 2]
                  - w * d[2, 0] + c * d[2, 1] - 2 * b * d[2, 2])  # fmt: skip
    out[3] = 2 * (-2 * c * d[0, 0] - w * d[0, 1] + a * d[0, 2] + w * d[1, 0] - 2 * c * d[1, 1]
                  + b * d[1, 2] + a * d[2, 0] + b * d[2, 1])  # fmt: skip
    radial = out[0] * w + out[1] * a + out[2] * b + out[3] * c
    for k in range(4):
        out[k] -= radial * q[k]


@nb.njit(parallel=True, cache=True)
def to_splats(means, scales, quats, conic, total, drawn, w2c, K, limit_x, limit_y):
    """Gradients by centres [n 3], linear scales [n 3] and quaternions [n 4].

    The covariance in the image is sum_a s_a^2 g_a g_a^T + blur with g_a = J W R e_a; its inverse
    Q is the conic, so d loss / d cov = -Q (d loss / d Q) Q.

    Args:
        means: Centres in the world [m], [n 3].
        scales: Linear scales [m], [n 3].
        quats: Unit rotations wxyz, [n 4].
        conic: Inverse covariances xx, xy, yy [1/px^2], [n 3].
        total: Gradients by colour 3, opacity 1, conic 3 and image centre 2, [n 9].
        drawn: Which splats have gradients, [n].
        w2c: World to camera, [4 4].
        K: Intrinsics in pixels, [3 3].
        limit_x: Slope at which the projection is clamped.
        limit_y: The same for rows.
    """
    n = means.shape[0]
    d_means, d_scales, d_quats = np.zeros((n, 3)), np.zeros((n, 3)), np.zeros((n, 4))
    fx, fy = K[0, 0], K[1, 1]
    for i in nb.prange(n):
        if not drawn[i]:
            continue
        cam, d_cam = np.zeros(3), np.zeros(3)
        for r in range(3):
            cam[r] = w2c[r, 3]
            for k in range(3):
                cam[r] += w2c[r, k] * means[i, k]
        x, y, z = cam[0], cam[1], cam[2]
        tx = min(max(x / z, -limit_x), limit_x)
        ty = min(max(y / z, -limit_y), limit_y)
        qa, qb, qc = conic[i, 0], conic[i, 1], conic[i, 2]
        ga, gb, gc = total[i, 4], 0.5 * total[i, 5], total[i, 6]
        # H = -Q G Q.
        ua, ub, va, vb = qa * ga + qb * gb, qa * gb + qb * gc, qb * ga + qc * gb, qb * gb + qc * gc
        haa, hab, hbb = -(ua * qa + ub * qb), -(ua * qb + ub * qc), -(va * qb + vb * qc)
        rotation, d_rotation = np.zeros((3, 3)), np.zeros((3, 3))
        _rotation(quats[i], rotation)
        for a in range(3):
            sx, sy, sz = 0.0, 0.0, 0.0
            for k in range(3):
                sx += w2c[0, k] * rotation[k, a]
                sy += w2c[1, k] * rotation[k, a]
                sz += w2c[2, k] * rotation[k, a]
            gx, gy = fx / z * (sx - tx * sz), fy / z * (sy - ty * sz)
            hx, hy = haa * gx + hab * gy, hab * gx + hbb * gy
            s = scales[i, a]
            d_scales[i, a] = 2 * s * (gx * hx + gy * hy)
            hx, hy = 2 * s * s * hx, 2 * s * s * hy
            for k in range(3):
                d_rotation[k, a] = hx * fx / z * (w2c[0, k] - tx * w2c[2, k])
                d_rotation[k, a] += hy * fy / z * (w2c[1, k] - ty * w2c[2, k])
            d_cam[2] -= (hx * gx + hy * gy) / z
            if tx == x / z:
                d_cam[0] -= hx * fx / z * sz / z
                d_cam[2] += hx * fx / z * sz * x / (z * z)
            if ty == y / z:
                d_cam[1] -= hy * fy / z * sz / z
                d_cam[2] += hy * fy / z * sz * y / (z * z)
        d_cam[0] += total[i, 7] * fx / z
        d_cam[1] += total[i, 8] * fy / z
        d_cam[2] -= (total[i, 7] * fx * x + total[i, 8] * fy * y) / (z * z)
        for k in range(3):
            for r in range(3):
                d_means[i, k] += w2c[r, k] * d_cam[r]
        _quaternion(quats[i], d_rotation, d_quats[i])
    return d_means, d_scales, d_quats
