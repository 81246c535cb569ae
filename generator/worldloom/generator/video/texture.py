"""A seen patch of floor or wall -> as much of it as is needed, fixed in the world.

The patch is cut into cells that are drawn from random places of it and cross-faded. The place
that a cell is drawn from depends on the cell's own number alone, so that every camera sees the
same made-up surface at the same spot.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from worldloom.generator.video.fill import push_pull

HASH_A, HASH_B = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xC2B2AE3D27D4EB4F)
GRAIN_SHARE = 0.2  # Scale of the shading that is taken out of a floor, in cells.
STAIN_SPREADS = 3.5  # Deviation from the median brightness, in median deviations, of a stain.
PLAIN_SHARE = 0.15  # Share of the windows of a floor, the plainest, that cells are drawn from.
KNOWN_ENOUGH = 0.95
"""Share of a cell that must have been seen for the cell to be drawn from."""


@dataclass(frozen=True)
class Texture:
    """A patch seen in the photo, on a grid of its surface, and where cells may be drawn from."""

    rgb: NDArray[np.float32]
    """Colours with the shading removed where unknown parts are filled, [rows columns 3]."""
    step: float
    """Side of a grid cell [m]."""
    cell: int
    """Side of a drawn cell in grid cells."""
    starts: NDArray[np.int64]
    """Upper corners (row, column) that cells may start at, [n 2]."""
    free_rows: bool
    """Whether cells may be drawn from any row; a wall keeps its heights."""
    base: NDArray[np.float32]
    """Mean colour of the places that cells are drawn from, [3]."""
    seed: int

    def sample(self, s: NDArray[np.float64], t: NDArray[np.float64]) -> NDArray[np.float32]:
        """Colours [n 3] at surface coordinates s (columns) and t (rows) in metres, each [n]."""
        x, y = s / (self.step * self.cell), t / (self.step * self.cell)
        if not self.free_rows:
            return self._sample_columns(x, t)
        column, row = np.floor(x).astype(np.int64), np.floor(y).astype(np.int64)
        out = np.zeros((len(s), 3), np.float32)
        weight = np.zeros(len(s), np.float32)
        for dy in range(2):
            for dx in range(2):
                cx, cy = column + dx, row + dy
                fade = _hat(x - cx) * _hat(y - cy)
                pick = self.starts[_hash(cx, cy, self.seed) % np.uint64(len(self.starts))]
                # The fade spans two cells, so a cell is drawn from a patch of twice its side.
                r = pick[:, 0] + ((y - cy + 1) * self.cell).astype(np.int64)
                c = pick[:, 1] + ((x - cx + 1) * self.cell).astype(np.int64)
                # Squared weights keep the contrast of a cross-fade of unrelated parts.
                out += (fade**2)[:, None] * (self._at(r, c) - self.base)
                weight += fade**4
        return out / np.sqrt(np.maximum(weight, 1e-9))[:, None] + self.base

    def _sample_columns(
        self, x: NDArray[np.float64], t: NDArray[np.float64]
    ) -> NDArray[np.float32]:
        column = np.floor(x).astype(np.int64)
        row = (t / self.step).astype(np.int64)
        out = np.zeros((len(t), 3), np.float32)
        for dx in range(2):
            cx = column + dx
            pick = self.starts[_hash(cx, cx, self.seed) % np.uint64(len(self.starts))]
            c = pick[:, 1] + ((x - cx + 1) * self.cell).astype(np.int64)
            # A short fade keeps shelves and posts sharp over most of a cell.
            fade = np.clip(3 * _hat(x - cx) - 1, 0, 1).astype(np.float32)
            out += fade[:, None] * self._at(row, c)
        return out

    def _at(self, row: NDArray[np.int64], column: NDArray[np.int64]) -> NDArray[np.float32]:
        rows, columns = self.rgb.shape[:2]
        return self.rgb[np.clip(row, 0, rows - 1), np.clip(column, 0, columns - 1)]


def make_texture(
    rgb: NDArray[np.float32],
    known: NDArray[np.bool_],
    *,
    step: float,
    cell_m: float,
    free_rows: bool,
    seed: int,
) -> Texture:
    """A texture from a partly known patch [rows columns 3]; the cell shrinks until some fit."""
    if free_rows:
        known = known & ~_stains(rgb, known)
        filled = push_pull(np.where(known[..., None], rgb, 0), known)
        # Shading is not texture: only grain finer than a quarter cell is kept, or cells from
        # bright and dark ends would make a patchwork.
        coarse = max(1.0, GRAIN_SHARE * cell_m / step)
        filled = filled - _blur(filled, coarse) + np.median(filled[known], axis=0)
    else:
        filled = _rows_continued(rgb, known)
    cell = max(2, int(cell_m / step))
    while cell > 4:
        starts = _starts(known, cell, free_rows=free_rows)
        if free_rows:
            starts = _plainest(filled, starts, cell)
        if len(starts) >= 4:
            break
        cell //= 2
    else:
        starts = np.argwhere(known)[:: max(1, known.sum() // 64)]
        if not len(starts):
            starts = np.zeros((1, 2), np.int64)
    base = np.mean([_window(filled, corner, cell).mean((0, 1)) for corner in starts[::7]], axis=0)
    return Texture(
        filled.astype(np.float32), step, cell, starts, free_rows, base.astype(np.float32), seed
    )


def _stains(rgb: NDArray[np.float32], known: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Parts of a floor that are not floor: shadows, wheels, litter; by brightness."""
    from scipy.ndimage import binary_dilation, uniform_filter

    luma = rgb.mean(-1)
    middle = np.median(luma[known])
    spread = np.median(np.abs(luma[known] - middle)) + 0.01
    rough = uniform_filter(np.where(known, np.abs(luma - middle), 0), 5)
    return binary_dilation(rough > STAIN_SPREADS * spread, iterations=4)


