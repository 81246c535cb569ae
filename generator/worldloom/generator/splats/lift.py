"""Frames -> pixel-aligned Gaussian discs for the surfaces that have no splats yet.

Each disc lies in the surface: its two axes are the images of a pixel's sides on the tangent plane,
so that neighbouring discs just overlap at any slant (spec reconstruction 8, row 13). Of several
frames that see a surface, the one that sees it finest gives the splats: coarse splats cannot be
taken back later, and would blur the fine ones.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from worldloom.generator.splats.covered import (
    Covered,
    Look,
    has_splats,
    look_at_frame,
    seen_finer,
)
from worldloom.generator.video.frame import Frame
from worldloom.scene.frame import quat_wxyz_from_matrix
from worldloom.scene.splats import Splats

SIGMA_PX = 0.55
"""Standard deviation of a disc in pixels of its own frame; larger blurs, smaller leaves gaps."""
THICKNESS = 0.1  # Of the smaller in-plane axis: discs, but never degenerate.
OPACITY = 0.95
STRETCH_MAX = 8.0  # Longest in-plane axis in pixel footprints; slanter surfaces get gaps instead.


def lift_frames(frames: Sequence[Frame], *, covered: Covered) -> Splats:
    """Splats of the surfaces that `frames` show for the first time; `covered` learns of them.

    Args:
        frames: Keyframes of one chunk, in order.
        covered: What earlier chunks have given.
    """
    looks = [look_at_frame(f.depth, f.origin, f.c2w, f.K) for f in frames]
    parts = []
    for number, (frame, look) in enumerate(zip(frames, looks, strict=True)):
        new = look.fineness > 0
        for other in looks[:number] + looks[number + 1 :]:
            new &= ~seen_finer(look, other)
        parts.append(_lift_pixels(frame.rgb, look, new, frame.c2w, covered))
    return Splats.concat(parts)


def lift(
    rgb: NDArray[np.floating],
    depth: NDArray[np.float32],
    origin: NDArray[np.uint8],
    c2w: ArrayLike,
    K: ArrayLike,
    *,
    covered: Covered,
) -> Splats:
    """Splats of the pixels of one frame that show new surface; `covered` learns of them.

    Args:
        rgb: sRGB 0..1, [h w 3].
        depth: z-depth in metres, 0 = none, [h w].
        origin: 0 none, 1 seen in the photo, 2 made up, [h w]; pixels of 0 are left out.
        c2w: Camera to world, OpenCV axes, [4 4].
        K: Intrinsics in pixels, [3 3].
        covered: What earlier frames have given.
    """
    look = look_at_frame(depth, origin, c2w, K)
    return _lift_pixels(rgb, look, look.fineness > 0, c2w, covered)


def _lift_pixels(
    rgb: NDArray[np.floating],
    look: Look,
    wanted: NDArray[np.bool_],
    c2w: ArrayLike,
    covered: Covered,
) -> Splats:
    """Discs of the wanted pixels [h w] that `covered` does not hold yet."""
    new = wanted & ~has_splats(look, covered)
    if not new.any():
        return Splats.empty()
    scales, axes = _discs(look.depth, look.normal, new, look.K)
    quats = quat_wxyz_from_matrix(np.asarray(c2w, np.float64)[:3, :3] @ axes)
    centres = look.points[new]
    covered.add(centres, look.fineness[new])
    return Splats.from_rgb(centres, scales, quats, np.full(len(centres), OPACITY), rgb[new])


def _discs(
    depth: NDArray[np.float32],
    normal: NDArray[np.float32],
    chosen: NDArray[np.bool_],
    K: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """In-plane axes of the chosen pixels: deviations [n 3] in metres and axes [n 3 3] (camera).

    The sides of a pixel on the tangent plane are t_u = z/fx (e_x - n_x/(n.r) r) and the same for
    v; the disc's covariance is SIGMA_PX^2 (t_u t_u^T + t_v t_v^T).
    """
    rows, columns = np.nonzero(chosen)
    z = depth[chosen].astype(np.float64)
    n = normal[chosen].astype(np.float64)
    ray = np.stack(
        [
            (columns + 0.5 - K[0, 2]) / K[0, 0],
            (rows + 0.5 - K[1, 2]) / K[1, 1],
            np.ones(len(rows)),
        ],
        -1,
    )
    along = np.sum(n * ray, -1, keepdims=True)
    side_u = (z / K[0, 0])[:, None] * (np.array([1.0, 0, 0]) - n[:, :1] / along * ray)
    side_v = (z / K[1, 1])[:, None] * (np.array([0, 1.0, 0]) - n[:, 1:2] / along * ray)
    first = side_u / np.linalg.norm(side_u, axis=1, keepdims=True)
    second = np.cross(n, first)
    # The covariance in the basis (first, second) is 2 x 2; its eigenvectors have a closed form.
    a = np.sum(side_u * first, -1) ** 2 + np.sum(side_v * first, -1) ** 2
    b = np.sum(side_v * first, -1) * np.sum(side_v * second, -1)
    c = np.sum(side_v * second, -1) ** 2
    angle = 0.5 * np.arctan2(2 * b, a - c)
    cosine, sine = np.cos(angle)[:, None], np.sin(angle)[:, None]
    major, minor = cosine * first + sine * second, -sine * first + cosine * second
    half, root = (a + c) / 2, np.sqrt(((a - c) / 2) ** 2 + b * b)
    long_, short = np.sqrt(half + root), np.sqrt(np.maximum(half - root, 0))
    limit = STRETCH_MAX * z / K[0, 0]
    deviations = SIGMA_PX * np.stack([np.minimum(long_, limit), np.minimum(short, limit)], -1)
    thin = THICKNESS * deviations.min(1, keepdims=True)
    axes = np.stack([major, minor, np.cross(major, minor)], -1)
    return np.concatenate([deviations, thin], 1), axes
