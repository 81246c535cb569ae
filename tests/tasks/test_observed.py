"""What the generation cameras saw: by depth, at grazing angles, and in the photo or made up."""

import numpy as np
import pytest

from worldloom.scene.mesh import TriMesh
from worldloom.tasks.navgrid import GridParams, build_navgrid
from worldloom.tasks.observed import Observer
from worldloom.tasks.robots import load_robot
from worldloom.tasks.world import Keyframes


def observer(shapes, mesh, *views):
    return Observer(Keyframes(**shapes.keyframes_of(mesh, views)))


@pytest.fixture(scope="module")
def hall(shapes):
    """A long floor with a wall across, which has nothing behind it but floor."""
    floor = shapes.patch((0, -2, 0), (8, 0, 0), (0, 4, 0), 0.2)
    return TriMesh.concat([floor, shapes.box((4, -2, 0), (4.1, 2, 2.5), edge=0.3)])


def test_floor_before_the_camera_is_seen_and_floor_behind_a_wall_is_not(shapes, hall):
    look = observer(shapes, hall, shapes.View((0.1, 0, 1.2), (4, 0, 0)))
    observed, seen = look.look(np.array([[2.0, 0, 0], [3.5, 0, 0], [5, 0, 0], [-1, 0, 0]]))
    assert observed.tolist() == [True, True, False, False]
    assert seen.tolist() == observed.tolist()


def test_another_surface_at_the_same_pixel_does_not_count(shapes, hall):
    look = observer(shapes, hall, shapes.View((0.1, 0, 1.2), (4, 0, 0)))
    observed, _ = look.look(np.array([[2.0, 0, 0.3], [2.0, 0, -0.3]]))
    assert not observed.any()


@pytest.mark.parametrize("height", [0.3, 1.2])
def test_a_floor_seen_at_a_grazing_angle_has_no_stripes(shapes, hall, height):
    look = observer(shapes, hall, shapes.View((0.1, 0, height), (4, 0, height - 0.2)))
    x, y = np.meshgrid(np.arange(1.7, 3.8, 0.025), np.arange(-0.5, 0.5, 0.025))
    points = np.stack([x, y, np.zeros_like(x)], -1).reshape(-1, 3)
    assert look.look(points)[0].mean() > 0.99


def test_what_the_engine_made_up_is_observed_but_not_seen(shapes, hall):
    photo = shapes.View((0.1, 0, 1.2), (4, 0, 0))
    made = shapes.View((7.9, 0, 1.2), (4, 0, 0), seen=False)
    observed, seen = observer(shapes, hall, photo, made).look(
        np.array([[2.0, 0, 0], [6.0, 0, 0]])
    )
    assert observed.tolist() == [True, True]
    assert seen.tolist() == [True, False]


def test_unseen_floor_is_a_wall_unless_the_boundary_is_open(shapes, hall):
    look = observer(shapes, hall, shapes.View((0.1, 0, 1.2), (4, 0, 0)))
    robot = load_robot("jetbot_body")

    def area(boundary):
        params = GridParams(0.025, 0.5, boundary)
        return build_navgrid(hall, robot, params=params, observer=look).navigable_m2

    walled, opened = area("wall"), area("open")
    assert opened > 8 * 4 * 0.85
    assert 5 < walled < 4 * 4


def test_spots_that_noise_hides_do_not_riddle_the_floor(shapes, rooms):
    robot = load_robot("locobot_like")

    def area(mesh):
        look = Observer(Keyframes(**shapes.keyframes_of(mesh)))
        return build_navgrid(mesh, robot, params=GridParams(0.025, 0.5), observer=look).navigable_m2

    assert area(shapes.noisy(rooms, 0.015)) > 0.9 * area(rooms)
