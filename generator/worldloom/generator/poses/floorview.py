"""One frame and a guess of the floor -> what the frame says of it: its plane with a covariance.

On a plane inverse depth is linear in the rays, 1/z = -g . r with g = up / height, and a relative
error of the depth is an additive one of z(g . r): the same all over the floor. So g is a linear fit
whose regressors, the rays, are exact. Depth networks err by a smooth factor, which makes
neighbouring pixels say the same; the fit counts that (generalised least squares).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from worldloom.generator.surface.depthmaps import depth_geometry
from worldloom.generator.video.frame import Frame, known_depth
from worldloom.scene.cameras import pixel_rays, strided

Array = NDArray[np.float64]

SAMPLE_SIDE = 208  # Longer side at which depth is looked at [px]: finer says nothing new of planes.
SMOOTH_SHARE = 1 / 8
"""Depth errors are alike within this share of the picture's width, as align takes them too."""
LOOSE_SHARE = 0.05  # Share of their variance that is not alike.
LEAST_ERROR = 2e-4  # Relative depth errors are never taken to be smaller.
FIT_POINTS = 120  # Pixels of a frame that enter the fit, evenly chosen.
LEAST_PIXELS = 60  # Fewer floor pixels (at the sample size) say nothing.
NORMAL_DEG = 25.0  # A floor pixel's normal is that close to up.
PIECE_OFF = 0.06  # Of several pieces of floor, those at the guessed height within this count.
GATE = 0.15  # A floor pixel's height is that close to the guess, relative to the camera's height.
LEAST_SHARE = 0.4
"""Share of the near level surface that lies at the guessed height; below it the camera is above
something else, such as a staircase."""
NEAR = 2.0  # Floor within this many camera heights of the foot point counts in full.
TUKEY = 4.685  # Residuals, in their spread, from which a pixel does not count at all.
FIT_ROUNDS = 6
WORST_CONDITION = 1e10  # Of the three equations of a plane; worse ones are of points on a line.


@dataclass(frozen=True)
class Samples:
    """Surface pixels of one frame at the sample size."""

    rays: Array
    """Directions with z = 1 in camera axes, shape [n 3]."""
    inverse: Array
    """Inverse z-depth [1/unit], shape [n]."""
    normal: Array
    """Unit normal towards the camera in world axes, shape [n 3]."""
    pixel: NDArray[np.int64]
    """Row and column, shape [n 2]."""
    size: tuple[int, int]
    """Height and width of the picture at the sample size [px]."""
    c2w: Array
    """The frame's camera, shape [4 4]."""

    def __len__(self) -> int:
        return len(self.inverse)

    def offsets(self) -> Array:
        """From the camera to each surface point, world axes [unit], shape [n 3]."""
        return (self.rays / self.inverse[:, None]) @ self.c2w[:3, :3].T


@dataclass(frozen=True)
class FloorView:
    """The floor's plane as one frame has it."""

    plane: Array
    """g = up / height in camera axes [1/unit], shape [3]."""
    covariance: Array
    """Of `plane`, shape [3 3]."""
    pixels: int
    """Floor pixels at the sample size."""
    error: float
    """Spread of the relative depth error on the floor."""
    c2w: Array
    """The frame's camera, shape [4 4]."""

    @property
    def up(self) -> Array:
        """The plane's normal in world axes, shape [3]."""
        return self.c2w[:3, :3] @ (self.plane / np.linalg.norm(self.plane))

    @property
    def height(self) -> float:
        """Height of the camera above the plane [unit]."""
        return float(1 / np.linalg.norm(self.plane))


def take_samples(frame: Frame) -> Samples:
    """The pixels of a frame that show a surface; none where depth is 0, NaN or infinite."""
    step = max(1, round(max(frame.depth.shape) / SAMPLE_SIDE))
    depth = known_depth(frame.depth[::step, ::step])
    K = strided(frame.K, step)
    shape = depth_geometry(depth, K)
    rays = pixel_rays(K, depth.shape[1], depth.shape[0])
    row, column = np.nonzero(shape.valid)
    return Samples(
        rays=rays[row, column],
        inverse=1.0 / depth[row, column].astype(float),
        normal=shape.normal[row, column] @ frame.c2w[:3, :3].T,
        pixel=np.stack([row, column], -1),
        size=depth.shape,
        c2w=np.asarray(frame.c2w, float),
    )


