"""Measured similarities between windows -> where every window stands (spec 8 row 4).

Nodes are windows, edges are overlaps and loops. The first node stays; the others move until all
edges agree as well as their information allows. `chain` is the sequential alternative.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_matrix, identity
from scipy.sparse.csgraph import connected_components
from scipy.sparse.linalg import splu

from worldloom.generator.poses.similarity import (
    Similarity,
    adjoint,
    exp_sim3,
    inverse_right_jacobian,
    invert_sim3,
    log_sim3,
)
from worldloom.scene.errors import InvalidRequest

Array = NDArray[np.float64]

HUBER_SIGMAS = 2.5  # Edges whose residual is larger than this many sigma count less.
REJECT_SIGMAS = 25.0
"""Loops that still contradict the rest by this much are false: the worst is dropped, and so on."""
ROUNDS = 50
SETTLED = 1e-10  # Relative gain of a step below which the graph has settled.
DAMPING, DAMPING_MAX = 1e-6, 1e8  # First damping, and the one at which no step helps any more.


@dataclass(frozen=True)
class Edge:
    """A measured map from the frame of window `second` to that of window `first`."""

    first: int
    second: int
    measured: Similarity
    information: Array
    """Inverse covariance of log(measured^-1 true), shape [7 7]."""


@dataclass(frozen=True)
class Solution:
    """Where the windows stand."""

    nodes: tuple[Similarity, ...]
    """Map from each window's frame to that of window 0."""
    cost: float
    """Half the robust sum of squared residuals, in sigmas."""
    chained_cost: float
    """The same for the chain that it started from."""
    residuals: Array
    """Residual of each edge in sigmas, shape [edges]; infinite for a loop that was dropped."""


def chain(edges: Sequence[Edge], count: int) -> tuple[Similarity, ...]:
    """Windows placed one after the other from window 0, each by its edge to the nearest placed one.

    Args:
        edges: Measured maps; of several that reach a window, that between the closest numbers.
        count: How many windows there are.

    Raises:
        InvalidRequest: An edge names no window, or a window is not reached.
    """
    _check(edges, count)
    placed: dict[int, Similarity] = {0: Similarity.identity()}
    order = sorted(edges, key=lambda e: (abs(e.second - e.first), max(e.first, e.second)))
    while len(placed) < count:
        edge = next((e for e in order if (e.first in placed) != (e.second in placed)), None)
        if edge is None:
            lost = sorted(set(range(count)) - set(placed))
            raise InvalidRequest(
                f"windows {lost} have no edge that leads to window 0; give each window an overlap"
            )
        if edge.first in placed:
            placed[edge.second] = placed[edge.first] @ edge.measured
        else:
            placed[edge.first] = placed[edge.second] @ edge.measured.inverse()
    return tuple(placed[i] for i in range(count))


def solve_graph(
    edges: Sequence[Edge],
    count: int,
    *,
    initial: Sequence[Similarity] | None = None,
    rigid: bool = False,
) -> Solution:
    """Windows placed so that all edges agree best: Levenberg-Marquardt on sim(3), Huber's weights.

    Args:
        edges: Measured maps between windows.
        count: How many windows there are; window 0 stays at the identity, or its initial place.
        initial: Where to start; the chain of the edges by default.
        rigid: Hold all scales as they are: SE(3).

    Raises:
        InvalidRequest: As `chain`, or an information matrix is not finite and symmetric.
    """
    start = chain(edges, count) if initial is None else tuple(initial)
    _check(edges, count)
    kept = np.ones(len(edges), bool)
    while True:
        used = [edge for edge, keep in zip(edges, kept, strict=True) if keep]
        found = _settle(used, count, start, rigid=rigid)
        sizes = np.full(len(edges), np.inf)
        sizes[kept] = found.residuals
        loops = np.array([abs(e.second - e.first) > 1 for e in edges], bool) & kept
        worst = int(np.argmax(np.where(loops, sizes, -1.0))) if loops.any() else -1
        if worst < 0 or sizes[worst] <= REJECT_SIGMAS or not _joined(edges, kept, worst, count):
            return replace(found, residuals=sizes)
        kept[worst] = False


def _joined(edges: Sequence[Edge], kept: NDArray[np.bool_], without: int, count: int) -> bool:
    """Whether all windows still hang together when one more edge goes."""
    pairs = [(e.first, e.second) for i, e in enumerate(edges) if kept[i] and i != without]
    rows, columns = np.array(pairs).reshape(-1, 2).T
    graph = coo_matrix((np.ones(len(rows)), (rows, columns)), (count, count))
    return connected_components(graph, directed=False, return_labels=False) == 1


