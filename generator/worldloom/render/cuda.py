"""The same picture through gsplat on a CUDA device. Written to run there; untried here."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from worldloom.scene.frame import invert_rigid
from worldloom.scene.splats import Splats

if TYPE_CHECKING:
    from worldloom.render.rasterise import Render


def rasterise_cuda(
    splats: Splats,
    c2w: ArrayLike,
    K: ArrayLike,
    size: tuple[int, int],
    *,
    background: tuple[float, float, float] = (0.0, 0.0, 0.0),
) -> Render:
    """Draw splats with gsplat; arguments and result as `rasterise`."""
    import torch
    from gsplat import rasterization

    from worldloom.render.rasterise import Render

    def to_device(array: ArrayLike) -> torch.Tensor:
        return torch.as_tensor(np.ascontiguousarray(array, np.float32), device="cuda")

    width, height = size
    with torch.no_grad():
        image, alpha, _ = rasterization(
            means=to_device(splats.means),
            quats=to_device(splats.quats_wxyz),
            scales=to_device(splats.scales),
            opacities=to_device(splats.opacities),
            colors=to_device(splats.sh),
            viewmats=to_device(invert_rigid(c2w))[None],
            Ks=to_device(K)[None],
            width=width,
            height=height,
            sh_degree=splats.degree,
            render_mode="RGB+ED",
        )
    picture, alpha = image[0].cpu().numpy(), alpha[0, ..., 0].cpu().numpy()
    rgb = picture[..., :3] + (1 - alpha)[..., None] * np.asarray(background, np.float32)
    return Render(rgb, alpha, np.where(alpha > 0, picture[..., 3], 0).astype(np.float32))
