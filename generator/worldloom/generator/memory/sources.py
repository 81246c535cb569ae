"""Depth maps with cameras, and the cameras of a chunk -> points and projections for the splat.

What does not change between views is computed once: the mask of reliable depths and the world
points of a frame. What the released code couples between views is found here, without splatting:
the largest log depth of the views that it warps together (spec generation 4.2, step 3).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from worldloom.generator.memory import splat_kernels
from worldloom.generator.memory.rays import FRAMES_PER_LATENT
from worldloom.generator.memory.splat import weight_power
from worldloom.generator.memory.unproject import (
    clean_depth,
    pixel_directions,
    reliable_depth,
    world_points,
)
from worldloom.scene.errors import EngineFailed

WARP_CHUNK = 16  # Views that share a depth maximum in the released configuration (spec 4.2).


@dataclass(frozen=True)
class SourceFrame:
    """A frame that views are made of; what can be reused is computed once, when first needed."""

    depth: NDArray[np.float32]
    """z-depth in units of the scene, 0 = none, [h w]."""
    w2c: NDArray[np.floating]
    """World to camera, OpenCV axes, [4 4]."""
    K: NDArray[np.floating]
    """Intrinsics in pixels with integer pixel centres, [3 3]."""

    @cached_property
    def reliable(self) -> NDArray[np.bool_]:
        """Pixels whose depth is positive and whose neighbourhood is one surface, [h w]."""
        return reliable_depth(clean_depth(self.depth))

    @cached_property
    def points(self) -> NDArray[np.float32]:
        """World points; unreliable ones at the world origin, as in the released code, [h w 3]."""
        rays = pixel_directions(self.K, *self.depth.shape)
        return world_points(clean_depth(self.depth), rays, self.w2c, mask=self.reliable)


@dataclass(frozen=True)
class Targets:
    """All cameras of a chunk, in the order of the frames."""

    w2c: NDArray[np.float64]
    """World to camera, [n 4 4]."""
    K: NDArray[np.float64]
    """Intrinsics in pixels with integer pixel centres, [n 3 3]."""
    size: tuple[int, int]
    """Width and height of the views [px]."""
    warp_chunk: int = WARP_CHUNK
    """Views that share a depth maximum: a number that the weights were trained with."""

    @classmethod
    def of(
        cls, w2c: ArrayLike, K: ArrayLike, size: tuple[int, int], *, warp_chunk: int = WARP_CHUNK
    ) -> Targets:
        """Check and convert the cameras.

        Raises:
            EngineFailed: Shapes do not fit together, or a number is not finite.
        """
        w2c, K = np.asarray(w2c, np.float64), np.asarray(K, np.float64)
        if w2c.shape != (len(w2c), 4, 4) or K.shape != (len(w2c), 3, 3):
            raise EngineFailed(
                f"cameras of the chunk have shapes {w2c.shape} and {K.shape}; they must be "
                f"[n 4 4] and [n 3 3]. Give one pair for each new frame"
            )
        if not (np.isfinite(w2c).all() and np.isfinite(K).all()):
            raise EngineFailed(
                "a camera of the chunk is not finite; every number must be. Check the camera path"
            )
        return cls(w2c, K, size, warp_chunk)

    @property
    def projections(self) -> NDArray[np.float64]:
        """World to pixels of each view, [n 3 4]."""
        return self.K @ self.w2c[:, :3]

    @property
    def kept(self) -> NDArray[np.int64]:
        """Frames that the network sees: the last of each latent frame (spec generation 4.4)."""
        return np.arange(FRAMES_PER_LATENT - 1, len(self.w2c), FRAMES_PER_LATENT)


@dataclass(frozen=True)
class Aim:
    """One frame and all views that are to be made of it."""

    points: NDArray[np.float32]
    """World points of the frame, unreliable ones at the world origin, [n 3]."""
    valid: NDArray[np.bool_]
    """Points that may be seen, [n]."""
    shape: tuple[int, int]
    """Height and width of the frame [px]."""
    projections: NDArray[np.float64]
    """World to pixels of each view, [t 3 4]."""
    power: NDArray[np.float32]
    """Exponent of the depth weights of each view, [t]."""
    bound: NDArray[np.float64]
    """z of the deepest valid point of each view, [t]."""

    @classmethod
    def of(cls, source: SourceFrame, targets: Targets) -> Aim:
        """Find the depth maxima of all views, without splatting.

        The exponent of a view hangs on the largest log(1 + z) of all points in the views of its
        warp chunk, those at the world origin included.
        """
        points, valid = source.points.reshape(-1, 3), source.reliable.reshape(-1)
        z = splat_kernels.farthest(points, valid, targets.w2c)
        chunk = np.arange(len(z)) // targets.warp_chunk
        most = np.zeros(chunk.max(initial=0) + 1)
        np.maximum.at(most, chunk, z[:, 0])
        power = weight_power(np.log1p(most))[chunk]
        return cls(points, valid, source.depth.shape, targets.projections, power, z[:, 1])

    def at(self, views: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
        """Projections and exponents of some views, [u 3 4] and [u]."""
        return self.projections[views], self.power[views]
