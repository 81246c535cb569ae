"""Patches of one frame -> where another frame shows them, to a fraction of a pixel (numba).

Each patch is drawn as the other camera would see its tangent plane, searched around the place
where geometry puts it, and refined by least squares with gain and offset, so that exposure does
not matter.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numba as nb
import numpy as np
from numpy.typing import NDArray

from worldloom.generator.align.points import Patches

HALF = 4  # Patches are 9 x 9 pixels.
SIDE = 2 * HALF + 1
SCORE_MIN = 0.80  # Correlation below which two patches show different things.
DISTINCT = 0.03  # The best place must beat all others that are not beside it by this.
CONTRAST_MIN = 0.012  # Standard deviation of a patch below which it is plain.
ZOOM_MAX = 2.5  # Patches that are seen so much larger or smaller are not compared.
DEPTH_RATIO = 1.25  # A depth that disagrees more than this is another surface.
REFINE_STEPS = 6
SETTLED_PX = 0.01  # Refinement ends when a step is smaller.


@dataclass(frozen=True)
class Matches:
    """Patches of a host frame that a target frame shows again."""

    host: int
    """Index of the host frame."""
    target: int
    """Index of the target frame."""
    uv: NDArray[np.float64]
    """Places in the host [px], [n 2]."""
    z: NDArray[np.float64]
    """Depth of the patches in the host, uncorrected [m], [n]."""
    seen: NDArray[np.float64]
    """Places in the target [px], [n 2]."""
    seen_z: NDArray[np.float64]
    """Depth that the target has there, uncorrected; 0 = none [m], [n]."""

    def doubled(self) -> Matches:
        """Matches of halved frames in pixels of the whole ones."""
        return replace(self, uv=2 * self.uv, seen=2 * self.seen)


def match_patches(
    host: Patches,
    target: Patches,
    K_host: NDArray[np.float64],
    K_target: NDArray[np.float64],
    host_to_target: NDArray[np.float64],
    *,
    scale: NDArray[np.float64],
    radius: int,
    pair: tuple[int, int],
) -> Matches:
    """Look for the patches of `host` in `target`.

    Args:
        host: Patches and pixels of the first frame.
        target: The second frame.
        K_host: Intrinsics of the first in pixels, [3 3].
        K_target: Intrinsics of the second, [3 3].
        host_to_target: Best guess of the rigid map between the cameras, [4 4].
        scale: Best guess of the factor of each patch's depth, [n].
        radius: Pixels that are searched around the predicted place.
        pair: Indices of the two frames, for the result.
    """
    seen, seen_z, found = _search(
        host.grey, target.grey, target.depth, K_host, K_target, host_to_target,
        host.uv, host.z * scale, host.normal, radius,
    )  # fmt: skip
    return Matches(*pair, host.uv[found], host.z[found], seen[found], seen_z[found])


@nb.njit(cache=True, inline="always")
def _at(image, u, v):
    """Bilinear value at (u, v) in array coordinates; the caller keeps them inside."""
    x, y = int(u), int(v)
    a, b = u - x, v - y
    top = image[y, x] * (1 - a) + image[y, x + 1] * a
    return top * (1 - b) + (image[y + 1, x] * (1 - a) + image[y + 1, x + 1] * a) * b


@nb.njit(cache=True)
def _plane_map(R, t, n, d, K_host, K_target):
    """Homography [3 3] from target pixels to host pixels over the plane n . X = d of the host."""
    # With m = R n the plane is m . X_t = d + m . t in the target, so that on it
    # X_h = R^T (X_t - t) = R^T (I - t m^T / (d + m . t)) X_t.
    m = R @ n
    distance = d + m[0] * t[0] + m[1] * t[1] + m[2] * t[2]
    inner = np.eye(3)
    for r in range(3):
        for c in range(3):
            inner[r, c] -= t[r] * m[c] / distance
    inverse = np.eye(3)
    inverse[0, 0], inverse[1, 1] = 1 / K_target[0, 0], 1 / K_target[1, 1]
    inverse[0, 2] = -K_target[0, 2] / K_target[0, 0]
    inverse[1, 2] = -K_target[1, 2] / K_target[1, 1]
    return K_host @ (np.ascontiguousarray(R.T) @ (inner @ inverse)), distance


@nb.njit(cache=True)
def _template(grey, H, u, v, out):
    """Draw the host's patch as the target sees it around (u, v); whether it lies inside."""
    height, width = grey.shape
    total, square = 0.0, 0.0
    for r in range(SIDE):
        for c in range(SIDE):
            x, y = u + c - HALF, v + r - HALF
            w = H[2, 0] * x + H[2, 1] * y + H[2, 2]
            if w <= 1e-9:
                return False
            hu = (H[0, 0] * x + H[0, 1] * y + H[0, 2]) / w - 0.5
            hv = (H[1, 0] * x + H[1, 1] * y + H[1, 2]) / w - 0.5
            if hu < 0 or hv < 0 or hu >= width - 1 or hv >= height - 1:
                return False
            value = _at(grey, hu, hv)
            out[r, c] = value
            total += value
            square += value * value
    count = SIDE * SIDE
    mean = total / count
    spread = np.sqrt(max(square / count - mean * mean, 0.0))
    if spread < CONTRAST_MIN:
        return False
    for r in range(SIDE):
        for c in range(SIDE):
            out[r, c] = (out[r, c] - mean) / spread
    return True