def _rows_continued(rgb: NDArray[np.float32], known: NDArray[np.bool_]) -> NDArray[np.float32]:
    """A wall with its hidden parts filled by the median colour of their own height."""
    masked = np.where(known[..., None], rgb, np.nan)
    rows = known.any(1)
    median = np.zeros((len(rgb), 1, 3), np.float32)
    median[rows, 0] = np.nanmedian(masked[rows], axis=1)
    seen = np.nonzero(rows)[0]
    for channel in range(3):
        median[:, 0, channel] = np.interp(np.arange(len(rgb)), seen, median[seen, 0, channel])
    return np.where(known[..., None], rgb, median).astype(np.float32)


def _starts(known: NDArray[np.bool_], cell: int, *, free_rows: bool) -> NDArray[np.int64]:
    """Corners of windows of two cells' side (full height for a wall) that are known enough."""
    rows, columns = known.shape
    high = 2 * cell if free_rows else rows
    wide = 2 * cell
    if high > rows or wide > columns:
        return np.zeros((0, 2), np.int64)
    total = np.zeros((rows + 1, columns + 1))
    total[1:, 1:] = known.cumsum(0).cumsum(1)
    window = (
        total[high:, wide:] - total[:-high, wide:] - total[high:, :-wide] + total[:-high, :-wide]
    )
    share = window / (high * wide)
    # A wall is hidden by things in front of it: take the best columns that there are.
    enough = KNOWN_ENOUGH if free_rows else min(KNOWN_ENOUGH, 0.9 * share.max())
    return np.argwhere(share >= enough)


def _plainest(
    rgb: NDArray[np.float32], starts: NDArray[np.int64], cell: int
) -> NDArray[np.int64]:
    """The windows with the least contrast: a shadow or a wheel would repeat all over the floor."""
    if len(starts) < 8:
        return starts
    luma = rgb.mean(-1).astype(np.float64)
    sums = [np.pad(a.cumsum(0).cumsum(1), ((1, 0), (1, 0))) for a in (luma, luma**2)]
    row, column = starts.T
    end_row = np.minimum(row + 2 * cell, luma.shape[0])
    end_column = np.minimum(column + 2 * cell, luma.shape[1])
    count = (end_row - row) * (end_column - column)
    mean, square = (
        (t[end_row, end_column] - t[row, end_column] - t[end_row, column] + t[row, column]) / count
        for t in sums
    )
    variance = square - mean**2
    return starts[variance <= np.quantile(variance, PLAIN_SHARE)]


def _window(rgb: NDArray[np.float32], corner: NDArray[np.int64], cell: int) -> NDArray[np.float32]:
    return rgb[corner[0] : corner[0] + 2 * cell, corner[1] : corner[1] + 2 * cell]


def _blur(image: NDArray[np.float32], radius: int) -> NDArray[np.float32]:
    from scipy.ndimage import gaussian_filter

    return gaussian_filter(image, (radius, radius, 0), mode="nearest")


def _hat(x: NDArray[np.float64]) -> NDArray[np.float32]:
    return np.maximum(0, 1 - np.abs(x)).astype(np.float32)


def _hash(a: NDArray[np.int64], b: NDArray[np.int64], seed: int) -> NDArray[np.uint64]:
    """A well mixed 64-bit number for each pair (splitmix64's finisher)."""
    with np.errstate(over="ignore"):
        x = a.astype(np.uint64) * HASH_A + b.astype(np.uint64) * HASH_B + np.uint64(seed)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))
