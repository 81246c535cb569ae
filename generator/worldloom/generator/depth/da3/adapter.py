"""Raw numbers per pixel, depth and cameras -> Gaussians of the world (spec reconstruction 2.8).

No weights. The released heads were trained through two oddities, which released weights must meet
again: depth is multiplied by a ray of unit length, and the rotation is R_net S R_c2w^T S^T instead
of R_c2w R_net. With the second the world must be one in which the first camera is about identity.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from worldloom.generator.depth.da3.gs_head import RawGaussians
from worldloom.generator.depth.da3.harmonics import rotate_bands
from worldloom.scene.frame import quat_wxyz_from_matrix

PARTS = (2, 3, 4, 27, 1)
"""Numbers of offset, scale, quaternion, harmonics and depth offset, in this order."""
COEFFICIENTS = 9  # Harmonics of degree 2, per colour.
LEAST_SCALE, LARGEST_SCALE = 1e-5, 30.0  # Range of the scale in tenths of a pixel's footprint.
SCALE_UNIT = 0.1
BAND_WEIGHTS = (1.0, 0.025, 0.00625)  # 0.1 x 0.25^degree from degree 1 on.
QUIRK = ((0.0, 0.0, 1.0), (0.0, -1.0, 0.0), (-1.0, 0.0, 0.0))
"""The matrix S of the released rotation."""


@dataclass(frozen=True)
class AdapterOptions:
    """How raw numbers are read; the defaults suit the released weights."""

    released_rotation: bool = True
    """R_net S R_c2w^T S^T, as trained; else R_c2w R_net, for heads that were tuned so."""
    unit_rays: bool = True
    """Depth times a ray of unit length, as trained; else depth along z."""
    half_pixel_fix: bool = False
    """Cast the ray through the pixel whose depth is taken, not through the block's centre."""
    scale_multiplier: float = 1.0
    """Of the largest scale."""
    least_depth: float = 1e-3
    """Depth and offset together are held above this share of the median depth; the released code
    lets them become negative."""
    harmonics: bool = False
    """Keep degrees 1 and 2, rotated into the world; else the constant term alone, as released."""


@dataclass(frozen=True)
class Gaussians:
    """n Gaussians in the world of the cameras, view by view, row by row."""

    means: Tensor
    """Centres [n 3]."""
    scales: Tensor
    """Standard deviations, linear [n 3]."""
    quats_wxyz: Tensor
    """Unit rotations [n 4], the last number not negative."""
    opacities: Tensor
    """Opacity 0..1 [n]."""
    sh: Tensor
    """Coefficients [n k 3], k = 1 or 9; the constant term first."""


def to_gaussians(
    raw: RawGaussians,
    depth: Tensor,
    c2w: Tensor,
    K: Tensor,
    *,
    scale: float = 1.0,
    options: AdapterOptions | None = None,
) -> Gaussians:
    """Gaussians of all views.

    Args:
        raw: What the head said, grids of hg x wg.
        depth: The network's depth [v H W] in its own units.
        c2w: Cameras of the views in the world [v 4 4].
        K: Intrinsics [v 3 3] in pixels of `depth`.
        scale: Network units in one unit of the world (spec 1.3).
        options: How the numbers are read.
    """
    options = options or AdapterOptions()
    offset, size, quat, sh, further = raw.raw.float().split(PARTS, -1)
    K, c2w = K.to(raw.raw).float(), c2w.to(raw.raw).float()
    z = (at_grid(depth.float(), raw.raw.shape[1:3]) + further[..., 0]) / scale
    z = z.clamp(min=options.least_depth * float(depth.median()) / scale)
    places = grid_places(raw.raw.shape[1:3], depth.shape[1:], options.half_pixel_fix).to(z.device)
    cells = offset.new_tensor([raw.raw.shape[2], raw.raw.shape[1]])
    rays = camera_rays(places + offset / cells, _normalised(K, depth.shape))
    if options.unit_rays:
        rays = normalize(rays, dim=-1)
    turn = c2w[:, None, None, :3, :3]
    z = z[..., None]
    means = c2w[:, None, None, :3, 3] + z * (turn @ rays[..., None])[..., 0]
    colours = sh.unflatten(-1, (3, COEFFICIENTS)).transpose(-1, -2)
    return Gaussians(
        means=means.reshape(-1, 3),
        scales=(z * _scales(size, K, depth.shape, raw.raw.shape, options)).reshape(-1, 3),
        quats_wxyz=rotations(quat, c2w[:, :3, :3], released=options.released_rotation),
        opacities=raw.opacity.float().reshape(-1),
        sh=_harmonics(colours, c2w[:, :3, :3], options),
    )


