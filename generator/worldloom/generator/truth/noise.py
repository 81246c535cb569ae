"""Exact frames -> frames as a real pipeline would see them: presets `noisy` and `drift`.

`noisy` (architecture page 3.3): depth x (1 + 0.03 g) with g a unit Gaussian field of sigma W/8
that is fresh for every frame; camera centre off by N(0, 1 cm) and turned by N(0, 1 degree) per
axis; exposure gain N(1, 0.05). `drift` is the same as random walks with that spread after 80
frames. The error of a frame depends on the seed and on its number alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from worldloom.scene.frame import rigid, rotation_about

Preset = Literal["exact", "noisy", "drift"]
PRESETS: tuple[Preset, ...] = ("exact", "noisy", "drift")
SEEDS = (0, 1, 2, 3, 4)
"""Seeds whose median is reported."""
DEPTH_SHARE = 0.03  # Relative depth error.
FIELD_SIGMA = 1.0 / 8  # Smoothness of the depth error, in image widths.
CENTRE_M, TURN_DEG, GAIN = 0.01, 1.0, 0.05
PER_SIGMA = 8  # Points of the coarse grid per sigma of the depth error.
DRIFT_FRAMES = 80  # Frames after which a random walk has spread as far as `noisy`.


@dataclass(frozen=True)
class FrameNoise:
    """The errors of one frame; all in units of their spread."""

    field: NDArray[np.float64]
    """Depth error, unit variance, shape [h w]."""
    centre: NDArray[np.float64]
    """Camera centre error per axis, shape [3]."""
    turn: NDArray[np.float64]
    """Camera rotation error per camera axis, shape [3]."""
    gain: float
    """Exposure error."""

    def depth(self, depth: NDArray[np.float32]) -> NDArray[np.float32]:
        """Depth [h w] with its error; 0 stays 0."""
        return (depth * (1 + DEPTH_SHARE * self.field)).astype(np.float32)

    def rgb(self, rgb: NDArray[np.float32]) -> NDArray[np.float32]:
        """Colours [h w 3] with the exposure error."""
        return np.clip(rgb * (1 + GAIN * self.gain), 0, 1).astype(np.float32)

    def pose(self, c2w: NDArray[np.float64]) -> NDArray[np.float64]:
        """Camera to world [4 4] with its error."""
        return c2w @ rigid(self._rotation(), np.zeros(3)) + _shift(CENTRE_M * self.centre)

    def _rotation(self) -> NDArray[np.float64]:
        angle = float(np.linalg.norm(self.turn))
        if angle == 0:
            return np.eye(3)
        return rotation_about(self.turn / angle, np.radians(TURN_DEG) * angle)


def frame_noise(
    preset: Preset, seed: int, frame_id: int, size: tuple[int, int]
) -> FrameNoise | None:
    """The errors of one frame, or None for `exact`.

    Args:
        preset: `exact`, `noisy` or `drift`.
        seed: Number of the draw.
        frame_id: Number of the frame; frame 0 of `drift` has no error.
        size: Width and height of the frame in pixels.
    """
    if preset == "exact":
        return None
    if preset == "noisy":
        numbers, white = _draw(seed, frame_id, 1, _grid(size))
    else:
        numbers, white = np.zeros(7), np.zeros(_grid(size))
        for step in range(1, frame_id + 1):
            more = _draw(seed, step, 2, white.shape)
            numbers, white = numbers + more[0], white + more[1]
        numbers, white = numbers * DRIFT_FRAMES**-0.5, white * DRIFT_FRAMES**-0.5
    return FrameNoise(smooth_field(white, size), numbers[:3], numbers[3:6], float(numbers[6]))


def smooth_field(white: NDArray[np.float64], size: tuple[int, int]) -> NDArray[np.float64]:
    """White noise on the coarse grid -> a Gaussian field of sigma W/8 and equal variance, [h w].

    The grid is coarse, since the field has no detail finer than W/8, and reaches beyond the
    picture, so that the borders are as rough as the middle.
    """
    from scipy.ndimage import gaussian_filter, map_coordinates

    width, height = size
    # Smoothing white noise with sigma s leaves a variance of 1 / (4 pi s^2).
    smooth = gaussian_filter(white, PER_SIGMA, mode="wrap") * np.sqrt(4 * np.pi) * PER_SIGMA
    step = width * FIELD_SIGMA / PER_SIGMA
    y = (np.arange(height) + 0.5) / step + 4 * PER_SIGMA
    x = (np.arange(width) + 0.5) / step + 4 * PER_SIGMA
    return map_coordinates(smooth, np.meshgrid(y, x, indexing="ij"), order=1)


def _grid(size: tuple[int, int]) -> tuple[int, int]:
    """Shape of the coarse grid: the picture, and four sigma around it."""
    step = size[0] * FIELD_SIGMA / PER_SIGMA
    rows, columns = (int(np.ceil(side / step)) + 1 + 8 * PER_SIGMA for side in size[::-1])
    return rows, columns


def _draw(
    seed: int, frame: int, stream: int, shape: tuple[int, int]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Seven numbers (centre, turn, gain) and a white grid, all N(0, 1), of one frame."""
    rng = np.random.default_rng(np.random.SeedSequence([seed, stream, frame]))
    return rng.standard_normal(7), rng.standard_normal(shape)


def _shift(offset: NDArray[np.float64]) -> NDArray[np.float64]:
    out = np.zeros((4, 4))
    out[:3, 3] = offset
    return out
