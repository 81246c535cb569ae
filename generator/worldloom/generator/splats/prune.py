"""Splats and the depth of many views -> which splats to keep.

A splat goes when it is almost transparent, when it is not finite, when its picture in the view
that sees it nearest is far larger than a pixel, or when the other views contradict it: they look
straight through the place where it hangs, and too few of them see a surface there. Sky and depth
edges give no splats in the first place (see `lift`).
"""

from __future__ import annotations

from collections.abc import Sequence

import numba as nb
import numpy as np
from numpy.typing import NDArray

from worldloom.generator.video.frame import Frame, known_depth
from worldloom.scene.frame import invert_rigid, matrix_from_quat_wxyz
from worldloom.scene.splats import Splats

OPACITY_MIN = 0.02  # Splats fainter than this go (spec reconstruction 8.5).
OVERSIZE_PX = 3.0  # Largest standard deviation in the nearest view [px] (same place).
DEPTH_TOLERANCE = 0.04
"""Relative depth difference that is still the same surface; noise of a good frame is 3 %."""
TOLERANCE_PX = 3.0  # The same in pixel footprints, for steep surfaces.
CONTRADICTIONS = 2  # Views that must look through a splat before it goes.


def keep_splats(
    splats: Splats, frames: Sequence[Frame], *, oversize_px: float = OVERSIZE_PX
) -> NDArray[np.bool_]:
    """Which splats [n] to keep.

    Args:
        splats: What the frames gave.
        frames: Views with depth that may see them: those that gave them, and older ones.
        oversize_px: Largest standard deviation of a splat in the nearest view that sees it.
    """
    keep = finite_splats(splats) & (splats.opacities >= OPACITY_MIN)
    support, through, size = consistency(splats, frames)
    keep &= ~((through >= CONTRADICTIONS) & (through > support - 1))
    return keep & (size <= oversize_px)


def finite_splats(splats: Splats) -> NDArray[np.bool_]:
    """Which splats [n] hold only finite numbers, scales above zero and a rotation."""
    whole = np.isfinite(splats.sh.reshape(splats.n, 3 * splats.sh.shape[1])).all(1)
    for array in (splats.means, splats.scales, splats.quats_wxyz, splats.opacities[:, None]):
        whole &= np.isfinite(array).all(1)
    return whole & (splats.scales > 0).all(1) & (np.abs(splats.quats_wxyz).max(1, initial=0) > 1e-6)


def consistency(
    splats: Splats, frames: Sequence[Frame]
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.float32]]:
    """What the views say of each splat.

    A pixel without depth says nothing, nor does a view whose surface hides the splat. Nine pixels
    around the splat are asked, so that an edge next to it is no contradiction.

    Returns:
        Views that see a surface at the splat [n], views that look through it [n], and its largest
        standard deviation in a supporting view [px], 0 without one, [n].
    """
    support, through = np.zeros(splats.n, np.int32), np.zeros(splats.n, np.int32)
    size = np.zeros(splats.n, np.float32)
    if splats.n == 0:
        return support, through, size
    with np.errstate(invalid="ignore"):  # Broken splats come here too and are not asked.
        half = matrix_from_quat_wxyz(splats.quats_wxyz) * splats.scales[:, None, :]
    half = half.astype(np.float32)
    for frame in frames:
        depth = known_depth(frame.depth)
        near, far = _neighbourhood(depth)
        w2c = invert_rigid(frame.c2w)
        K = np.asarray(frame.K, np.float64)
        _ask(splats.means, half, near, far, w2c, K, support, through, size)
    return support, through, size


def _neighbourhood(
    depth: NDArray[np.float32],
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Least and largest known depth of the 3 x 3 pixels around each; inf and 0 without any."""
    near = np.pad(np.where(depth > 0, depth, np.inf), 1, constant_values=np.inf)
    far = np.pad(depth, 1)
    height, width = depth.shape
    windows = [(r, c) for r in range(3) for c in range(3)]
    near = np.min([near[r : r + height, c : c + width] for r, c in windows], 0)
    far = np.max([far[r : r + height, c : c + width] for r, c in windows], 0)
    return near.astype(np.float32), far.astype(np.float32)


@nb.njit(parallel=True, cache=True)
def _ask(means, half, near, far, w2c, K, support, through, size):
    """Add one view's evidence; every splat is written by one thread alone."""
    height, width = near.shape
    for i in nb.prange(means.shape[0]):
        x, y, z = means[i, 0], means[i, 1], means[i, 2]
        cz = w2c[2, 0] * x + w2c[2, 1] * y + w2c[2, 2] * z + w2c[2, 3]
        # Not-a-number fails this comparison too, and with it a splat that must not be asked.
        if not cz > 1e-4:
            continue
        cx = w2c[0, 0] * x + w2c[0, 1] * y + w2c[0, 2] * z + w2c[0, 3]
        cy = w2c[1, 0] * x + w2c[1, 1] * y + w2c[1, 2] * z + w2c[1, 3]
        u, v = K[0, 0] * cx / cz + K[0, 2], K[1, 1] * cy / cz + K[1, 2]
        if not (u >= 0 and v >= 0 and u < width and v < height):
            continue
        row, column = int(v), int(u)
        if far[row, column] <= 0:
            continue
        tolerance = max(DEPTH_TOLERANCE * cz, TOLERANCE_PX * cz / K[0, 0])
        if near[row, column] > cz + tolerance:
            through[i] += 1
        elif far[row, column] >= cz - tolerance:
            support[i] += 1
            xx, xy, yy = 0.0, 0.0, 0.0
            for a in range(3):
                gx, gy = 0.0, 0.0
                for k in range(3):
                    gx += K[0, 0] / cz * (w2c[0, k] - cx / cz * w2c[2, k]) * half[i, k, a]
                    gy += K[1, 1] / cz * (w2c[1, k] - cy / cz * w2c[2, k]) * half[i, k, a]
                xx, xy, yy = xx + gx * gx, xy + gx * gy, yy + gy * gy
            root = np.sqrt(0.25 * (xx - yy) ** 2 + xy * xy)
            size[i] = max(size[i], np.sqrt(0.5 * (xx + yy) + root))