def view_floor(samples: Samples, up: Array, height: float) -> FloorView | None:
    """What one frame says of the floor near a guess, or None where it shows too little of it.

    Args:
        samples: The frame's pixels.
        up: Guess of up in world axes, unit length, shape [3].
        height: Guess of the height of this camera above the floor [unit].
    """
    if not height > 0:
        return None
    plane = samples.c2w[:3, :3].T @ up / height
    slope = -samples.rays @ plane
    level = (samples.normal @ up > np.cos(np.radians(NORMAL_DEG))) & (slope > 0)
    off = np.abs(samples.inverse / np.where(level, slope, 1.0) - 1)
    near = _nearness(samples, plane)
    if not near[level & (off < GATE)].sum() > LEAST_SHARE * near[level].sum():
        return None
    chosen = _one_piece(samples, level & (off < GATE), near * np.exp(-((off / PIECE_OFF) ** 2)))
    if len(chosen) < LEAST_PIXELS:
        return None
    few = chosen[np.linspace(0, len(chosen) - 1, min(FIT_POINTS, len(chosen))).astype(int)]
    return _fit(samples, few, plane, near[few], len(chosen))


def _one_piece(samples: Samples, mask: NDArray[np.bool_], mass: Array) -> NDArray[np.int64]:
    """Indices of the piece of the masked pixels that holds most of the mass.

    A kerb or a platform is parted from the floor by a depth edge, however small the step.
    """
    image = np.zeros(samples.size, bool)
    row, column = samples.pixel[mask].T
    image[row, column] = True
    labels, count = ndimage.label(image)
    if count == 0:
        return np.zeros(0, np.int64)
    owner = np.zeros(len(mask), np.int64)
    owner[mask] = labels[row, column]
    best = 1 + int(np.argmax(np.bincount(owner, weights=mass * mask, minlength=count + 1)[1:]))
    return np.flatnonzero(owner == best)


def _nearness(samples: Samples, plane: Array) -> Array:
    """1 for points within NEAR camera heights of the foot point, less beyond, shape [n]."""
    height = 1 / np.linalg.norm(plane)
    points = samples.rays / samples.inverse[:, None]
    across = points - (points @ plane)[:, None] * plane * height**2
    return np.minimum(1.0, (NEAR * height / np.maximum(np.linalg.norm(across, axis=1), 1e-12)) ** 2)


def _fit(
    samples: Samples, few: NDArray[np.int64], plane: Array, nearness: Array, pixels: int
) -> FloorView | None:
    """Generalised least squares with Tukey's weights from a guess of the plane."""
    rays, inverse = samples.rays[few], samples.inverse[few]
    alike = _alike(samples.pixel[few] / samples.size[1])
    guess, error = plane, LEAST_ERROR
    for _ in range(FIT_ROUNDS):
        slope = -rays @ plane
        if not (slope > 1e-9).all():
            return None
        residual = inverse / slope - 1
        error = max(1.4826 * float(np.median(np.abs(residual))), LEAST_ERROR)
        weight = np.clip(1 - (residual / (TUKEY * error)) ** 2, 1e-3, 1) ** 2 * nearness
        # A pixel that counts less has an error of its own on top of the shared one.
        spread = error**2 * (alike + np.diag(1 / weight - 1))
        rows = -rays / slope[:, None]
        solved = np.linalg.solve(spread, rows)
        information = solved.T @ rows
        if not np.linalg.cond(information) < WORST_CONDITION:
            return None
        plane = np.linalg.solve(information, solved.T @ (inverse / slope))
    turn = plane @ guess / np.linalg.norm(plane) / np.linalg.norm(guess)
    if not (np.isfinite(plane).all() and turn > np.cos(np.radians(NORMAL_DEG))):
        return None
    return FloorView(plane, np.linalg.inv(information), pixels, error, samples.c2w)


def _alike(place: Array) -> Array:
    """Correlation [n n] of depth errors at places [n 2] in picture widths."""
    apart = np.sum((place[:, None] - place[None]) ** 2, -1)
    smooth = np.exp(-apart / (4 * SMOOTH_SHARE**2))
    return (1 - LOOSE_SHARE) * smooth + LOOSE_SHARE * np.eye(len(place))
