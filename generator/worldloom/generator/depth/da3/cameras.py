"""Cameras -> tokens that condition the network, and its camera feature -> cameras (spec 2.3).

Nine numbers are a camera: centre 3, quaternion xyzw of camera to world with w >= 0, vertical and
horizontal field of view. The principal point is ignored on the way in and central on the way out.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn
from torch.nn import functional

from worldloom.generator.depth.da3.variants import (
    CAMERA_BLOCKS,
    CAMERA_HEADS,
    MLP_RATIO,
    POSE_NUMBERS,
)
from worldloom.generator.depth.da3.vit import Block, GeluMlp
from worldloom.scene.errors import EngineFailed
from worldloom.scene.frame import invert_rigid, quat_wxyz_from_matrix

Array = NDArray[np.float64]

EPS = 1e-5  # LayerNorms outside the backbone.
LEAST_SPREAD = 0.1
"""Distances between cameras below this are not stretched to one (spec 1.2)."""
LEAST_TANGENT = 1e-6  # Keeps the focal length finite when a field of view comes out as 0.


def normalise_poses(w2c: ArrayLike) -> Array:
    """World to camera [v 4 4] as the camera encoder wants it (spec 1.2).

    The first camera becomes the world, and translations are divided by the median distance of the
    centres to the first one, at least 0.1 units. Of an even number the lower of the two middle
    distances is the median, as in the library that the weights were trained with.

    Raises:
        EngineFailed: There is no pose, or one is not finite.
    """
    w2c = np.asarray(w2c, float)
    if w2c.ndim != 3 or w2c.shape[1:] != (4, 4) or not len(w2c) or not np.isfinite(w2c).all():
        raise EngineFailed(
            f"poses of shape {list(w2c.shape)} cannot condition the depth network; give finite "
            "world-to-camera matrices [views, 4, 4]"
        )
    relative = w2c @ invert_rigid(w2c[0])
    distances = np.sort(np.linalg.norm(invert_rigid(relative)[:, :3, 3], axis=-1))
    relative[:, :3, 3] /= max(LEAST_SPREAD, float(distances[(len(distances) - 1) // 2]))
    return relative


def pose_vector(w2c: ArrayLike, K: ArrayLike, size: tuple[int, int]) -> NDArray[np.float32]:
    """The nine numbers [v 9] of cameras.

    Args:
        w2c: World to camera [v 4 4], normalised.
        K: Intrinsics [v 3 3] in pixels of the processed picture.
        size: Height and width of that picture [px].
    """
    c2w, K = invert_rigid(w2c), np.asarray(K, float)
    quat_xyzw = quat_wxyz_from_matrix(c2w[:, :3, :3])[:, [1, 2, 3, 0]]
    height, width = size
    fov = 2 * np.arctan(np.stack([height / 2 / K[:, 1, 1], width / 2 / K[:, 0, 0]], -1))
    return np.concatenate([c2w[:, :3, 3], quat_xyzw, fov], -1).astype(np.float32)


def cameras_of(vector: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Decoded numbers [v 9] -> world to camera [v 4 4] and intrinsics [v 3 3].

    Args:
        vector: As the decoder gives them; quaternions need no unit length.
        size: Height and width of the processed picture [px].
    """
    vector = vector.float()
    rotation = matrix_from_quat_xyzw(vector[:, 3:7])
    w2c = torch.eye(4, device=vector.device).repeat(len(vector), 1, 1)
    w2c[:, :3, :3] = rotation.transpose(1, 2)
    w2c[:, :3, 3] = -(rotation.transpose(1, 2) @ vector[:, :3, None])[..., 0]
    half = torch.tensor(size, dtype=torch.float32, device=vector.device) / 2
    focal = half / torch.tan(vector[:, 7:9] / 2).clamp(min=LEAST_TANGENT)
    K = torch.eye(3, device=vector.device).repeat(len(vector), 1, 1)
    K[:, 1, 1], K[:, 0, 0] = focal[:, 0], focal[:, 1]
    K[:, 1, 2], K[:, 0, 2] = half[0], half[1]
    return w2c, K


def matrix_from_quat_xyzw(quat_xyzw: Tensor) -> Tensor:
    """Rotations [n 3 3] of quaternions [n 4], scalar last, of any length but zero."""
    x, y, z, w = quat_xyzw.unbind(-1)
    s = 2 / (quat_xyzw * quat_xyzw).sum(-1)
    rows = (
        (1 - s * (y * y + z * z), s * (x * y - z * w), s * (x * z + y * w)),
        (s * (x * y + z * w), 1 - s * (x * x + z * z), s * (y * z - x * w)),
        (s * (x * z - y * w), s * (y * z + x * w), 1 - s * (x * x + y * y)),
    )
    return torch.stack([torch.stack(row, -1) for row in rows], -2)


class CameraEncoder(nn.Module):
    """Nine numbers a view -> camera tokens; the views see each other."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.pose_branch = GeluMlp(POSE_NUMBERS, dim // 2, dim)
        self.token_norm = nn.LayerNorm(dim, eps=EPS)
        self.trunk = nn.ModuleList(
            Block(dim, CAMERA_HEADS, GeluMlp(dim, MLP_RATIO * dim, dim), normed=False, eps=EPS)
            for _ in range(CAMERA_BLOCKS)
        )
        self.trunk_norm = nn.LayerNorm(dim, eps=EPS)

    def forward(self, vector: Tensor) -> Tensor:
        """Numbers [v 9] -> tokens [v d]."""
        x = self.token_norm(self.pose_branch(vector))[None]
        for block in self.trunk:
            x = block(x)
        return self.trunk_norm(x)[0]


class CameraDecoder(nn.Module):
    """Camera feature of the backbone -> nine numbers a view."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.backbone = nn.Sequential(
            nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU()
        )
        self.fc_t = nn.Linear(width, 3)
        self.fc_qvec = nn.Linear(width, 4)
        self.fc_fov = nn.Sequential(nn.Linear(width, 2))

    def forward(self, feature: Tensor) -> Tensor:
        """Features [v 2d] -> numbers [v 9], vertical field of view before horizontal."""
        x = self.backbone(feature)
        fov = functional.relu(self.fc_fov(x))
        return torch.cat([self.fc_t(x), self.fc_qvec(x), fov], -1)
