"""Similarities of space: x -> scale R x + t, with the Lie algebra sim(3) behind them.

A tangent vector is (translation part 3, rotation vector 3 [rad], ln of the scale 1). Batches are
matrices [... 4 4] whose upper left block is scale times rotation, so that they compose by `@`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from worldloom.scene.errors import InvalidRequest
from worldloom.scene.frame import matrix_from_quat_wxyz, quat_wxyz_from_matrix, rigid

Array = NDArray[np.float64]

TINY = 1e-12  # Angles below this have no axis that could be told [rad].
BERNOULLI = (1 / 12, -1 / 720, 1 / 30240, -1 / 1209600)
"""B_2k / (2k)!, k = 1..4: the inverse Jacobian's series in squares of the adjoint."""


@dataclass(frozen=True)
class Similarity:
    """The map x -> scale * R @ x + t from a source frame to a target frame."""

    scale: float
    """Target units in one source unit, above 0."""
    R: Array
    """Rotation, shape [3 3]."""
    t: Array
    """Translation in target units, shape [3]."""

    @staticmethod
    def identity() -> Similarity:
        """The map that changes nothing."""
        return Similarity(1.0, np.eye(3), np.zeros(3))

    @staticmethod
    def from_matrix(matrix: ArrayLike) -> Similarity:
        """From a matrix [4 4] whose upper left block is scale times rotation.

        Raises:
            InvalidRequest: The block is no scaled rotation, or a number is not finite.
        """
        m = np.asarray(matrix, float)
        scale = float(np.cbrt(np.linalg.det(m[:3, :3]))) if np.isfinite(m).all() else np.nan
        error = np.abs(m[:3, :3] @ m[:3, :3].T - scale**2 * np.eye(3)).max() if scale > 0 else 1.0
        if not (scale > 0 and error <= 1e-6 * scale**2):
            raise InvalidRequest(
                f"the matrix is no similarity (scale {scale:g}, deviation {error:.3g}; the limit "
                "is 1e-6 of the scale squared); its upper left block must be a scaled rotation"
            )
        return Similarity(scale, m[:3, :3] / scale, m[:3, 3].copy())

    @staticmethod
    def exp(tangent: ArrayLike) -> Similarity:
        """The map of a tangent vector [7]: translation part, rotation vector, ln of the scale."""
        return Similarity.from_matrix(exp_sim3(tangent))

    def log(self) -> Array:
        """Tangent vector [7] of this map; angles up to pi."""
        return log_sim3(self.matrix)

    @property
    def matrix(self) -> Array:
        """The map as a matrix [4 4]."""
        return rigid(self.scale * self.R, self.t)

    @property
    def angle_rad(self) -> float:
        """How far it turns [rad], 0..pi."""
        return float(np.linalg.norm(rotation_vector(self.R)))

    def apply(self, points: ArrayLike) -> Array:
        """Points [... 3] of the source in the target."""
        return self.scale * np.asarray(points, float) @ self.R.T + self.t

    def apply_cameras(self, c2w: ArrayLike) -> Array:
        """Camera to source [... 4 4] -> camera to target; stays rigid (spec 6.3)."""
        c2w = np.asarray(c2w, float)
        return rigid(self.R @ c2w[..., :3, :3], self.apply(c2w[..., :3, 3]))

    def apply_depth(self, depth: ArrayLike) -> NDArray:
        """z-depth (any shape) in source units -> in target units; 0 stays 0."""
        return np.asarray(depth) * np.asarray(self.scale, np.asarray(depth).dtype)

    def compose(self, inner: Similarity) -> Similarity:
        """First `inner`, then this."""
        return Similarity(self.scale * inner.scale, self.R @ inner.R, self.apply(inner.t))

    def __matmul__(self, inner: Similarity) -> Similarity:
        """First `inner`, then this."""
        return self.compose(inner)

    def inverse(self) -> Similarity:
        """From the target back to the source."""
        return Similarity(1 / self.scale, self.R.T, -(self.t @ self.R) / self.scale)

    def rigid(self) -> Similarity:
        """The same turn and shift with scale 1."""
        return Similarity(1.0, self.R, self.t)


def rotation_vector(rotation: ArrayLike) -> Array:
    """Rotation matrices [... 3 3] -> axis times angle [rad], shape [... 3]; angles up to pi."""
    q = quat_wxyz_from_matrix(rotation)
    sine = np.linalg.norm(q[..., 1:], axis=-1, keepdims=True)
    angle = 2 * np.arctan2(sine, q[..., :1])
    return q[..., 1:] * np.where(sine > TINY, angle / np.maximum(sine, TINY), 2.0)


def rotation_from_vector(vector: ArrayLike) -> Array:
    """Axis times angle [rad] [... 3] -> rotation matrices [... 3 3]."""
    vector = np.asarray(vector, float)
    half = 0.5 * np.linalg.norm(vector, axis=-1, keepdims=True)
    # sinc keeps the small angles exact.
    return matrix_from_quat_wxyz(
        np.concatenate([np.cos(half), 0.5 * vector * np.sinc(half / np.pi)], -1)
    )


