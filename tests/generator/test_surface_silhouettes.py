"""Where a surface ends in the picture, and where two surfaces only meet."""

import numpy as np

from worldloom.generator.surface.silhouettes import front_edges

ROWS, COLUMNS = 40, 60


def plane(normal: tuple[float, float, float], distance: float) -> np.ndarray:
    """z-depth of a plane n . X = distance for a camera of 50 px focal length."""
    v, u = np.mgrid[:ROWS, :COLUMNS]
    rays = np.stack([(u + 0.5 - 30) / 50, (v + 0.5 - 20) / 50, np.ones((ROWS, COLUMNS))], -1)
    return (distance / (rays @ np.array(normal))).astype(np.float32)


def test_a_crease_between_walls_is_no_silhouette() -> None:
    walls = np.minimum(plane((0.6, 0, 0.8), 2.0), plane((-0.8, 0, 0.6), 1.5))
    assert not front_edges(walls).any()


def test_a_box_before_a_wall_ends_at_its_border_on_the_near_side_alone() -> None:
    depth = plane((0, 0, 1), 4.0)
    depth[10:25, 20:40] = 2.0
    edges = front_edges(depth)
    expected = np.zeros_like(edges)
    expected[10:25, 20:40] = True
    expected[11:24, 21:39] = False
    assert (edges == expected).all()


def test_a_surface_ends_at_the_sky() -> None:
    depth = plane((0, 0, 1), 3.0)
    depth[:12] = 0
    edges = front_edges(depth)
    assert edges[12].all()
    assert edges.sum() == COLUMNS


def test_nothing_has_no_ends() -> None:
    assert not front_edges(np.zeros((4, 5), np.float32)).any()
