"""Cameras: where each frame was seen from, and what its pixels mean.

Axes are OpenCV's (x right, y down, z forward). The centre of pixel (column j, row i) lies at
(j + 0.5, i + 0.5), so a point projects to u = fx x / z + cx, v = fy y / z + cy.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from numpy.typing import ArrayLike, NDArray

from worldloom.scene.errors import InvalidCameraPath
from worldloom.scene.frame import invert_rigid, rotation_error

ROTATION_TOLERANCE = 1e-3
"""Largest |R R^T - I| that still counts as a rotation; float32 files stay far below."""


@dataclass(frozen=True)
class Cameras:
    """Cameras of n frames in the world frame."""

    c2w: NDArray[np.float64]
    """Camera to world, OpenCV camera axes, world metres, shape [n 4 4]."""
    K: NDArray[np.float64]
    """Intrinsics in pixels, shape [n 3 3]."""
    size: NDArray[np.int64]
    """Image width and height in pixels, shape [n 2]."""
    frame_id: NDArray[np.int64]
    """Number of each frame in the whole video, shape [n]."""

    @property
    def n(self) -> int:
        """Number of cameras."""
        return len(self.c2w)

    @property
    def centres(self) -> NDArray[np.float64]:
        """Camera centres in the world [m], shape [n 3]."""
        return self.c2w[:, :3, 3]

    @property
    def w2c(self) -> NDArray[np.float64]:
        """World to camera, shape [n 4 4]."""
        return invert_rigid(self.c2w)

    def select(self, index: ArrayLike | slice) -> Cameras:
        """The cameras at `index` (mask, integers or slice)."""
        index = index if isinstance(index, slice) else np.asarray(index)
        return Cameras(self.c2w[index], self.K[index], self.size[index], self.frame_id[index])

    @staticmethod
    def concat(parts: Sequence[Cameras]) -> Cameras:
        """Several camera lists as one, in order."""
        fields = ("c2w", "K", "size", "frame_id")
        return Cameras(*(np.concatenate([getattr(part, f) for part in parts]) for f in fields))

    def scaled(self, width: int, height: int) -> Cameras:
        """The same views sampled with `width` x `height` pixels."""
        factor = np.array([width, height]) / self.size
        K = self.K.copy()
        K[:, 0] *= factor[:, :1]
        K[:, 1] *= factor[:, 1:]
        return replace(self, K=K, size=np.broadcast_to([width, height], self.size.shape).copy())

    def check(self) -> None:
        """Refuse arrays that no camera can have.

        Raises:
            InvalidCameraPath: A shape, pose or focal length is wrong; names the first bad frame.
        """
        n = len(self.c2w)
        shapes = {"c2w": (n, 4, 4), "K": (n, 3, 3), "size": (n, 2), "frame_id": (n,)}
        for name, shape in shapes.items():
            if getattr(self, name).shape != shape:
                raise InvalidCameraPath(
                    f"{name} has shape {getattr(self, name).shape}; {n} cameras need {shape}",
                    field=name,
                )
        check_poses(self.c2w)
        focal = np.minimum(self.K[:, 0, 0], self.K[:, 1, 1])
        if not (np.isfinite(self.K).all() and (focal > 0).all()):
            bad = int(np.argmax(~np.isfinite(self.K).all((1, 2)) | ~(focal > 0)))
            raise InvalidCameraPath(
                f"camera {bad} has focal lengths {self.K[bad, 0, 0]:g}, {self.K[bad, 1, 1]:g} px; "
                "both must be finite and above zero",
                field="K",
            )

    def to_npz(self) -> bytes:
        """The cameras as an uncompressed npz file; the same cameras give the same bytes."""
        arrays = {"c2w": self.c2w, "K": self.K, "size": self.size, "frame_id": self.frame_id}
        return npz_bytes(arrays)

    @staticmethod
    def load(file: Path) -> Cameras:
        """Read `cameras.npz`.

        Raises:
            InvalidCameraPath: The file is no npz, lacks an array, or holds impossible cameras.
        """
        try:
            with np.load(file, allow_pickle=False) as data:
                c2w = np.asarray(data["c2w"], float)
                cameras = Cameras(
                    c2w,
                    np.asarray(data["K"], float),
                    np.asarray(data["size"], np.int64),
                    np.asarray(data.get("frame_id", np.arange(len(c2w))), np.int64),
                )
        except (OSError, EOFError, BadZipFile, ValueError, KeyError) as error:
            raise InvalidCameraPath(
                f"{file} is not a cameras.npz ({error}); it needs c2w [n 4 4], "
                "K [n 3 3] and size [n 2]"
            ) from error
        cameras.check()
        return cameras


def check_poses(c2w: ArrayLike) -> None:
    """Refuse transforms [n 4 4] that are not rigid.

    Raises:
        InvalidCameraPath: Names the first bad pose and why it is bad.
    """
    c2w = np.asarray(c2w, float)
    finite = np.isfinite(c2w).all((1, 2))
    if not finite.all():
        bad = int(np.argmin(finite))
        where = "rotation" if not np.isfinite(c2w[bad, :3, :3]).all() else "position"
        raise InvalidCameraPath(
            f"pose {bad} has a NaN or infinity in its {where}; every pose must be finite",
            field=f"path.pose[{bad}]",
        )
    error = rotation_error(c2w[:, :3, :3])
    if not (error <= ROTATION_TOLERANCE).all():
        bad = int(np.argmax(~(error <= ROTATION_TOLERANCE)))
        raise InvalidCameraPath(
            f"pose {bad} is not a rotation (|R R^T - I| = {error[bad]:.3g}, or mirrored); "
            f"the limit is {ROTATION_TOLERANCE:g}. Normalise the matrix or quaternion",
            field=f"path.pose[{bad}]",
        )


def intrinsics(fov_x_deg: float, width: int, height: int) -> NDArray[np.float64]:
    """Pinhole matrix [3 3] in pixels of a horizontal field of view, square pixels, centred."""
    focal = 0.5 * width / np.tan(np.radians(fov_x_deg) / 2)
    return np.array([[focal, 0.0, width / 2], [0.0, focal, height / 2], [0.0, 0.0, 1.0]])


def strided(K: ArrayLike, step: int) -> NDArray[np.float64]:
    """Intrinsics [... 3 3] of every `step`-th pixel `[::step, ::step]` of a picture.

    Column j of the result is column s j of the picture, whose centre is at s j + 0.5: dividing by s
    puts it at j + 0.5 / s, and its own centre is at j + 0.5.
    """
    K = np.array(K, np.float64)
    K[..., :2, :] /= step
    K[..., :2, 2] += 0.5 - 0.5 / step
    return K


def pixel_rays(K: ArrayLike, width: int, height: int) -> NDArray[np.float64]:
    """Directions of all pixel centres in camera axes with z = 1, shape [h w 3].

    Depth times these is the point in the camera frame.
    """
    K = np.asarray(K, float)
    x = (np.arange(width) + 0.5 - K[0, 2]) / K[0, 0]
    y = (np.arange(height) + 0.5 - K[1, 2]) / K[1, 1]
    out = np.ones((height, width, 3))
    out[..., 0], out[..., 1] = x[None, :], y[:, None]
    return out


def unproject(depth: ArrayLike, K: ArrayLike, c2w: ArrayLike) -> NDArray[np.float64]:
    """World points [h w 3] in metres of a z-depth image [h w]; depth 0 gives the camera centre."""
    depth, c2w = np.asarray(depth, float), np.asarray(c2w, float)
    rays = pixel_rays(K, depth.shape[1], depth.shape[0])
    return (rays * depth[..., None]) @ c2w[:3, :3].T + c2w[:3, 3]


def project(
    points: ArrayLike, K: ArrayLike, w2c: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """World points [... 3] -> pixel positions [... 2] (centres at +0.5) and z-depth [...].

    Points at or behind the camera plane give non-finite pixels: test the depth first.
    """
    K, w2c = np.asarray(K, float), np.asarray(w2c, float)
    local = np.asarray(points, float) @ w2c[:3, :3].T + w2c[:3, 3]
    z = local[..., 2]
    with np.errstate(divide="ignore", invalid="ignore"):
        uv = local[..., :2] / z[..., None]
    return uv * [K[0, 0], K[1, 1]] + [K[0, 2], K[1, 2]], z


def landing(
    points: ArrayLike, K: ArrayLike, w2c: ArrayLike, shape: tuple[int, int]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64], NDArray[np.bool_]]:
    """The pixel that shows each world point [n 3] in a picture of `shape` (h, w).

    Returns:
        Row and column [n], z-depth [m] [n], and whether the point lies in the picture before the
        camera [n]; rows and columns of points that do not are 0.
    """
    uv, z = project(points, K, w2c)
    inside = (z > 1e-6) & (uv >= 0).all(-1) & (uv < [shape[1], shape[0]]).all(-1)
    column, row = np.where(inside[..., None], uv, 0).astype(np.int64).T
    return row, column, z, inside


def npz_bytes(arrays: dict[str, NDArray]) -> bytes:
    """An uncompressed npz whose bytes depend on nothing but names and arrays.

    `numpy.savez` stamps no time either, but this states the promise in one place and keeps the
    order of the dictionary.
    """
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()
