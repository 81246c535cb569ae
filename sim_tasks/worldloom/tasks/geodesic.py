"""Distances along the floor: Dijkstra over 32 neighbours, straightened along lines of sight.

A goal's field is computed once; every later distance is a look-up (spec navigation 0.3). A step
may not cut a corner: each cell that its segment crosses must be walkable.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from worldloom.scene.errors import InvalidRequest
from worldloom.tasks.navgrid import NavGrid
from worldloom.tasks.sightlines import line_is_free, straighten

REACH = 3  # Coprime steps up to (3, 2) give the 32 directions.
HAIR = 1e-9  # Rounding of a crossing point, in cells.
SNAP_M = 0.3  # A point this near to walkable floor still belongs to it [m].
CLEARANCE_WANTED_M = 0.25
"""Distance beyond the robot's radius at which the oracle stops keeping away from obstacles [m]."""
CLEARANCE_PRICE = 4.0  # Cost factor on top of length where the robot would touch.


@dataclass(frozen=True)
class FloorGraph:
    """The walkable cells of one floor as a graph."""

    grid: NavGrid
    floor: int

    @cached_property
    def cells(self) -> NDArray[np.int64]:
        """Row and column of each node, [n 2]."""
        return np.argwhere(self.grid.floors[self.floor].walkable)

    @cached_property
    def number(self) -> NDArray[np.int32]:
        """Node of each cell, -1 where not walkable, [ny nx]."""
        walkable = self.grid.floors[self.floor].walkable
        number = np.full(walkable.shape, -1, np.int32)
        number[walkable] = np.arange(len(self.cells), dtype=np.int32)
        return number

    @cached_property
    def nearest(self) -> NDArray[np.int32]:
        """Row and column of the walkable cell nearest to each cell, [2 ny nx]."""
        from scipy.ndimage import distance_transform_edt

        closed = ~self.grid.floors[self.floor].walkable
        return distance_transform_edt(closed, return_distances=False, return_indices=True)

    @cached_property
    def edges(self) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.float64]]:
        """Start node, end node and length [m] of every step."""
        starts, ends, lengths = [], [], []
        walkable = np.pad(self.grid.floors[self.floor].walkable, REACH)
        number = np.pad(self.number, REACH, constant_values=-1)
        for row, column in _steps():
            free = walkable.copy()
            for r, c in _crossed(row, column):
                free &= np.roll(walkable, (-r, -c), (0, 1))
            at = np.argwhere(free)
            starts.append(number[at[:, 0], at[:, 1]])
            ends.append(number[at[:, 0] + row, at[:, 1] + column])
            lengths.append(np.full(len(at), np.hypot(row, column) * self.grid.cell))
        return np.concatenate(starts), np.concatenate(ends), np.concatenate(lengths)

    def matrix(self, *, weighted: bool = False) -> Any:
        """Costs as a sparse matrix [n n], built once: lengths [m], or the oracle's prices."""
        return self._weighted_matrix if weighted else self._length_matrix

    @cached_property
    def _length_matrix(self) -> Any:
        return self._sparse(self.edges[2])

    @cached_property
    def _weighted_matrix(self) -> Any:
        return self._sparse(self.weighted)

    def _sparse(self, cost: NDArray[np.float64]) -> Any:
        from scipy.sparse import csr_matrix

        starts, ends, _ = self.edges
        return csr_matrix((cost, (starts, ends)), shape=(len(self.cells), len(self.cells)))

    @cached_property
    def price(self) -> NDArray[np.float64]:
        """Cost of a metre at each node for the oracle: more near obstacles, [n]."""
        clearance = self.grid.floors[self.floor].clearance[tuple(self.cells.T)]
        spare = np.clip(clearance - float(self.grid.robot["radius"]), 0, CLEARANCE_WANTED_M)
        return 1 + CLEARANCE_PRICE * (1 - spare / CLEARANCE_WANTED_M) ** 2

    @cached_property
    def weighted(self) -> NDArray[np.float64]:
        """Length of every step times the price of its ends."""
        starts, ends, lengths = self.edges
        return lengths * 0.5 * (self.price[starts] + self.price[ends])

    def with_goal(self, goal_xy: NDArray[np.float64], *, weighted: bool = False) -> Any:
        """The matrix with one more node, last, at a world point: the goal, where it really is.

        Rounding it to a cell's centre would cost up to 0.7 of a cell.

        Raises:
            InvalidRequest: The goal is not on walkable floor.
        """
        from scipy.sparse import csr_matrix

        matrix = self.matrix(weighted=weighted)
        node = self.node_at(goal_xy)
        around = np.flatnonzero(np.abs(self.cells - self.cells[node]).max(1) <= REACH)
        walkable = self.grid.floors[self.floor].walkable
        seen = [
            n for n in around if line_is_free(walkable, self.cells[node], self.cells[n])
        ]
        away = np.linalg.norm(self.grid.centre_of(self.cells[seen]) - goal_xy, axis=1)
        cost = away * self.price[seen] if weighted else away
        # A stored zero would be no edge.
        data = np.concatenate([matrix.data, np.maximum(cost, 1e-12)])
        indices = np.concatenate([matrix.indices, np.asarray(seen, matrix.indices.dtype)])
        ends = np.append(matrix.indptr, len(data)).astype(matrix.indptr.dtype)
        return csr_matrix((data, indices, ends), shape=(len(self.cells) + 1,) * 2)

    def node_at(self, xy: ArrayLike) -> int:
        """The walkable node at, or nearest to, a world point [2].

        Raises:
            InvalidRequest: No walkable floor is near.
        """
        row, column = (int(v) for v in self.grid.cell_of(xy))
        rows, columns = self.number.shape
        if 0 <= row < rows and 0 <= column < columns and self.number[row, column] >= 0:
            return int(self.number[row, column])
        if len(self.cells):
            away = np.linalg.norm(self.grid.centre_of(self.cells) - np.asarray(xy)[:2], axis=1)
            nearest = int(away.argmin())
            if away[nearest] <= SNAP_M:
                return nearest
        raise InvalidRequest(
            f"the point {np.round(np.asarray(xy)[:2], 2).tolist()} is not on walkable floor; the "
            f"nearest must be within {SNAP_M} m"
        )