@nb.njit(cache=True)
def _zoom(H, u, v):
    """Host pixels per target pixel at (u, v), by area."""
    w = H[2, 0] * u + H[2, 1] * v + H[2, 2]
    x, y = (H[0, 0] * u + H[0, 1] * v + H[0, 2]) / w, (H[1, 0] * u + H[1, 1] * v + H[1, 2]) / w
    a, b = (H[0, 0] - x * H[2, 0]) / w, (H[0, 1] - x * H[2, 1]) / w
    c, d = (H[1, 0] - y * H[2, 0]) / w, (H[1, 1] - y * H[2, 1]) / w
    return np.sqrt(abs(a * d - b * c))


@nb.njit(cache=True)
def _correlation(grey, template, column, row):
    """Normalised correlation of the template with the patch around a pixel of the target."""
    total, square, product = 0.0, 0.0, 0.0
    for r in range(SIDE):
        for c in range(SIDE):
            value = grey[row + r - HALF, column + c - HALF]
            total += value
            square += value * value
            product += value * template[r, c]
    count = SIDE * SIDE
    variance = square / count - (total / count) ** 2
    if variance < CONTRAST_MIN * CONTRAST_MIN:
        return -1.0
    return product / count / np.sqrt(variance)


@nb.njit(cache=True)
def _refine(grey, template, u, v):
    """Least-squares shift of the template from (u, v): place and correlation (Lucas, Kanade)."""
    height, width = grey.shape
    normal, right = np.zeros((4, 4)), np.zeros(4)
    row = np.zeros(4)
    for _ in range(REFINE_STEPS):
        inside = HALF + 2 <= u < width - HALF - 3 and HALF + 2 <= v < height - HALF - 3
        if not inside:
            return u, v, -1.0
        normal[:], right[:] = 0.0, 0.0
        total, square, product = 0.0, 0.0, 0.0
        for r in range(SIDE):
            for c in range(SIDE):
                x, y = u + c - HALF, v + r - HALF
                value = _at(grey, x, y)
                row[0] = 0.5 * (_at(grey, x + 1, y) - _at(grey, x - 1, y))
                row[1] = 0.5 * (_at(grey, x, y + 1) - _at(grey, x, y - 1))
                row[2], row[3] = -template[r, c], -1.0
                total += value
                square += value * value
                product += value * template[r, c]
                for i in range(4):
                    right[i] -= row[i] * value
                    for j in range(4):
                        normal[i, j] += row[i] * row[j]
        for i in range(4):
            normal[i, i] += 1e-9
        step = np.linalg.solve(normal, right)
        size = np.sqrt(step[0] ** 2 + step[1] ** 2)
        if size > 2:
            return u, v, -1.0
        u, v = u + step[0], v + step[1]
        if size < SETTLED_PX:
            break
    count = SIDE * SIDE
    variance = max(square / count - (total / count) ** 2, 1e-12)
    return u, v, product / count / np.sqrt(variance)


