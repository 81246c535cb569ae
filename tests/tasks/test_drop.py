"""The drop test holds on a sound floor, and finds the hole and the floor turned over."""

import importlib.util
from types import SimpleNamespace

import numpy as np
import pytest

if importlib.util.find_spec("ovphysx") is None:
    pytest.skip("ovphysx is not installed", allow_module_level=True)
pytest.importorskip("pxr")

from worldloom.generator.layers.collider_layer import write_collider_layer
from worldloom.scene.errors import GateNotMet
from worldloom.scene.mesh import TriMesh
from worldloom.tasks.drop import DIAMETER_M, SHARE_MIN, drop_points, drop_test
from worldloom.tasks.navgrid import GridParams, build_navgrid
from worldloom.tasks.robots import load_robot


@pytest.fixture
def dropped(tmp_path):
    def run(mesh, count, *, grid_of=None):
        file = tmp_path / "tile.usdc"
        write_collider_layer(mesh, file)
        robot = load_robot("jetbot_body")
        grid = build_navgrid(grid_of or mesh, robot, params=GridParams(0.025, 0.5))
        world = SimpleNamespace(collider=mesh, tiles=(file,))
        return drop_test(world, grid, count=count), grid

    return run


def test_spheres_come_to_rest_on_a_noisy_floor(dropped, rooms, shapes):
    result, _ = dropped(shapes.noisy(rooms, 0.004), 60)
    assert result.count == 60
    assert result.share >= SHARE_MIN
    assert result.below == 0
    assert result.gap.max() < 0.005


def test_a_hole_and_a_floor_turned_over_let_spheres_through(dropped, rooms):
    centre = rooms.corners().mean(1)
    floor = np.abs(centre[:, 2]) < 1e-3
    hole = floor & (np.abs(centre[:, 0] - 1.5) < 0.4) & (np.abs(centre[:, 1] - 3.5) < 0.4)
    result, _ = dropped(rooms.select_faces(~hole), 60, grid_of=rooms)
    assert 0 < result.below < 20
    faces = rooms.faces.copy()
    faces[floor] = faces[floor][:, ::-1]
    result, _ = dropped(TriMesh(rooms.vertices, faces), 30, grid_of=rooms)
    assert result.below == 30
    assert result.share == 0.0


def test_points_are_spread_over_the_observed_floor_and_off_its_rim(rooms):
    grid = build_navgrid(rooms, load_robot("jetbot_body"), params=GridParams(0.025, 0.5))
    points = drop_points(grid, 100)
    assert points.shape == (100, 3)
    assert len(np.unique(points[:, :2], axis=0)) == 100
    clearance = grid.lookup(grid.floors[0].clearance, points[:, :2], outside=0)
    assert clearance.min() >= DIAMETER_M / 2
    nearest = np.linalg.norm(points[:, None, :2] - points[None, :, :2], axis=-1)
    np.fill_diagonal(nearest, np.inf)
    assert nearest.min() > 2 * DIAMETER_M
    with pytest.raises(GateNotMet, match="too few"):
        drop_points(grid, 10**6)