def cross_matrix(vector: ArrayLike) -> Array:
    """Matrices [... 3 3] that take the cross product with vectors [... 3] from the left."""
    x, y, z = np.moveaxis(np.asarray(vector, float), -1, 0)
    zero = np.zeros_like(x)
    rows = [[zero, -z, y], [z, zero, -x], [-y, x, zero]]
    return np.stack([np.stack(row, -1) for row in rows], -2)


def exp_sim3(tangent: ArrayLike) -> Array:
    """Tangent vectors [... 7] -> similarities [... 4 4]."""
    tangent = np.asarray(tangent, float)
    turn, log_scale = tangent[..., 3:6], tangent[..., 6]
    rotation = np.exp(log_scale)[..., None, None] * rotation_from_vector(turn)
    shift = _shift_matrix(turn, log_scale, inverse=False)
    return rigid(rotation, np.einsum("...ij,...j->...i", shift, tangent[..., :3]))


def log_sim3(matrix: ArrayLike) -> Array:
    """Similarities [... 4 4] -> tangent vectors [... 7]; angles up to pi."""
    m = np.asarray(matrix, float)
    scale = np.cbrt(np.linalg.det(m[..., :3, :3]))
    turn, log_scale = rotation_vector(m[..., :3, :3] / scale[..., None, None]), np.log(scale)
    shift = _shift_matrix(turn, log_scale, inverse=True)
    part = np.einsum("...ij,...j->...i", shift, m[..., :3, 3])
    return np.concatenate([part, turn, log_scale[..., None]], -1)


def _shift_matrix(turn: Array, log_scale: Array, *, inverse: bool) -> Array:
    """The integral of exp(x (log_scale + [turn]_x)) over x in 0..1, [... 3 3], or its inverse.

    On the axis the cross product is 0 and across it the number i angle, so one complex function
    gives the whole matrix (Strasdat, 2012, eq. 5.29, without its case distinctions).
    """
    angle = np.linalg.norm(turn, axis=-1)
    axis = np.where(angle[..., None] > TINY, turn / np.maximum(angle, TINY)[..., None], [0, 0, 1.0])
    along, across = _relative(log_scale + 0j), _relative(log_scale + 1j * angle)
    if inverse:
        along, across = 1 / along, 1 / across
    outer = axis[..., :, None] * axis[..., None, :]
    parts = along.real, across.real, across.imag
    a, b, c = (part[..., None, None] for part in parts)
    return a * outer + b * (np.eye(3) - outer) + c * cross_matrix(axis)


def _relative(z: NDArray[np.complex128]) -> NDArray[np.complex128]:
    """(e^z - 1) / z, 1 at 0."""
    safe = np.where(np.abs(z) > TINY, z, 1.0)
    return np.where(np.abs(z) > TINY, np.expm1(safe) / safe, 1.0)


def invert_sim3(matrix: ArrayLike) -> Array:
    """Inverse of similarities [... 4 4]."""
    m = np.asarray(matrix, float)
    squared = np.cbrt(np.linalg.det(m[..., :3, :3]))[..., None, None] ** 2
    block = np.swapaxes(m[..., :3, :3], -1, -2) / squared
    return rigid(block, -np.einsum("...ij,...j->...i", block, m[..., :3, 3]))


def adjoint(matrix: ArrayLike) -> Array:
    """Matrices [... 7 7] with S exp(x) = exp(adjoint(S) x) S for similarities [... 4 4]."""
    m = np.asarray(matrix, float)
    scale = np.cbrt(np.linalg.det(m[..., :3, :3]))[..., None, None]
    out = np.zeros((*m.shape[:-2], 7, 7))
    rotation = m[..., :3, :3] / scale
    out[..., :3, :3], out[..., 3:6, 3:6], out[..., 6, 6] = m[..., :3, :3], rotation, 1.0
    out[..., :3, 3:6] = cross_matrix(m[..., :3, 3]) @ rotation
    out[..., :3, 6] = -m[..., :3, 3]
    return out


def inverse_right_jacobian(tangent: ArrayLike) -> Array:
    """Matrices J [... 7 7] with log(exp(x) exp(d)) = x + J d + O(d^2) for tangents x [... 7].

    The series in the adjoint; its four terms are exact to 1e-6 for turns up to a radian.
    """
    x = np.asarray(tangent, float)
    ad = np.zeros((*x.shape[:-1], 7, 7))
    ad[..., :3, :3] = cross_matrix(x[..., 3:6]) + x[..., 6, None, None] * np.eye(3)
    ad[..., 3:6, 3:6] = cross_matrix(x[..., 3:6])
    ad[..., :3, 3:6], ad[..., :3, 6] = cross_matrix(x[..., :3]), -x[..., :3]
    square = ad @ ad
    out, power = np.eye(7) + 0.5 * ad, np.eye(7)
    for factor in BERNOULLI:
        power = power @ square
        out = out + factor * power
    return out
