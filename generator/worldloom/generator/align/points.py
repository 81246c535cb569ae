"""One frame -> what matching needs of it: grey levels, and well-placed patches on its surfaces."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from worldloom.generator.surface.depthmaps import depth_geometry
from worldloom.generator.video.frame import Frame, known_depth

LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # Rec. 601 weights.
CELL_PX = 12  # One patch is chosen in every cell of this side.
BORDER_PX = 7  # Patches stay this far from the frame's border.
EDGE_PX = 3  # And this far from depth edges, where two surfaces share a patch.
CORNER_SIGMA = 1.5  # Window of the corner measure [px].
CORNER_MIN = 2e-5  # Least smaller eigenvalue of the gradient tensor: two grey levels a pixel.
FACING_MIN = 0.12  # Cosine below which a patch is too slanted to be found again.


@dataclass(frozen=True)
class Patches:
    """The frame as the matcher sees it."""

    grey: NDArray[np.float32]
    """Luma 0..1, [h w]."""
    depth: NDArray[np.float32]
    """z-depth, 0 where there is none or two surfaces meet [m], [h w]."""
    uv: NDArray[np.float64]
    """Patch centres in pixels, centres of pixels at +0.5, [n 2]."""
    z: NDArray[np.float64]
    """Their depth [m], [n]."""
    normal: NDArray[np.float64]
    """Their unit normal towards the camera, OpenCV axes, [n 3]."""


NO_PATCHES = Patches(
    np.zeros((0, 0), np.float32), np.zeros((0, 0), np.float32), *(np.zeros((0, 2)), np.zeros(0)),
    np.zeros((0, 3)),
)  # fmt: skip
"""A frame that nothing is looked for in."""


def find_patches(frame: Frame) -> Patches:
    """The most distinct patch of every cell of the frame's grid."""
    grey = np.ascontiguousarray(frame.rgb @ LUMA, np.float32)
    depth = known_depth(frame.depth)
    geometry = depth_geometry(depth, frame.K)
    score = _corner(grey)
    score[~_usable(geometry.valid & (geometry.facing > FACING_MIN))] = 0
    rows, columns = _best_of_cells(score)
    good = score[rows, columns] > CORNER_MIN
    rows, columns = rows[good], columns[good]
    return Patches(
        grey=grey,
        depth=np.where(geometry.valid, depth, 0).astype(np.float32),
        uv=np.stack([columns + 0.5, rows + 0.5], -1).astype(np.float64),
        z=depth[rows, columns].astype(np.float64),
        normal=geometry.normal[rows, columns].astype(np.float64),
    )


def rays_at(uv: NDArray[np.float64], K: NDArray[np.float64]) -> NDArray[np.float64]:
    """Directions [n 3] with z = 1 of places [n 2] in pixels; intrinsics [3 3], or one each."""
    x = (uv[:, 0] - K[..., 0, 2]) / K[..., 0, 0]
    y = (uv[:, 1] - K[..., 1, 2]) / K[..., 1, 1]
    return np.stack([x, y, np.ones(len(uv))], -1)


def halved(frame: Frame) -> Frame:
    """The frame at half its size: what a wide search looks at, for a quarter of the work."""
    rows, columns = frame.depth.shape[0] // 2 * 2, frame.depth.shape[1] // 2 * 2
    depth = known_depth(frame.depth)
    four = depth[:rows, :columns].reshape(rows // 2, 2, columns // 2, 2).swapaxes(1, 2)
    whole = (four > 0).all((2, 3))
    inverse = (1 / np.where(four > 0, four, 1)).mean((2, 3))
    rgb = frame.rgb[:rows, :columns].reshape(rows // 2, 2, columns // 2, 2, 3).mean((1, 3))
    origin = np.ascontiguousarray(frame.origin[:rows:2, :columns:2])
    K = frame.K.copy()
    K[:2] /= 2
    small = np.where(whole, 1 / inverse, 0).astype(np.float32)
    return replace(frame, rgb=rgb.astype(np.float32), depth=small, origin=origin, K=K)


def _corner(grey: NDArray[np.float32]) -> NDArray[np.float32]:
    """Smaller eigenvalue of the smoothed gradient tensor (Shi and Tomasi 1994), [h w]."""
    from scipy.ndimage import gaussian_filter

    down, across = np.gradient(grey)
    xx = gaussian_filter(across * across, CORNER_SIGMA)
    yy = gaussian_filter(down * down, CORNER_SIGMA)
    xy = gaussian_filter(across * down, CORNER_SIGMA)
    return (xx + yy) / 2 - np.sqrt(((xx - yy) / 2) ** 2 + xy * xy)


def _usable(valid: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Pixels far enough from holes, depth edges and the border."""
    from scipy.ndimage import binary_erosion

    inside = binary_erosion(valid, iterations=EDGE_PX)
    inside[:BORDER_PX] = inside[-BORDER_PX:] = False
    inside[:, :BORDER_PX] = inside[:, -BORDER_PX:] = False
    return inside


def _best_of_cells(score: NDArray[np.float32]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Row and column of the largest score in each whole cell."""
    rows, columns = score.shape[0] // CELL_PX, score.shape[1] // CELL_PX
    part = score[: rows * CELL_PX, : columns * CELL_PX]
    cells = part.reshape(rows, CELL_PX, columns, CELL_PX).swapaxes(1, 2).reshape(rows, columns, -1)
    best = cells.argmax(-1)
    row = np.arange(rows)[:, None] * CELL_PX + best // CELL_PX
    column = np.arange(columns)[None, :] * CELL_PX + best % CELL_PX
    return row.ravel(), column.ravel()
