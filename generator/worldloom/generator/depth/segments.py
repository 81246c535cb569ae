"""Grey image -> straight line segments, by grouping pixels of one gradient direction.

The idea is that of line support regions (Burns, Hanson, Riseman, 1986): neighbouring pixels whose
gradients point the same way belong to one edge; the region's principal axis is the segment.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

ORIENTATIONS = 12
"""Sectors of the gradient direction; two partitions, shifted by half a sector, are tried."""
SMOOTH_SIGMA = 1.0  # Blur before the gradient [px]; takes sensor noise, keeps edges.
GRADIENT_FLOOR = 0.012
"""Smallest gradient of an edge pixel [grey levels in 0..1 per px]; three levels of 8 bits."""
SMALLEST_ASPECT = 5.0  # Length over width of a region that counts as a line.


@dataclass(frozen=True)
class Segments:
    """Line segments in pixels, pixel centres at +0.5."""

    start: NDArray[np.float64]
    """End points (u, v), shape [n 2]."""
    end: NDArray[np.float64]
    """The other end points (u, v), shape [n 2]."""

    @property
    def n(self) -> int:
        """Number of segments."""
        return len(self.start)

    @property
    def length(self) -> NDArray[np.float64]:
        """Lengths [px], shape [n]."""
        return np.linalg.norm(self.end - self.start, axis=-1)

    @property
    def middle(self) -> NDArray[np.float64]:
        """Mid points (u, v) [px], shape [n 2]."""
        return (self.start + self.end) / 2

    def select(self, index: NDArray) -> Segments:
        """The segments at `index` (mask or integers)."""
        return Segments(self.start[index], self.end[index])


def find_segments(grey: NDArray[np.floating], *, min_length: float | None = None) -> Segments:
    """Straight edges of a grey image.

    Args:
        grey: Luminance in 0..1, shape [h w].
        min_length: Shortest segment [px]; 2 % of the image diagonal by default.
    """
    height, width = grey.shape
    shortest = 0.02 * np.hypot(height, width) if min_length is None else min_length
    smooth = ndimage.gaussian_filter(np.asarray(grey, np.float32), SMOOTH_SIGMA)
    gy, gx = np.gradient(smooth)
    magnitude = np.hypot(gx, gy)
    # An edge must stand out of its picture: half of the pixels never are edges.
    edge = magnitude > max(GRADIENT_FLOOR, float(np.median(magnitude)))
    angle = np.arctan2(gy, gx)
    parts = [_one_partition(edge, angle, magnitude, shift, shortest) for shift in (0.0, 0.5)]
    return _without_doubles(*parts)


def _one_partition(
    edge: NDArray[np.bool_],
    angle: NDArray[np.floating],
    magnitude: NDArray[np.floating],
    shift: float,
    shortest: float,
) -> Segments:
    sector = np.floor((angle / (2 * np.pi) * ORIENTATIONS) + shift).astype(int) % ORIENTATIONS
    labels = np.zeros(edge.shape, np.int32)
    count = 0
    for k in range(ORIENTATIONS):
        found, n = ndimage.label(edge & (sector == k), structure=np.ones((3, 3), int))
        labels[found > 0] = found[found > 0] + count
        count += n
    if count == 0:
        return Segments(np.zeros((0, 2)), np.zeros((0, 2)))
    rows, columns = np.nonzero(labels)
    return _fit_lines(
        labels[rows, columns] - 1, columns + 0.5, rows + 0.5, magnitude[rows, columns],
        count, shortest,
    )  # fmt: skip


def _fit_lines(
    label: NDArray, u: NDArray, v: NDArray, weight: NDArray, count: int, shortest: float
) -> Segments:
    """Weighted principal axis of every region, kept where it is long and thin."""

    def total(values: NDArray) -> NDArray:
        return np.bincount(label, weight * values, count)

    mass = np.maximum(total(np.ones_like(u)), 1e-12)
    mu, mv = total(u) / mass, total(v) / mass
    du, dv = u - mu[label], v - mv[label]
    cuu, cvv, cuv = total(du * du) / mass, total(dv * dv) / mass, total(du * dv) / mass
    direction = 0.5 * np.arctan2(2 * cuv, cuu - cvv)
    spread = np.hypot(0.5 * (cuu - cvv), cuv)
    major, minor = 0.5 * (cuu + cvv) + spread, 0.5 * (cuu + cvv) - spread
    cosine, sine = np.cos(direction), np.sin(direction)
    along = du * cosine[label] + dv * sine[label]
    low, high = np.full(count, np.inf), np.full(count, -np.inf)
    np.minimum.at(low, label, along)
    np.maximum.at(high, label, along)
    thin = major > SMALLEST_ASPECT**2 * np.maximum(minor, 0.08)
    keep = (high - low >= shortest) & thin
    axis = np.stack([cosine, sine], -1)[keep]
    centre = np.stack([mu, mv], -1)[keep]
    return Segments(centre + axis * low[keep, None], centre + axis * high[keep, None])


def _without_doubles(first: Segments, second: Segments) -> Segments:
    """Both partitions together; of two segments on one edge the longer stays."""
    start = np.concatenate([first.start, second.start])
    end = np.concatenate([first.end, second.end])
    both = Segments(start, end)
    if both.n == 0:
        return both
    order = np.argsort(-both.length, kind="stable")
    both = both.select(order)
    direction = (both.end - both.start) / both.length[:, None]
    offset = both.middle[None] - both.middle[:, None]
    # Row i against column j: is the middle of j on segment i, and parallel to it?
    along = np.abs(np.einsum("ijk,ik->ij", offset, direction))
    across = np.abs(offset[..., 0] * direction[:, None, 1] - offset[..., 1] * direction[:, None, 0])
    parallel = np.abs(direction @ direction.T) > np.cos(np.radians(8))
    covers = (along <= both.length[:, None] / 2) & (across < 1.5) & parallel
    doubled = np.any(np.triu(covers, 1), axis=0)
    return both.select(~doubled)
