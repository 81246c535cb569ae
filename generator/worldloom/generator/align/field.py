"""A smooth correction of the logarithm of one depth map: a cubic B-spline on a coarse grid.

Depth networks are wrong by factors that vary slowly over the picture; what is sharp in a depth map
(edges, contact lines) is kept, because a whole neighbourhood is scaled together.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

CELLS_ACROSS = 8
"""Cells of the grid over the picture's width: finer detail than W/8 is taken for real relief."""
SUPPORT = 4  # Knots that reach one place along an axis: a cubic spline.


@dataclass(frozen=True)
class FieldGrid:
    """The knots of pictures of one size."""

    width: int
    """Width of the picture [px]."""
    height: int
    """Height of the picture [px]."""

    @property
    def cell(self) -> float:
        """Side of a cell of the grid [px]."""
        return self.width / CELLS_ACROSS

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of knots."""
        rows = int(np.ceil(self.height / self.cell))
        return rows + SUPPORT - 1, CELLS_ACROSS + SUPPORT - 1

    @property
    def knots(self) -> int:
        """Number of unknowns of one field."""
        return self.shape[0] * self.shape[1]

    def weights(self, u: ArrayLike, v: ArrayLike) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
        """Knot numbers and weights [n 16] at places (u, v) [n] in pixels, centres at +0.5."""
        column, across = _spline(np.asarray(u, float) / self.cell, self.shape[1])
        row, down = _spline(np.asarray(v, float) / self.cell, self.shape[0])
        step = np.arange(SUPPORT)
        knot = (row[:, None] + step)[:, :, None] * self.shape[1] + (column[:, None] + step)[:, None]
        weight = down[:, :, None] * across[:, None, :]
        n = len(row)
        shape = (n, SUPPORT * SUPPORT)
        return knot.reshape(shape).astype(np.int32), weight.reshape(shape)

    def dense(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """The field [h w] of knot values [knots] at all pixel centres."""
        across = self._matrix(self.width, self.shape[1])
        down = self._matrix(self.height, self.shape[0])
        return down @ values.reshape(self.shape) @ across.T

    def roughness(self) -> NDArray[np.float64]:
        """Rows [r knots] that take the second differences of the knots along both axes."""
        index = np.arange(self.knots).reshape(self.shape)
        triples = np.concatenate(
            [
                np.stack([index[:-2], index[1:-1], index[2:]], -1).reshape(-1, 3),
                np.stack([index[:, :-2], index[:, 1:-1], index[:, 2:]], -1).reshape(-1, 3),
            ]
        )
        rows = np.zeros((len(triples), self.knots))
        at = np.arange(len(triples))
        for k, factor in enumerate((1.0, -2.0, 1.0)):
            rows[at, triples[:, k]] = factor
        return rows

    def _matrix(self, pixels: int, knots: int) -> NDArray[np.float64]:
        first, weight = _spline((np.arange(pixels) + 0.5) / self.cell, knots)
        out = np.zeros((pixels, knots))
        for k in range(SUPPORT):
            out[np.arange(pixels), first + k] += weight[:, k]
        return out


def _spline(x: NDArray[np.float64], knots: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """First knot [n] and the four weights [n 4] of a uniform cubic B-spline at x in cells."""
    cell = np.clip(np.floor(x), 0, knots - SUPPORT).astype(np.int64)
    t = np.clip(x - cell, 0, 1)
    weight = np.stack(
        [
            (1 - t) ** 3,
            3 * t**3 - 6 * t**2 + 4,
            -3 * t**3 + 3 * t**2 + 3 * t + 1,
            t**3,
        ],
        -1,
    )
    return cell, weight / 6