class DistanceField:
    """Distances of all cells of a floor to one goal."""

    def __init__(self, graph: FloorGraph, goal_xy: ArrayLike, *, weighted: bool = False) -> None:
        """Solve for one goal.

        Args:
            graph: The floor.
            goal_xy: World x, y of the goal [m].
            weighted: Keep away from obstacles: for planning, never for scoring.

        Raises:
            InvalidRequest: The goal is not on walkable floor.
        """
        from scipy.sparse.csgraph import dijkstra

        self.graph = graph
        self.goal_xy = np.asarray(goal_xy, float)[:2]
        count = len(graph.cells)
        # Steps are the same both ways, so distances from the goal are distances to it.
        distance, towards = dijkstra(
            graph.with_goal(self.goal_xy, weighted=weighted), directed=True, indices=count,
            return_predecessors=True,
        )  # fmt: skip
        distance, self._towards = distance[:count], np.where(towards == count, -1, towards)[:count]
        if not weighted:
            distance, self._towards = self._straightened(distance)
        self.values = np.full(graph.number.shape, np.inf)
        """Distance or cost to the goal at every cell, infinite where it cannot be reached."""
        self.values[tuple(graph.cells.T)] = distance

    def distance(self, xy: ArrayLike) -> NDArray[np.float64]:
        """Distance to the goal [m] of world points [... 2]; infinite off the goal's island.

        Interpolated between the four cells around the point. Beside an obstacle, where some of
        them are not walkable, it is the best of the others plus the way to their centre. A robot
        that leans on an obstacle is up to SNAP_M off the walkable floor and still on its way.
        """
        xy = np.asarray(xy, float)[..., :2]
        grid = self.graph.grid
        base = grid.cell_of(xy - 0.5 * grid.cell)
        share = (xy - grid.centre_of(base)) / grid.cell
        best = np.full(xy.shape[:-1], np.inf)
        smooth = np.zeros(xy.shape[:-1])
        for dr in range(2):
            for dc in range(2):
                centre = grid.centre_of(base + np.array([dr, dc]))
                value = grid.lookup(self.values, centre, outside=np.inf)
                best = np.minimum(best, value + np.linalg.norm(centre - xy, axis=-1))
                part = np.abs(1 - dc - share[..., 0]) * np.abs(1 - dr - share[..., 1])
                # Infinity times zero is no number; a cell without a share has no say.
                smooth = smooth + part * np.where(part > 0, value, 0.0)
        best = np.where(np.isfinite(smooth), smooth, best)
        best = np.where(np.isfinite(best), best, self._from_nearest(xy))
        straight = np.linalg.norm(xy - self.goal_xy, axis=-1)
        close = np.isfinite(best) & (straight < 2 * grid.cell)
        # A path is never shorter than the straight line; rounding to cells could make it so.
        return np.where(close, straight, np.maximum(best, straight))

    def _straightened(
        self, distance: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.int32]]:
        """Distances by straight lines from corner to corner, and the next corner of each node."""
        graph, grid = self.graph, self.graph.grid
        order = np.argsort(distance, kind="stable")
        order = order[np.isfinite(distance[order])].astype(np.int32)
        at = (self.goal_xy - grid.origin_xy)[::-1] / grid.cell - 0.5
        values, anchors = straighten(
            graph.number, graph.cells.astype(np.int32), order,
            self._towards.astype(np.int32), at, graph.cells[graph.node_at(self.goal_xy)],
        )  # fmt: skip
        return values * grid.cell, anchors

    def _from_nearest(self, xy: NDArray[np.float64]) -> NDArray[np.float64]:
        """Distance by way of the nearest walkable cell, infinite beyond SNAP_M of it."""
        grid = self.graph.grid
        row, column = (grid.lookup(axis, xy, outside=0) for axis in self.graph.nearest)
        centre = grid.centre_of(np.stack([row, column], -1))
        away = np.linalg.norm(centre - xy, axis=-1)
        return np.where(away <= SNAP_M, self.values[row, column] + away, np.inf)

    def path(self, xy: ArrayLike) -> NDArray[np.float64]:
        """Way from a world point [2] to the goal, world x, y [n 2], pulled straight.

        Raises:
            InvalidRequest: The point is not on walkable floor, or cannot reach the goal.
        """
        return self._points(_pull_straight(self.graph, self._cells(xy)), xy)

    def way(self, xy: ArrayLike) -> NDArray[np.float64]:
        """Way from a world point [2] to the goal cell by cell, world x, y [n 2].

        A way that keeps away from obstacles must not be pulled straight: it would touch them.

        Raises:
            InvalidRequest: The point is not on walkable floor, or cannot reach the goal.
        """
        return self._points(self._cells(xy), xy)

    def _cells(self, xy: ArrayLike) -> NDArray[np.int64]:
        node = self.graph.node_at(xy)
        if not np.isfinite(self.values[tuple(self.graph.cells[node])]):
            raise InvalidRequest(
                f"no way leads from {np.round(np.asarray(xy)[:2], 2).tolist()} to "
                f"{np.round(self.goal_xy, 2).tolist()}"
            )
        nodes = [node]
        while (node := int(self._towards[node])) >= 0:
            nodes.append(node)
        # The last node sees the goal from up to REACH cells away; the goal's own cell ends it.
        nodes.append(self.graph.node_at(self.goal_xy))
        return self.graph.cells[nodes]

    def _points(self, cells: NDArray[np.int64], xy: ArrayLike) -> NDArray[np.float64]:
        points = self.graph.grid.centre_of(cells)
        points[0], points[-1] = np.asarray(xy, float)[:2], self.goal_xy
        return points


