"""Lines of sight on a grid, and distances made straight along them (numba).

A shortest path over grid steps is up to 2 % too long, because it has only 32 directions. From its
nodes outwards, each node therefore takes the straight line to the last corner that it still sees.
"""

from __future__ import annotations

import numba as nb
import numpy as np
from numpy.typing import ArrayLike, NDArray

ROUNDS = 2  # Further ones change no distance of the tests by 0.01 %.


def line_is_free(walkable: NDArray[np.bool_], start: ArrayLike, end: ArrayLike) -> bool:
    """Whether the segment between the centres of two cells (row, column) stays on walkable cells.

    A segment through a corner needs all cells that touch the corner, as in the graph.
    """
    (r0, c0), (r1, c1) = np.asarray(start, int).tolist(), np.asarray(end, int).tolist()
    return bool(_sees(walkable, r0, c0, r1, c1))


def straighten(
    number: NDArray[np.int32],
    cells: NDArray[np.int32],
    order: NDArray[np.int32],
    towards: NDArray[np.int32],
    goal_at: NDArray[np.float64],
    goal_cell: NDArray[np.int64],
) -> tuple[NDArray[np.float64], NDArray[np.int32]]:
    """Distances in cells [n], infinite where unreached, and the next corner [n], -1 = the goal.

    Args:
        number: Node of each cell, -1 where not walkable, [ny nx].
        cells: Row and column of each node, [n 2].
        order: Reached nodes, nearest to the goal first.
        towards: The next node on the way to the goal, -1 = the goal itself, [n].
        goal_at: Row and column of the goal, in fractions of cells.
        goal_cell: The cell that stands for the goal where sight is tested.
    """
    walkable = number >= 0
    # The goal is one more node, so that the kernels treat it as a corner like any other.
    goal = len(cells)
    at = np.concatenate([cells, [goal_at]]).astype(np.float64)
    seen_from = np.concatenate([cells, [goal_cell]]).astype(np.int32)
    next_node = np.where(towards < 0, goal, towards)
    values, corners = _inherit(walkable, at, seen_from, order, next_node)
    # Where a corner goes out of sight, a neighbour often knows a better one.
    for _ in range(ROUNDS):
        _ask_neighbours(walkable, number, at, seen_from, order, values, corners)
    return values[:goal], np.where(corners == goal, -1, corners)[:goal]


@nb.njit(cache=True)
def _inherit(walkable, at, cells, order, towards):
    """One pass in order of distance: a node inherits its predecessor's corner while it sees it."""
    goal = len(at) - 1
    values = np.full(goal + 1, np.inf)
    corners = np.full(goal + 1, goal, np.int32)
    values[goal] = 0.0
    for n in order:
        before = towards[n]
        corner = corners[before]
        if not _sees(walkable, cells[n, 0], cells[n, 1], cells[corner, 0], cells[corner, 1]):
            corner = before
        corners[n] = corner
        values[n] = values[corner] + np.hypot(at[n, 0] - at[corner, 0], at[n, 1] - at[corner, 1])
    return values, corners


@nb.njit(cache=True)
def _ask_neighbours(walkable, number, at, cells, order, values, corners):
    """Take the corner of one of the eight cells around where that is in sight and shorter."""
    rows, columns = number.shape
    for n in order:
        row, column = cells[n, 0], cells[n, 1]
        corner = corners[n]
        best = values[corner] + np.hypot(at[n, 0] - at[corner, 0], at[n, 1] - at[corner, 1])
        for r in range(max(0, row - 1), min(rows, row + 2)):
            for c in range(max(0, column - 1), min(columns, column + 2)):
                m = number[r, c]
                if m < 0 or corners[m] == corners[n] or corners[m] == n:
                    continue
                other = corners[m]
                way = values[other] + np.hypot(at[n, 0] - at[other, 0], at[n, 1] - at[other, 1])
                if way < best - 1e-9 and _sees(
                    walkable, row, column, cells[other, 0], cells[other, 1]
                ):
                    best, corners[n] = way, other
        values[n] = best


@nb.njit(cache=True)
def _sees(walkable, r0, c0, r1, c1):
    """Whether all cells that the segment between two cell centres touches are walkable.

    Integer stepping: the next border that the segment crosses is a row's or a column's, or both
    at once in a corner, where the two cells beside it must be walkable too.
    """
    rows, columns = abs(r1 - r0), abs(c1 - c0)
    down, right = (1 if r1 > r0 else -1), (1 if c1 > c0 else -1)
    if not walkable[r0, c0]:
        return False
    i = j = 0
    while i < rows or j < columns:
        # Compare (i + 1/2) / rows with (j + 1/2) / columns without division.
        lead = (2 * i + 1) * columns - (2 * j + 1) * rows
        if lead == 0:
            if not (walkable[r0 + down * (i + 1), c0 + right * j]
                    and walkable[r0 + down * i, c0 + right * (j + 1)]):  # fmt: skip
                return False
            i, j = i + 1, j + 1
        elif lead < 0:
            i += 1
        else:
            j += 1
        if not walkable[r0 + down * i, c0 + right * j]:
            return False
    return True
