"""Two pictures -> how unlike they look, and the gradient: L1 + 0.2 D-SSIM (Kerbl 2023, eq. 7)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

SSIM_SHARE = 0.2  # Share of the structural term.
WINDOW_SIGMA = 1.5  # Gaussian window of SSIM [px], cut at 5 px (Wang 2004).
C1, C2 = 0.01**2, 0.03**2  # Stabilisers for colours in 0..1.


def photometric_loss(
    image: NDArray[np.float32], target: NDArray[np.float32], mask: NDArray[np.bool_]
) -> tuple[float, NDArray[np.float32]]:
    """Mean loss over the masked pixels and its gradient by `image`, [h w 3].

    Args:
        image: Drawn, sRGB, [h w 3].
        target: What it should be, [h w 3].
        mask: Pixels that count, [h w]; elsewhere the target is taken to be the image.
    """
    count = 3 * max(int(mask.sum()), 1)
    target = np.where(mask[..., None], target, image)
    error = image - target
    value, slope = dissimilarity(image, target)
    loss = (1 - SSIM_SHARE) * float(np.abs(error).sum(dtype=np.float64))
    loss += SSIM_SHARE * float(value.sum(dtype=np.float64))
    gradient = (1 - SSIM_SHARE) * np.sign(error) + SSIM_SHARE * slope
    return loss / count, np.where(mask[..., None], gradient / count, 0).astype(np.float32)


def dissimilarity(
    x: NDArray[np.float32], y: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """(1 - SSIM) / 2 of every pixel and channel, and the gradient of its sum by `x`, [h w 3]."""
    mx, my = _window(x), _window(y)
    vx, vy = _window(x * x) - mx * mx, _window(y * y) - my * my
    cxy = _window(x * y) - mx * my
    a1, a2 = 2 * mx * my + C1, 2 * cxy + C2
    b1, b2 = mx * mx + my * my + C1, vx + vy + C2
    ssim = a1 * a2 / (b1 * b2)
    # By the three windowed moments of x; the window is its own adjoint with zeros outside.
    by_cxy = 2 * a1 / (b1 * b2)
    by_vx = -ssim / b2
    by_mean = 2 * my * a2 / (b1 * b2) - 2 * mx * ssim / b1 - by_cxy * my - 2 * by_vx * mx
    slope = _window(by_mean) + 2 * x * _window(by_vx) + y * _window(by_cxy)
    return (1 - ssim) / 2, -slope / 2


def _window(image: NDArray[np.floating]) -> NDArray[np.float32]:
    from scipy.ndimage import correlate1d

    reach = np.arange(-5, 6)
    kernel = np.exp(-0.5 * (reach / WINDOW_SIGMA) ** 2)
    kernel /= kernel.sum()
    out = correlate1d(np.asarray(image, np.float32), kernel, axis=0, mode="constant")
    return correlate1d(out, kernel, axis=1, mode="constant")
