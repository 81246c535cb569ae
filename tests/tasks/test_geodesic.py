"""Distances along the floor: accurate, never through a corner, with paths one can drive."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from worldloom.scene.errors import InvalidRequest
from worldloom.tasks.geodesic import DistanceField, FloorGraph, _crossed
from worldloom.tasks.navgrid import GridParams, build_navgrid
from worldloom.tasks.robots import load_robot
from worldloom.tasks.sightlines import line_is_free

REFINE = 4


@pytest.fixture(scope="module")
def grid(rooms):
    return build_navgrid(rooms, load_robot("locobot_like"), params=GridParams(0.05, 0.5))


@pytest.fixture(scope="module")
def graph(grid):
    return FloorGraph(grid, 0)


def length(path):
    return float(np.linalg.norm(np.diff(path, axis=0), axis=1).sum())


def refined(grid):
    """The same walkable set on cells of a quarter the size."""
    floor = grid.floors[0]
    block = np.ones((REFINE, REFINE), int)
    fields = {
        name: np.kron(getattr(floor, name), block).astype(getattr(floor, name).dtype)
        for name in ("z", "walkable", "clearance", "island", "blocked", "observed", "made_up")
    }
    return replace(grid, cell=grid.cell / REFINE, floors=(replace(floor, **fields),))


def test_distances_are_within_two_percent_of_the_shortest_path(grid, graph):
    # The truth is the string-pulled path on a grid four times finer over the same set.
    fine = FloorGraph(refined(grid), 0)
    cells = graph.cells
    rng = np.random.default_rng(4)
    errors = []
    for goal in grid.centre_of(cells[rng.integers(len(cells), size=4)]):
        coarse, exact = DistanceField(graph, goal), DistanceField(fine, goal + 1e-4)
        for start in grid.centre_of(cells[rng.integers(len(cells), size=12)]):
            start = start + rng.uniform(-0.02, 0.02, 2)
            truth = length(exact.path(start))
            if truth > 1.0:
                errors.append(float(coarse.distance(start)) / truth - 1)
    assert len(errors) > 30
    assert max(errors) <= 0.02
    # The finer path is itself up to half a percent longer than the true one.
    assert min(errors) >= -0.008
    assert np.mean(errors) <= 0.003


def test_the_way_to_the_other_room_goes_through_the_door(grid, graph, shapes):
    x, _, y0, y1, _ = shapes.DOOR
    start, goal = np.array([2.0, 1.0]), np.array([4.0, 1.0])
    path = DistanceField(graph, goal).path(start)
    radius = grid.robot["radius"]
    # By hand: tangents to the discs of the robot's radius about the two corners of the door's
    # jamb, the arcs, and the way between them.
    to_corner = np.array([x - 0.1, y0]) - start
    away = np.linalg.norm(to_corner)
    turn = np.arctan2(to_corner[1], to_corner[0]) + np.arcsin(radius / away)
    shortest = 2 * (np.sqrt(away**2 - radius**2) + radius * turn) + 0.2
    # The grid keeps up to a cell more away from the jamb.
    assert shortest <= length(path) <= 1.04 * shortest
    through = np.interp(x, path[:, 0], path[:, 1])
    assert y0 + radius - 0.01 <= through <= y1 - radius


def test_paths_stay_on_walkable_cells(grid, graph):
    rng = np.random.default_rng(2)
    walkable = grid.floors[0].walkable
    for goal in grid.centre_of(graph.cells[rng.integers(len(graph.cells), size=3)]):
        field = DistanceField(graph, goal)
        for start in grid.centre_of(graph.cells[rng.integers(len(graph.cells), size=10)]):
            path = field.path(start)
            for a, b in pairwise(path):
                along = a + np.linspace(0, 1, 400)[:, None] * (b - a)
                assert grid.lookup(walkable, along, outside=False).all()
            np.testing.assert_allclose(path[[0, -1]], [start, goal])
            assert length(path) <= float(field.distance(start)) + 1e-9, "pulling never lengthens"


def test_a_pulled_path_has_few_corners(graph):
    path = DistanceField(graph, [4.0, 1.0]).path([2.0, 1.0])
    assert 3 <= len(path) <= 8


def test_no_step_cuts_a_corner():
    walkable = np.ones((5, 5), bool)
    walkable[2, 2] = False
    assert not line_is_free(walkable, (1, 2), (2, 3)), "past the corner of a closed cell"
    assert not line_is_free(walkable, (0, 0), (4, 4))
    assert not line_is_free(walkable, (0, 1), (4, 3))
    assert line_is_free(walkable, (0, 0), (4, 1))
    assert line_is_free(walkable, (1, 1), (1, 3))


def test_sight_needs_every_cell_that_the_segment_touches():
    rng = np.random.default_rng(3)
    for _ in range(300):
        walkable = rng.random((9, 9)) > 0.1
        (r0, c0), (r1, c1) = rng.integers(0, 9, (2, 2)).tolist()
        touched = _crossed(r1 - r0, c1 - c0)
        free = all(walkable[r0 + r, c0 + c] for r, c in touched)
        assert line_is_free(walkable, (r0, c0), (r1, c1)) is free


def test_a_wall_one_cell_thick_is_never_passed(grid):
    floor = grid.floors[0]
    walkable = np.ones((30, 30), bool)
    walkable[15, :] = False
    np.fill_diagonal(walkable, False)
    whole = np.zeros_like(walkable)
    split = replace(
        floor, walkable=walkable, z=np.zeros(walkable.shape, np.float32),
        clearance=np.ones(walkable.shape, np.float32), island=walkable.astype(np.int32) - 1,
        blocked=whole, observed=~whole, made_up=whole,
    )  # fmt: skip
    graph = FloorGraph(replace(grid, floors=(split,)), 0)
    field = DistanceField(graph, graph.grid.centre_of([3, 20]))
    assert np.isinf(field.values[20:, :]).all(), "a row is a wall"
    assert np.isinf(field.values[10, 2]), "a diagonal is a wall"
    assert np.isfinite(field.values[3, 25])


def test_distances_between_cells_change_smoothly_and_end_at_zero(graph):
    goal = np.array([2.0, 3.0])
    field = DistanceField(graph, goal)
    along = np.stack([np.linspace(0.6, 2.0, 200), np.full(200, 3.0)], 1)
    values = field.distance(along)
    np.testing.assert_allclose(values, 2.0 - along[:, 0], atol=0.012)
    assert np.abs(np.diff(values)).max() < 0.03
    assert values[-1] == 0.0


def test_a_point_off_the_floor_is_infinitely_far_and_has_no_path(graph):
    field = DistanceField(graph, [2.0, 3.0])
    assert np.isinf(field.distance([100.0, 3.0]))
    with pytest.raises(InvalidRequest, match="not on walkable floor"):
        field.path([100.0, 3.0])
    with pytest.raises(InvalidRequest, match="not on walkable floor"):
        DistanceField(graph, [100.0, 3.0])


def test_a_robot_that_leans_on_a_wall_is_still_on_its_way(grid, graph, shapes):
    x, half, y0, _, _ = shapes.DOOR
    field = DistanceField(graph, [2.0, 3.0])
    beside = np.array([[x - half - 0.08, 2.0], [0.05, 3.0]])
    assert not grid.lookup(grid.floors[0].walkable, beside, outside=False).any()
    straight = np.linalg.norm(beside - [2.0, 3.0], axis=1)
    np.testing.assert_allclose(field.distance(beside), straight, rtol=0.1)
    behind = np.array([x + half + 0.08, 2.0])
    # The wall is thinner than SNAP_M: the other side must not leak through it.
    assert field.distance(behind) > 2 * (y0 - 2.0)
    assert np.isinf(field.distance([-0.5, 3.0]))


def test_the_way_of_cells_ends_at_the_goal_without_a_jump(grid, graph):
    way = DistanceField(graph, [4.0, 1.0], weighted=True).way([2.0, 1.0])
    steps = np.linalg.norm(np.diff(way, axis=0), axis=1)
    assert steps.max() < 4.5 * grid.cell
    np.testing.assert_allclose(way[[0, -1]], [[2.0, 1.0], [4.0, 1.0]])


def test_the_oracles_path_keeps_away_from_walls(grid, graph):
    start, goal = [2.0, 1.0], [4.0, 1.0]
    tight = DistanceField(graph, goal).path(start)
    wide = DistanceField(graph, goal, weighted=True).path(start)

    def room(path):
        at = np.linspace(0, 1, 200)[1:-1, None]
        points = np.concatenate([a + at * (b - a) for a, b in pairwise(path)])
        return float(np.mean(grid.lookup(grid.floors[0].clearance, points, outside=0.0)))

    assert room(wide) > room(tight)
    assert length(wide) < 1.25 * length(tight)
