"""The graph of windows: a loop with drift, outliers, and what cannot be solved."""

import numpy as np
import pytest

from worldloom.generator.poses.graph import Edge, chain, solve_graph
from worldloom.generator.poses.similarity import Similarity
from worldloom.scene.errors import InvalidRequest

COUNT = 20
SIGMA = np.array([0.01] * 3 + [0.004] * 3 + [0.004])


def ring():
    """Windows on a circle of 3 m, each looking along it."""
    nodes = []
    for k in range(COUNT):
        angle = 2 * np.pi * k / COUNT
        turn = Similarity.exp([0, 0, 0, 0, 0, angle, 0])
        nodes.append(Similarity(1.0, turn.R, 3 * np.array([np.sin(angle), 1 - np.cos(angle), 0])))
    return nodes


def drifting(nodes, rng, *, loops=((0, 19), (0, 18), (1, 19)), noise=1.0, bias=0.0):
    pairs = [(k, k + 1) for k in range(COUNT - 1)] + list(loops)
    edges = []
    for i, j in pairs:
        error = noise * SIGMA * rng.normal(size=7) + (bias * SIGMA if j == i + 1 else 0)
        measured = nodes[i].inverse() @ nodes[j] @ Similarity.exp(error)
        edges.append(Edge(i, j, measured, np.diag(SIGMA**-2)))
    return edges


def misses(found, nodes):
    errors = np.array([(a.inverse() @ b).log() for a, b in zip(nodes, found, strict=True)])
    return np.linalg.norm(errors[:, :3], axis=1), np.linalg.norm(errors[:, 3:6], axis=1)


@pytest.mark.parametrize("seed", range(3))
def test_loops_take_the_drift_out_of_the_chain(seed):
    nodes = ring()
    edges = drifting(nodes, np.random.default_rng(seed), bias=1.0)
    chained, solved = chain(edges, COUNT), solve_graph(edges, COUNT)
    before, after = misses(chained, nodes), misses(solved.nodes, nodes)
    assert after[0][-1] < before[0][-1] / 3
    assert after[1][-1] < before[1][-1] / 3
    assert solved.cost < solved.chained_cost
    assert solved.nodes[0].log() == pytest.approx(np.zeros(7))


def test_exact_edges_are_met_exactly():
    nodes = ring()
    solved = solve_graph(drifting(nodes, np.random.default_rng(0), noise=0.0), COUNT)
    assert max(m.max() for m in misses(solved.nodes, nodes)) < 1e-9


def test_a_far_start_comes_home():
    nodes, rng = ring(), np.random.default_rng(1)
    edges = drifting(nodes, rng, noise=0.0)
    start = [nodes[0]] + [n @ Similarity.exp(0.3 * rng.normal(size=7)) for n in nodes[1:]]
    solved = solve_graph(edges, COUNT, initial=start)
    assert max(m.max() for m in misses(solved.nodes, nodes)) < 1e-6


def test_a_false_loop_does_little_harm():
    nodes = ring()
    edges = drifting(nodes, np.random.default_rng(2))
    good = misses(solve_graph(edges, COUNT).nodes, nodes)
    false = Edge(3, 14, Similarity.identity(), np.diag(SIGMA**-2))
    bad = misses(solve_graph([*edges, false], COUNT).nodes, nodes)
    assert bad[0].max() < good[0].max() + 0.25


def test_the_rigid_mode_keeps_every_scale():
    edges = drifting(ring(), np.random.default_rng(3))
    edges = [Edge(e.first, e.second, e.measured.rigid(), e.information) for e in edges]
    for node in solve_graph(edges, COUNT, rigid=True).nodes:
        assert node.scale == pytest.approx(1.0, abs=1e-12)


def test_one_window_needs_no_edges():
    assert solve_graph([], 1).nodes[0].log() == pytest.approx(np.zeros(7))


def test_graphs_that_cannot_be_solved_are_refused_with_the_reason():
    whole = Similarity.identity()
    with pytest.raises(InvalidRequest, match=r"windows \[2\]"):
        solve_graph([Edge(0, 1, whole, np.eye(7))], 3)
    with pytest.raises(InvalidRequest, match="there are 2"):
        solve_graph([Edge(0, 5, whole, np.eye(7))], 2)
    with pytest.raises(InvalidRequest, match="finite and symmetric"):
        solve_graph([Edge(0, 1, whole, np.full((7, 7), np.nan))], 2)