@nb.njit(parallel=True, cache=True)
def _search(grey, other, other_depth, K_host, K_target, T, uv, z, normal, radius):
    """Place, depth and success of every patch."""
    n = len(uv)
    height, width = other.shape
    seen, seen_z = np.zeros((n, 2)), np.zeros(n)
    found = np.zeros(n, np.bool_)
    margin = HALF + 3
    R, t = np.ascontiguousarray(T[:3, :3]), np.ascontiguousarray(T[:3, 3])
    for i in nb.prange(n):
        ray = np.array([
            (uv[i, 0] - K_host[0, 2]) / K_host[0, 0], (uv[i, 1] - K_host[1, 2]) / K_host[1, 1], 1.0
        ])  # fmt: skip
        point = R @ (ray * z[i]) + t
        if point[2] < 0.02:
            continue
        u = K_target[0, 0] * point[0] / point[2] + K_target[0, 2]
        v = K_target[1, 1] * point[1] / point[2] + K_target[1, 2]
        column, row = int(np.floor(u)), int(np.floor(v))
        if column < margin or row < margin or column >= width - margin or row >= height - margin:
            continue
        there = other_depth[row, column]
        if there > 0 and (there * DEPTH_RATIO < point[2] or there > DEPTH_RATIO * point[2]):
            continue
        d = z[i] * (normal[i, 0] * ray[0] + normal[i, 1] * ray[1] + normal[i, 2])
        H, distance = _plane_map(R, t, normal[i], d, K_host, K_target)
        if distance > -0.05 * point[2]:  # Seen from behind, or along the surface.
            continue
        zoom = _zoom(H, u, v)
        if not 1 / ZOOM_MAX < zoom < ZOOM_MAX:
            continue
        template = np.zeros((SIDE, SIDE))
        # The template is centred on the pixel centre nearest to the prediction.
        if not _template(grey, H, column + 0.5, row + 0.5, template):
            continue
        best, best_c, best_r = -1.0, 0, 0
        scores = np.full((2 * radius + 1, 2 * radius + 1), -1.0)
        for dr in range(-radius, radius + 1):
            for dc in range(-radius, radius + 1):
                c, r = column + dc, row + dr
                if c < margin or r < margin or c >= width - margin or r >= height - margin:
                    continue
                score = _correlation(other, template, c, r)
                scores[dr + radius, dc + radius] = score
                if score > best:
                    best, best_c, best_r = score, dc, dr
        if best < SCORE_MIN - 0.1:
            continue
        rival = -1.0
        for dr in range(-radius, radius + 1):
            for dc in range(-radius, radius + 1):
                if abs(dr - best_r) > 2 or abs(dc - best_c) > 2:
                    rival = max(rival, scores[dr + radius, dc + radius])
        if best - rival < DISTINCT:
            continue
        x, y, score = _refine(other, template, float(column + best_c), float(row + best_r))
        if score < SCORE_MIN:
            continue
        # The patch centre itself lies off the template's centre by the fraction of the prediction.
        seen[i, 0], seen[i, 1] = u + x - column, v + y - row
        c, r = int(np.floor(seen[i, 0])), int(np.floor(seen[i, 1]))
        if c < 1 or r < 1 or c >= width - 1 or r >= height - 1:
            continue
        seen_z[i] = _depth_at(other_depth, seen[i, 0] - 0.5, seen[i, 1] - 0.5)
        found[i] = True
    return seen, seen_z, found


@nb.njit(cache=True)
def _depth_at(depth, u, v):
    """Depth between four pixels by inverse depth; 0 where one has none or they are two surfaces."""
    x, y = int(u), int(v)
    a, b, c, d = depth[y, x], depth[y, x + 1], depth[y + 1, x], depth[y + 1, x + 1]
    low, high = min(a, b, c, d), max(a, b, c, d)
    if low <= 0 or high > 1.1 * low:
        return 0.0
    s, t = u - x, v - y
    return 1 / ((1 / a * (1 - s) + 1 / b * s) * (1 - t) + (1 / c * (1 - s) + 1 / d * s) * t)