def at_grid(depth: Tensor, grid: tuple[int, int]) -> Tensor:
    """Depth [v H W] at a coarser grid: the top left pixel of every block, not the mean."""
    rows, columns = depth.shape[1] // grid[0], depth.shape[2] // grid[1]
    return depth[:, ::rows, ::columns][:, : grid[0], : grid[1]]


def grid_places(grid: tuple[int, int], size: tuple[int, int], fixed: bool) -> Tensor:
    """Places [hg wg 2] of the grid's points as shares of the picture, x before y.

    Args:
        grid: Rows and columns of Gaussians.
        size: Height and width of the picture [px].
        fixed: Take the centres of the pixels whose depth is read, not those of the blocks.
    """
    axes = []
    for cells, pixels in zip(grid, size, strict=True):
        cell = torch.arange(cells, dtype=torch.float32)
        step = pixels // cells
        axes.append((cell * step + 0.5) / pixels if fixed else (cell + 0.5) / cells)
    y, x = torch.meshgrid(*axes, indexing="ij")
    return torch.stack([x, y], -1)


def camera_rays(places: Tensor, K: Tensor) -> Tensor:
    """Rays [v hg wg 3] with z = 1 through places [v hg wg 2], by intrinsics [v 3 3] in shares."""
    ones = torch.ones_like(places[..., :1])
    inverse = torch.linalg.inv(K)[:, None, None]
    return (inverse @ torch.cat([places, ones], -1)[..., None])[..., 0]


def rotations(quat_xyzw: Tensor, c2w: Tensor, *, released: bool) -> Tensor:
    """Rotations in the world [n 4], wxyz, of raw quaternions [v hg wg 4] of cameras [v 3 3].

    As released the four numbers are mixed up on their way; what comes out is the raw rotation
    first turned by the camera's inverse in swapped axes (spec 2.8, 7).
    """
    q = quat_xyzw / (quat_xyzw.norm(dim=-1, keepdim=True) + 1e-8)
    own = q[..., [3, 0, 1, 2]]
    if released:
        swap = torch.tensor(QUIRK, dtype=c2w.dtype, device=c2w.device)
        out = multiply(own, quaternions(swap @ c2w.transpose(1, 2) @ swap.T)[:, None, None])
    else:
        out = multiply(quaternions(c2w)[:, None, None], own)
    out = normalize(out, dim=-1).reshape(-1, 4)
    return torch.where(out[:, 3:] < 0, -out, out)


def quaternions(rotation: Tensor) -> Tensor:
    """Quaternions [v 4], wxyz, of a few rotation matrices [v 3 3]."""
    found = quat_wxyz_from_matrix(rotation.detach().double().cpu().numpy())
    return torch.from_numpy(found).to(rotation)


def multiply(left: Tensor, right: Tensor) -> Tensor:
    """Hamilton product of quaternions [... 4], wxyz: first `right`, then `left`."""
    w1, x1, y1, z1 = left.unbind(-1)
    w2, x2, y2, z2 = right.unbind(-1)
    parts = (
        w1 * w2 - x1 * x2 - y1 * y2 - z1 * z2,
        w1 * x2 + x1 * w2 + y1 * z2 - z1 * y2,
        w1 * y2 - x1 * z2 + y1 * w2 + z1 * x2,
        w1 * z2 + x1 * y2 - y1 * x2 + z1 * w2,
    )
    return torch.stack(parts, -1)


def _normalised(K: Tensor, size: torch.Size) -> Tensor:
    """Intrinsics [v 3 3] in shares of a picture [v H W]."""
    return K / K.new_tensor([[size[2]], [size[1]], [1.0]])


def _scales(
    raw: Tensor, K: Tensor, size: torch.Size, grid: torch.Size, options: AdapterOptions
) -> Tensor:
    """Scales [v hg wg 3] at depth 1: a range in tenths of a grid pixel's footprint."""
    largest = LARGEST_SCALE * options.scale_multiplier
    share = LEAST_SCALE + (largest - LEAST_SCALE) * raw.sigmoid()
    normal = _normalised(K, size)[:, :2, :2]
    pixel = normal.new_tensor([1 / grid[2], 1 / grid[1]])
    footprint = SCALE_UNIT * (torch.linalg.inv(normal) @ pixel).sum(-1)
    return share * footprint[:, None, None, None]


def _harmonics(sh: Tensor, c2w: Tensor, options: AdapterOptions) -> Tensor:
    """Coefficients [n k 3] in the world of raw ones [v hg wg 9 3]."""
    if not options.harmonics:
        return sh[..., :1, :].reshape(-1, 1, 3)
    weights = [w for band, w in enumerate(BAND_WEIGHTS) for _ in range(2 * band + 1)]
    sh = sh * sh.new_tensor(weights)[:, None]
    return rotate_bands(sh, c2w).reshape(-1, COEFFICIENTS, 3)
