"""Two pictures -> PSNR [dB], SSIM and MS-SSIM.

SSIM: Wang, Bovik, Sheikh, Simoncelli, "Image quality assessment: from error visibility to
structural similarity", IEEE TIP 13(4), 2004: Gaussian window 11 x 11, sigma 1.5, K1 = 0.01,
K2 = 0.03, computed on floats 0..1, per colour channel, mean over channels and over the pixels
whose whole window lies in the picture. MS-SSIM: Wang, Simoncelli, Bovik, "Multiscale structural
similarity for image quality assessment", Asilomar 2003: five scales.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from worldloom.generator.evaluate.pixels import Picture, as_pair
from worldloom.scene.errors import InvalidRequest

PSNR_MAX_DB = 100.0  # Equal pictures; no 8-bit picture that differs comes near.
SIGMA, RADIUS = 1.5, 5  # Window of 11 x 11 (Wang 2004, section III.B).
K1, K2 = 0.01, 0.03  # Wang 2004, section III.B; the range of values is 1.
SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
"""Exponents of the five scales, fine to coarse (Wang 2003, section 3.2)."""
SSIM_SIDE_MIN = 2 * RADIUS + 1
MS_SSIM_SIDE_MIN = SSIM_SIDE_MIN << (len(SCALE_WEIGHTS) - 1)
"""176 px: the coarsest of five scales still holds one window."""


def psnr(picture: Picture, reference: Picture, *, mask: NDArray[np.bool_] | None = None) -> float:
    """Peak signal to noise ratio [dB] of sRGB 0..1, at most 100.

    Args:
        picture: What is judged, [h w 3].
        reference: What it should be, [h w 3].
        mask: Pixels that count, [h w]; all by default.

    Raises:
        InvalidRequest: Unusable pictures, different sizes, or a mask of no pixel.
    """
    a, b = as_pair(picture, reference)
    error = (a - b) ** 2
    if mask is not None:
        if mask.shape != error.shape[:2] or not mask.any():
            raise InvalidRequest(
                f"the mask of shape {mask.shape} selects {int(mask.sum())} pixels of a picture "
                f"[{error.shape[0]} {error.shape[1]}]; at least one must count"
            )
        error = error[mask]
    mean = float(error.mean())
    return PSNR_MAX_DB if mean == 0 else min(PSNR_MAX_DB, -10 * float(np.log10(mean)))


def ssim(picture: Picture, reference: Picture) -> float:
    """Mean structural similarity, -1..1, 1 for equal pictures [h w 3].

    Raises:
        InvalidRequest: Unusable pictures, different sizes, or a side below 11 px.
    """
    a, b = as_pair(picture, reference)
    _check_side(a, SSIM_SIDE_MIN, "SSIM")
    whole, _ = _maps(a, b)
    return float(whole.mean())


def ms_ssim(picture: Picture, reference: Picture) -> float:
    """Structural similarity over five scales, 0..1, 1 for equal pictures [h w 3].

    Raises:
        InvalidRequest: Unusable pictures, different sizes, or a side below 176 px.
    """
    a, b = as_pair(picture, reference)
    _check_side(a, MS_SSIM_SIDE_MIN, "MS-SSIM")
    # Products are taken per channel, as the windows are; negative terms have no real power.
    product = np.ones(3)
    for scale, weight in enumerate(SCALE_WEIGHTS):
        if scale:
            a, b = _halved(a), _halved(b)
        whole, contrast = _maps(a, b)
        last = scale == len(SCALE_WEIGHTS) - 1
        term = (whole if last else contrast).mean((0, 1))
        product *= np.maximum(term, 0.0) ** weight
    return float(product.mean())


def _maps(
    a: NDArray[np.float64], b: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """SSIM and its contrast-structure part at every whole window, [h-10 w-10 3] each."""
    mean_a, mean_b = _blur(a), _blur(b)
    var_a, var_b = _blur(a * a) - mean_a**2, _blur(b * b) - mean_b**2
    covariance = _blur(a * b) - mean_a * mean_b
    contrast = (2 * covariance + K2**2) / (var_a + var_b + K2**2)
    luminance = (2 * mean_a * mean_b + K1**2) / (mean_a**2 + mean_b**2 + K1**2)
    return luminance * contrast, contrast


def _blur(image: NDArray[np.float64]) -> NDArray[np.float64]:
    from scipy.ndimage import correlate1d

    at = np.arange(-RADIUS, RADIUS + 1)
    kernel = np.exp(-0.5 * (at / SIGMA) ** 2)
    kernel /= kernel.sum()
    smooth = correlate1d(correlate1d(image, kernel, axis=0), kernel, axis=1)
    return smooth[RADIUS:-RADIUS, RADIUS:-RADIUS]


def _halved(image: NDArray[np.float64]) -> NDArray[np.float64]:
    """Means of 2 x 2 pixels; an odd last row or column is left out."""
    height, width = image.shape[0] // 2 * 2, image.shape[1] // 2 * 2
    blocks = image[:height, :width].reshape(height // 2, 2, width // 2, 2, 3)
    return blocks.mean((1, 3))


def _check_side(image: NDArray[np.float64], least: int, name: str) -> None:
    height, width = image.shape[:2]
    if min(height, width) < least:
        raise InvalidRequest(
            f"the pictures are {width} x {height} pixels; {name} needs {least} on each side. "
            "Use larger pictures"
        )
