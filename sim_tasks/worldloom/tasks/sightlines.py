"""Lines of sight on a grid, and distances made straight along them (numba).

A shortest path over grid steps is up to 2 % too long, because it has only 32 directions. From its
nodes outwards, each node therefore takes the straight line to the last corner that it still sees.
"""

from __future__ import annotations

import numba as nb
import numpy as np
from numpy.typing import ArrayLike, NDArray


def line_is_free(walkable: NDArray[np.bool_], start: ArrayLike, end: ArrayLike) -> bool:
    """Whether the segment between the centres of two cells (row, column) stays on walkable cells.

    A segment through a corner needs all cells that touch the corner, as in the graph.
    """
    (r0, c0), (r1, c1) = np.asarray(start, int).tolist(), np.asarray(end, int).tolist()
    return bool(_sees(walkable, r0, c0, r1, c1))


def straighten(
    walkable: NDArray[np.bool_],
    cells: NDArray[np.int32],
    order: NDArray[np.int32],
    towards: NDArray[np.int32],
    goal_at: NDArray[np.float64],
    goal_cell: NDArray[np.int64],
) -> tuple[NDArray[np.float64], NDArray[np.int32]]:
    """Distances in cells [n], infinite where unreached, and the next corner [n], -1 = the goal.

    Args:
        walkable: The floor, [ny nx].
        cells: Row and column of each node, [n 2].
        order: Reached nodes, nearest to the goal first.
        towards: The next node on the way to the goal, -1 = the goal itself, [n].
        goal_at: Row and column of the goal, in fractions of cells.
        goal_cell: The cell that stands for the goal where sight is tested.
    """
    return _straighten(
        walkable, cells, order, towards, float(goal_at[0]), float(goal_at[1]),
        int(goal_cell[0]), int(goal_cell[1]),
    )  # fmt: skip


@nb.njit(cache=True)
def _straighten(walkable, cells, order, towards, goal_row, goal_column, cell_row, cell_column):
    """One pass in order of distance: a node inherits its predecessor's corner while it sees it."""
    values = np.full(len(cells), np.inf)
    anchors = np.full(len(cells), -1, np.int32)
    for n in order:
        row, column = cells[n, 0], cells[n, 1]
        before = towards[n]
        corner = -1
        if before >= 0:
            corner = anchors[before]
            r = cell_row if corner < 0 else cells[corner, 0]
            c = cell_column if corner < 0 else cells[corner, 1]
            if not _sees(walkable, row, column, r, c):
                corner = before
        anchors[n] = corner
        if corner < 0:
            values[n] = np.hypot(row - goal_row, column - goal_column)
        else:
            way = np.hypot(row - cells[corner, 0], column - cells[corner, 1])
            values[n] = values[corner] + way
    return values, anchors


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
