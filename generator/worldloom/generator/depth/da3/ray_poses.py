"""Ray maps -> cameras: slower than the decoder, and more accurate (spec reconstruction 2.9).

Every pixel says where it looks and from where. Its direction is a linear map of its place,
R K^-1 (u, v, 1), so one 3x3 matrix a view is fitted to all of them and split into rotation and
intrinsics. The reference draws samples at random; here sure pixels begin and outliers lose weight.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from worldloom.scene.errors import EngineFailed
from worldloom.scene.frame import invert_rigid, rigid

SURE_SHARE = 0.3
"""Share of the pixels, the surest ones, that the first fit takes (spec 2.9)."""
ROUNDS = 8  # Times that weights and fit take turns.
OUTLIER = 3.0  # Angles, in medians, from which on a pixel counts less.
LEAST_ANGLE = 1e-6  # Angles below this are rounding [rad].

Array = NDArray[np.float64]


def cameras_from_rays(
    rays: ArrayLike, confidence: ArrayLike, size: tuple[int, int]
) -> tuple[Array, Array]:
    """Cameras of v views.

    Args:
        rays: Direction (any length) and centre of every pixel of a coarse map [v h w 6].
        confidence: How sure each is, above 0 [v h w].
        size: Height and width of the picture [px].

    Returns:
        World to camera [v 4 4] and intrinsics in pixels [v 3 3].

    Raises:
        EngineFailed: The rays of a view are those of no camera.
    """
    rays, confidence = np.asarray(rays, float), np.asarray(confidence, float)
    height, width = rays.shape[1:3]
    unit = float(max(size))
    places = _places(height, width, size) / unit
    turns, centres, intrinsics = [], [], []
    for view, (ray, sure) in enumerate(zip(rays, confidence, strict=True)):
        directions, weight = ray[..., :3].reshape(-1, 3), sure.reshape(-1)
        lengths = np.linalg.norm(directions, axis=1)
        weight = np.where(np.isfinite(lengths) & (lengths > 0), weight, 0)
        directions = np.nan_to_num(directions / np.maximum(lengths, 1e-12)[:, None])
        rotation, K = _split(_fit(places, directions, weight), view)
        turns.append(rotation)
        intrinsics.append(np.diag([unit, unit, 1]) @ K + _centre(size))
        centres.append(weight @ np.nan_to_num(ray[..., 3:].reshape(-1, 3)) / weight.sum())
    return invert_rigid(rigid(np.stack(turns), np.stack(centres))), np.stack(intrinsics)


def _places(height: int, width: int, size: tuple[int, int]) -> Array:
    """Places [h w 3] of the map's pixels, from the middle of the picture [px]; the last is `max`.

    The last number is the largest side, so that it becomes 1 when all is divided by that.
    """
    x = (np.arange(width) + 0.5) * size[1] / width - size[1] / 2
    y = (np.arange(height) + 0.5) * size[0] / height - size[0] / 2
    rows, columns = np.meshgrid(y, x, indexing="ij")
    return np.stack([columns, rows, np.full(rows.shape, max(size))], -1).reshape(-1, 3)


def _centre(size: tuple[int, int]) -> Array:
    """What brings the origin of places from the middle to the corner of the picture."""
    out = np.zeros((3, 3))
    out[:2, 2] = size[1] / 2, size[0] / 2
    return out


def _fit(places: Array, directions: Array, confidence: Array) -> Array:
    """The matrix [3 3] that takes places [n 3] closest to unit directions [n 3]."""
    floor = np.quantile(confidence, 1 - SURE_SHARE)
    weight = np.where(confidence >= floor, confidence, 0.0)
    matrix = _solve(places, directions, weight)
    for _ in range(ROUNDS):
        seen = places @ matrix.T
        seen /= np.maximum(np.linalg.norm(seen, axis=1, keepdims=True), 1e-12)
        angle = np.linalg.norm(np.cross(seen, directions), axis=1)
        angle = np.where(np.sum(seen * directions, 1) < 0, 2 - angle, angle)
        limit = max(OUTLIER * float(np.median(angle)), LEAST_ANGLE)
        weight = confidence * np.minimum(1, limit / np.maximum(angle, limit)) ** 2
        matrix = _solve(places, directions, weight)
    return matrix


def _solve(places: Array, directions: Array, weight: Array) -> Array:
    """Least weighted squares of the cross products of directions and mapped places."""
    second = np.einsum("n,nj,nk->jk", weight, places, places)
    both = np.einsum("n,na,nb,nj,nk->ajbk", weight, directions, directions, places, places)
    system = np.einsum("ab,jk->ajbk", np.eye(3), second) - both
    _, vectors = np.linalg.eigh(system.reshape(9, 9))
    matrix = vectors[:, 0].reshape(3, 3)
    ahead = weight @ np.sum(directions * (places @ matrix.T), 1)
    return matrix if ahead >= 0 else -matrix


def _split(matrix: Array, view: int) -> tuple[Array, Array]:
    """Rotation and intrinsics without skew of a matrix R K^-1.

    Raises:
        EngineFailed: It mirrors, or lets a direction vanish.
    """
    values = np.linalg.svd(matrix, compute_uv=False)
    if not (np.linalg.det(matrix) > 0 and values[2] > 1e-6 * values[0]):
        raise EngineFailed(
            f"the rays of view {view} are those of no camera (determinant "
            f"{np.linalg.det(matrix):.3g}); take the cameras of the decoder instead"
        )
    rotation, upper = np.linalg.qr(matrix)
    signs = np.sign(np.diag(upper))
    K = np.linalg.inv(signs[:, None] * upper)
    K /= K[2, 2]
    K[0, 1] = 0.0
    return rotation * signs, K