def _pull_straight(graph: FloorGraph, cells: NDArray[np.int64]) -> NDArray[np.int64]:
    """Drop the cells of a path that a free straight line can skip."""
    walkable = graph.grid.floors[graph.floor].walkable
    kept, at = [0], 0
    while at < len(cells) - 1:
        low, high = at + 1, len(cells) - 1
        # The visible prefix is found by halving: visibility along a shortest path rarely returns.
        while low < high:
            middle = (low + high + 1) // 2
            if line_is_free(walkable, cells[at], cells[middle]):
                low = middle
            else:
                high = middle - 1
        kept.append(low)
        at = low
    return cells[kept]


def _steps() -> list[tuple[int, int]]:
    span = range(-REACH, REACH + 1)
    return [(r, c) for r in span for c in span if np.gcd(abs(r), abs(c)) == 1]


def _crossed(row: int, column: int) -> set[tuple[int, int]]:
    """Cells that the segment from the centre of (0, 0) to that of (row, column) touches.

    Between two borders that it crosses the segment is inside one cell; on a border or a corner it
    touches the cells on all sides.
    """
    cuts = [np.array([0.0, 1.0])]
    for length in (row, column):
        borders = np.arange(abs(length)) + 0.5
        cuts.append(borders / max(abs(length), 1))
    at = np.unique(np.concatenate(cuts))
    at = np.concatenate([at, (at[1:] + at[:-1]) / 2])
    rows = [np.floor(at * row + 0.5 + hair).astype(int) for hair in (-HAIR, HAIR)]
    columns = [np.floor(at * column + 0.5 + hair).astype(int) for hair in (-HAIR, HAIR)]
    pairs = [np.stack([r, c], 1) for r in rows for c in columns]
    return {(int(r), int(c)) for r, c in np.concatenate(pairs)}