def _settle(
    edges: Sequence[Edge], count: int, start: Sequence[Similarity], *, rigid: bool
) -> Solution:
    """Levenberg-Marquardt from a start."""
    nodes = np.stack([node.matrix for node in start])
    pairs = np.array([(e.first, e.second) for e in edges]).reshape(-1, 2)
    inverse = invert_sim3(np.stack([e.measured.matrix for e in edges])) if edges else nodes[:0]
    information = np.stack([e.information for e in edges]) if edges else np.zeros((0, 7, 7))
    cost, size, parts = _evaluate(nodes, pairs, inverse, information)
    first, damping = cost, DAMPING
    for _ in range(ROUNDS if len(edges) and count > 1 else 0):
        hessian, gradient = _normal(nodes, pairs, information, size, parts, rigid=rigid)
        better = False
        while damping < DAMPING_MAX:
            step = -splu((hessian + damping * _diagonal(hessian)).tocsc()).solve(gradient)
            tangent = np.concatenate([np.zeros((1, 7)), step.reshape(-1, 7)])
            trial = nodes @ exp_sim3(tangent)
            now, new_size, new_parts = _evaluate(trial, pairs, inverse, information)
            if now <= cost:
                better = cost - now > SETTLED * max(cost, 1e-30)
                nodes, cost, size, parts = trial, now, new_size, new_parts
                damping = max(damping / 10, 1e-12)
                break
            damping *= 10
        if not better:
            break
    return Solution(tuple(Similarity.from_matrix(m) for m in nodes), cost, first, size)


def _evaluate(
    nodes: Array, pairs: NDArray[np.int64], inverse: Array, information: Array
) -> tuple[float, Array, Array]:
    """Robust cost, size of each edge's residual in sigmas [e], and the residuals [e 7]."""
    if not len(pairs):
        return 0.0, np.zeros(0), np.zeros((0, 7))
    relative = invert_sim3(nodes[pairs[:, 0]]) @ nodes[pairs[:, 1]]
    parts = log_sim3(inverse @ relative)
    size = np.sqrt(np.maximum(np.einsum("ei,eij,ej->e", parts, information, parts), 0))
    small = 0.5 * size**2
    large = HUBER_SIGMAS * (size - 0.5 * HUBER_SIGMAS)
    return float(np.where(size <= HUBER_SIGMAS, small, large).sum()), size, parts


def _normal(
    nodes: Array,
    pairs: NDArray[np.int64],
    information: Array,
    size: Array,
    parts: Array,
    *,
    rigid: bool,
) -> tuple[coo_matrix, Array]:
    """Sparse Hessian and gradient over all nodes but the first."""
    weight = np.minimum(1.0, HUBER_SIGMAS / np.maximum(size, 1e-12))
    relative = invert_sim3(nodes[pairs[:, 0]]) @ nodes[pairs[:, 1]]
    right = inverse_right_jacobian(parts)
    jacobians = np.stack([-right @ adjoint(invert_sim3(relative)), right], 1)
    if rigid:
        jacobians[..., 6] = 0.0
    mixed = weight[:, None, None] * information
    blocks = np.einsum("eaki,ekl,eblj->eabij", jacobians, mixed, jacobians)
    slopes = np.einsum("eaki,ekl,el->eai", jacobians, mixed, parts)
    total = 7 * len(nodes)
    gradient = np.zeros((len(nodes), 7))
    np.add.at(gradient, pairs, slopes)
    at = 7 * pairs[:, :, None] + np.arange(7)
    rows = np.broadcast_to(at[:, :, None, :, None], blocks.shape)
    columns = np.broadcast_to(at[:, None, :, None, :], blocks.shape)
    full = coo_matrix((blocks.ravel(), (rows.ravel(), columns.ravel())), (total, total)).tocsc()
    return full[7:, 7:], gradient[1:].ravel()


def _diagonal(hessian: coo_matrix) -> coo_matrix:
    """Its diagonal as a matrix; 1 where it is 0, so that what nothing holds stays."""
    values = hessian.diagonal()
    out = identity(len(values), format="csc")
    out.data[:] = np.where(values > 0, values, 1.0 / DAMPING)
    return out


def _check(edges: Sequence[Edge], count: int) -> None:
    for edge in edges:
        if not (0 <= edge.first < count and 0 <= edge.second < count):
            raise InvalidRequest(
                f"an edge joins windows {edge.first} and {edge.second}; there are {count}, "
                f"numbered 0 to {count - 1}"
            )
        matrix = np.asarray(edge.information)
        good = matrix.shape == (7, 7) and np.isfinite(matrix).all()
        if not (good and np.allclose(matrix, matrix.T, rtol=1e-6)):
            raise InvalidRequest(
                f"the information of the edge from window {edge.first} to {edge.second} must be "
                f"finite and symmetric, of shape [7 7]; it has shape {matrix.shape}"
            )
