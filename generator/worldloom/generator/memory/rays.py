"""Cameras and slots -> the per-pixel channels that tell Lyra 2.0 where it looks (spec 4.1, 5).

Ray channels use pixel centres at +0.5, unlike the warps.
"""

from __future__ import annotations

import numba as nb
import numpy as np
from numpy.typing import ArrayLike, NDArray

BLOCK = 8  # Pixels per latent cell and axis (spec generation 5).
FRAMES_PER_LATENT = 4  # Pixel frames per latent frame (spec generation 4.4).


def camera_rays(
    c2w: ArrayLike, focal: ArrayLike | None, size: tuple[int, int], *, moment: bool = False
) -> NDArray[np.float32]:
    """Six channels [... h w 6]: camera centre (or moment) and unit direction of each pixel.

    Args:
        c2w: Camera to the reference frame, [... 4 4].
        focal: fx, fy, cx, cy in pixels, [... 4]; None points every pixel straight ahead.
        size: Width and height.
        moment: Take centre x direction instead of the centre, as Pluecker coordinates do. The
            released model takes the centre.
    """
    c2w = np.asarray(c2w, np.float64)
    width, height = size
    local = np.zeros((*c2w.shape[:-2], height, width, 3))
    local[..., 2] = 1
    if focal is not None:
        fx, fy, cx, cy = np.moveaxis(np.asarray(focal, np.float64), -1, 0)[..., None, None]
        local[..., 0] = (np.arange(width) + 0.5 - cx) / fx
        local[..., 1] = (np.arange(height)[:, None] + 0.5 - cy) / fy
    local /= np.linalg.norm(local, axis=-1, keepdims=True)
    direction = np.einsum("...ij,...hwj->...hwi", c2w[..., :3, :3], local)
    centre = np.broadcast_to(c2w[..., None, None, :3, 3], direction.shape)
    first = np.cross(centre, direction) if moment else centre
    return np.concatenate([first, direction], -1).astype(np.float32)


def fold_blocks(channels: NDArray[np.float32], *, block: int = BLOCK) -> NDArray[np.float32]:
    """Channels [... c h w] folded to latent cells: [... c block^2, h / block, w / block].

    The index of a folded channel is (channel x block + row in the block) x block + column.
    """
    *lead, c, h, w = channels.shape
    cells = channels.reshape(*lead, c, h // block, block, w // block, block)
    cells = np.moveaxis(cells, (-3, -1), (-4, -3))
    return np.ascontiguousarray(cells).reshape(*lead, c * block * block, h // block, w // block)


def folded_rays(c2w: ArrayLike, focal: ArrayLike, size: tuple[int, int]) -> NDArray[np.float32]:
    """`camera_rays` of t cameras, folded to latent cells in place, [t 384 h/8 w/8].

    Args:
        c2w: Camera to the reference frame, [t 4 4].
        focal: fx, fy, cx, cy in pixels, [t 4].
        size: Width and height.
    """
    c2w, focal = np.asarray(c2w, np.float64), np.asarray(focal, np.float64)
    shape = (6, BLOCK, BLOCK, size[1] // BLOCK, size[0] // BLOCK)
    out = np.empty((len(c2w), *shape), np.float32)
    _fill_rays(c2w, focal, out)
    return out.reshape(len(c2w), 6 * BLOCK * BLOCK, *shape[3:])


@nb.njit(cache=True, parallel=True)
def _fill_rays(c2w, focal, out):
    rows, columns = out.shape[4], out.shape[5]
    for t in nb.prange(len(c2w)):
        pose = c2w[t]
        for c in range(3):
            out[t, c] = np.float32(pose[c, 3])
        for dy in range(BLOCK):
            for dx in range(BLOCK):
                for i in range(rows):
                    y = (BLOCK * i + dy + 0.5 - focal[t, 3]) / focal[t, 1]
                    for j in range(columns):
                        x = (BLOCK * j + dx + 0.5 - focal[t, 2]) / focal[t, 0]
                        share = 1 / np.sqrt(x * x + y * y + 1)
                        for c in range(3):
                            along = pose[c, 0] * x + pose[c, 1] * y + pose[c, 2]
                            out[t, 3 + c, dy, dx, i, j] = along * share


def last_of_latents(frames: NDArray[np.float32], *, axis: int = 0) -> NDArray[np.float32]:
    """The last frame of each group of four: frames 3, 7, 11 and so on along an axis."""
    index = np.arange(FRAMES_PER_LATENT - 1, frames.shape[axis], FRAMES_PER_LATENT)
    return np.take(frames, index, axis)


def canonical_coordinates(slots: int, size: tuple[int, int]) -> NDArray[np.float32]:
    """Coordinate images of the memory slots: x and y from -1 to 1, z by slot, [slots h w 3]."""
    width, height = size
    out = np.zeros((slots, height, width, 3), np.float32)
    out[..., 0] = np.linspace(-1, 1, width, dtype=np.float32)
    out[..., 1] = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    if slots > 1:
        out[..., 2] = np.linspace(-1, 1, slots, dtype=np.float32)[:, None, None]
    return out
