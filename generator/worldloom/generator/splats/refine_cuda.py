"""The same refinement through gsplat on a CUDA device. Written to run there; untried here.

gsplat adds gradients with atomics in no fixed order, so its bytes differ from run to run; the CPU
path is the one whose result depends on nothing but its input.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from worldloom.generator.splats.photometric import C1, C2, SSIM_SHARE, WINDOW_SIGMA
from worldloom.generator.video.frame import ORIGIN_NONE, Frame
from worldloom.scene.errors import EngineFailed, JobCancelled
from worldloom.scene.frame import invert_rigid
from worldloom.scene.splats import Splats

if TYPE_CHECKING:
    from torch import Tensor

    from worldloom.generator.splats.refine import Rates

OPACITY_RANGE = (0.005, 0.995)  # Where logits stay tame.


def refine_with_gsplat(
    splats: Splats,
    frames: Sequence[Frame],
    order: Sequence[int],
    rates: Rates,
    on_step: Callable[[int, int], None] | None,
    cancelled: Callable[[], bool] | None,
) -> Splats:
    """Fit splats to the keyframes in `order`; see `refine_splats`.

    Raises:
        EngineFailed: No CUDA device is there.
        JobCancelled: `cancelled` became true.
    """
    import torch

    if not torch.cuda.is_available():
        raise EngineFailed("refinement by gsplat needs a CUDA device; use the backend numba")
    free = _parameters(splats)
    size = torch.exp(free["scales"].detach()).amax(1, keepdim=True)
    groups = [
        ("dc", rates.colour / 0.282), ("logits", rates.opacity), ("scales", rates.scale),
        ("shift", rates.mean), ("quats", rates.quat),
    ]  # fmt: skip
    optimizer = torch.optim.Adam(
        [{"params": [free[name]], "lr": lr} for name, lr in groups if lr > 0], betas=(0.9, 0.99),
        eps=1e-15,
    )  # fmt: skip
    first = [group["lr"] for group in optimizer.param_groups]
    for step, number in enumerate(order):
        if cancelled is not None and cancelled():
            raise JobCancelled(f"cancelled at step {step} of {len(order)} of the refinement")
        for group, lr in zip(optimizer.param_groups, first, strict=True):
            group["lr"] = lr * rates.final ** (step / len(order))
        optimizer.zero_grad(set_to_none=True)
        _loss(free, size, frames[number]).backward()
        optimizer.step()
        if on_step is not None:
            on_step(step + 1, len(order))
    return _finished(splats, free, size)


def _parameters(splats: Splats) -> dict[str, Tensor]:
    """Free tensors on the device; centres are shifts in units of a splat's own size."""
    import torch

    opacity = np.clip(splats.opacities, *OPACITY_RANGE)
    arrays = {
        "dc": splats.sh[:, :1],
        "rest": splats.sh[:, 1:],
        "logits": np.log(opacity / (1 - opacity)),
        "scales": np.log(splats.scales),
        "shift": np.zeros_like(splats.means),
        "means": splats.means,
        "quats": splats.quats_wxyz,
    }
    held = ("rest", "means")
    return {
        name: torch.tensor(array, device="cuda", requires_grad=name not in held)
        for name, array in arrays.items()
    }


def _loss(free: dict[str, Tensor], size: Tensor, frame: Frame) -> Tensor:
    import torch
    from gsplat import rasterization

    def tensor(array: np.ndarray) -> Tensor:
        return torch.as_tensor(np.ascontiguousarray(array, np.float32), device="cuda")

    height, width = frame.depth.shape
    sh = torch.cat([free["dc"], free["rest"]], 1)
    image, _, _ = rasterization(
        means=free["means"] + size * free["shift"],
        quats=free["quats"],
        scales=torch.exp(free["scales"]),
        opacities=torch.sigmoid(free["logits"]),
        colors=sh,
        viewmats=tensor(invert_rigid(frame.c2w))[None],
        Ks=tensor(frame.K)[None],
        width=width,
        height=height,
        sh_degree=round(sh.shape[1] ** 0.5) - 1,
    )
    mask = torch.as_tensor(frame.origin != ORIGIN_NONE, device="cuda")[..., None]
    target = torch.where(mask, tensor(frame.rgb), image[0].detach())
    error = (1 - SSIM_SHARE) * (image[0] - target).abs()
    unlike = SSIM_SHARE * (1 - _ssim(image[0], target)) / 2
    return ((error + unlike) * mask).sum() / (3 * mask.sum().clamp(min=1))


def _ssim(x: Tensor, y: Tensor) -> Tensor:
    """Structural similarity of every pixel and channel, [h w 3]."""
    import torch
    from torch.nn.functional import conv2d

    reach = torch.arange(-5, 6, device=x.device)
    kernel = torch.exp(-0.5 * (reach / WINDOW_SIGMA) ** 2)
    kernel = kernel / kernel.sum()

    def window(image: Tensor) -> Tensor:
        planes = image.permute(2, 0, 1)[:, None]
        planes = conv2d(planes, kernel.view(1, 1, 11, 1), padding=(5, 0))
        return conv2d(planes, kernel.view(1, 1, 1, 11), padding=(0, 5))[:, 0].permute(1, 2, 0)

    mx, my = window(x), window(y)
    vx, vy, cxy = window(x * x) - mx * mx, window(y * y) - my * my, window(x * y) - mx * my
    top = (2 * mx * my + C1) * (2 * cxy + C2)
    return top / ((mx * mx + my * my + C1) * (vx + vy + C2))


def _finished(splats: Splats, free: dict[str, Tensor], size: Tensor) -> Splats:
    import torch

    with torch.no_grad():
        quats = free["quats"] / free["quats"].norm(dim=1, keepdim=True)
        tensors = (
            free["means"] + size * free["shift"],
            torch.exp(free["scales"]),
            quats,
            torch.sigmoid(free["logits"]),
        )
        arrays = [np.ascontiguousarray(t.cpu().numpy(), np.float32) for t in tensors]
        sh = splats.sh.copy()
        sh[:, :1] = free["dc"].cpu().numpy()
    return Splats(*arrays, sh)
