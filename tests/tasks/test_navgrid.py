"""The navigation grid: what a robot of a given size can stand on, on clean and on bad colliders."""

import time
from dataclasses import replace

import numpy as np
import pytest

from worldloom.scene.errors import CorruptData, GateNotMet
from worldloom.scene.mesh import TriMesh
from worldloom.tasks.ground import climb_above_noise, fit_ground
from worldloom.tasks.navgrid import GridParams, NavGrid, build_navgrid, default_cell
from worldloom.tasks.robots import load_robot

JETBOT = load_robot("jetbot_body")
LOCOBOT = load_robot("locobot_like")


def build(mesh, robot=JETBOT, *, island=0.5, **params):
    cell = params.pop("cell", default_cell(robot))
    return build_navgrid(mesh, robot, params=GridParams(cell, island, **params))


@pytest.fixture(scope="module")
def clean(rooms):
    return build(rooms)


@pytest.mark.parametrize("name", ["jetbot_body", "locobot_like", "nova_carter"])
def test_the_navigable_area_is_that_of_the_eroded_plan(shapes, rooms, name):
    robot = load_robot(name)
    grid = build(rooms, robot)
    truth = shapes.navigable_truth(robot.radius)
    # Never more than there is; less by about half a cell along every wall.
    assert 0.93 * truth < grid.navigable_m2 <= truth


def test_the_door_joins_the_rooms_for_a_robot_that_fits_and_not_for_one_that_does_not(rooms):
    assert len(build(rooms, JETBOT).floors[0].island_areas(0.025)) == 1
    wide = replace(JETBOT, radius=0.47)
    assert len(build(rooms, wide).floors[0].island_areas(0.05)) == 2


def test_a_low_box_costs_its_outline_and_the_radius_and_no_more(shapes):
    low = (((1.2, 1.5, 0.1), (0.3, 0.25, 0.1)),)
    grid = build(shapes.two_rooms(boxes=low))
    assert grid.navigable_m2 > 0.95 * shapes.navigable_truth(JETBOT.radius, boxes=low)


# Noise also makes walls bulge, which takes real room away; a triangle-slope test keeps nothing.
@pytest.mark.parametrize(("sigma", "share"), [(0.01, 0.94), (0.02, 0.90), (0.03, 0.85)])
@pytest.mark.parametrize("robot", [JETBOT, LOCOBOT], ids=lambda r: r.name)
def test_vertex_noise_leaves_the_area(shapes, rooms, clean, robot, sigma, share):
    before = clean.navigable_m2 if robot is JETBOT else build(rooms, robot).navigable_m2
    grid = build(shapes.noisy(rooms, sigma), robot)
    assert grid.navigable_m2 >= share * before
    assert grid.floors[0].noise_m == pytest.approx(0.7 * sigma, rel=0.25)


def test_noise_hides_no_furniture(shapes, rooms):
    grid = build(shapes.noisy(rooms, 0.03))
    for centre, _ in shapes.BOXES:
        assert not grid.lookup(grid.floors[0].walkable, centre[:2], outside=False)


def plain(shapes, *parts):
    """A floor of 4 x 3 m with something on it."""
    return TriMesh.concat([shapes.patch((0, 0, 0), (4, 0, 0), (0, 3, 0), 0.08), *parts])


@pytest.mark.parametrize(("height", "passes"), [(0.015, True), (0.03, False), (0.08, False)])
def test_a_threshold_is_passed_up_to_the_robots_step(shapes, height, passes):
    sill = shapes.box((1.95, -0.1, -0.1), (2.05, 3.1, height), edge=0.05)
    grid = build(plain(shapes, sill))
    assert (len(grid.floors[0].island_areas(grid.cell)) == 1) is passes
    across = grid.lookup(grid.floors[0].walkable, [[2.0, 1.5]], outside=False)
    assert bool(across[0]) is passes


@pytest.mark.parametrize(("degrees", "passes"), [(8, True), (13, True), (18, False), (30, False)])
def test_a_ramp_is_taken_up_to_the_robots_slope(shapes, degrees, passes):
    rise = 1.0 * np.tan(np.radians(degrees))
    ramp = shapes.patch((2, 0, 0), (1, 0, rise), (0, 3, 0), 0.05)
    low = shapes.patch((0, 0, 0), (2, 0, 0), (0, 3, 0), 0.08)
    grid = build(TriMesh.concat([low, ramp]))
    middle = grid.lookup(grid.floors[0].walkable, [[2.5, 1.5]], outside=False)
    assert bool(middle[0]) is passes


def test_a_table_is_passed_under_only_by_a_robot_that_fits(shapes):
    top = shapes.box((1.5, 1.0, 0.70), (2.5, 2.0, 0.74))
    low, tall = build(plain(shapes, top)), build(plain(shapes, top), LOCOBOT)
    assert low.lookup(low.floors[0].walkable, [[2.0, 1.5]], outside=False).all()
    assert not tall.lookup(tall.floors[0].walkable, [[2.0, 1.5]], outside=False).any()
    assert len(low.floors) == 1, "a table top is no storey"


def test_a_crack_thinner_than_a_cell_is_no_hole_and_a_wider_one_is(shapes):
    def area(gap):
        near = shapes.patch((0, 0, 0), (2, 0, 0), (0, 3, 0), 0.08)
        far = shapes.patch((2 + gap, 0, 0), (2 - gap, 0, 0), (0, 3, 0), 0.08)
        return len(build(TriMesh.concat([near, far])).floors[0].island_areas(0.025))

    assert area(0.008) == 1
    assert area(0.06) == 2


def test_the_edge_of_a_drop_keeps_the_whole_footprint_on_the_floor(shapes):
    pit = shapes.patch((4, 0, -0.3), (2, 0, 0), (0, 3, 0), 0.08)
    grid = build(plain(shapes, pit))
    row = grid.lookup(grid.floors[0].walkable, [[3.81, 1.5], [3.95, 1.5]], outside=False)
    assert row.tolist() == [True, False]


def test_two_storeys_are_two_floors(shapes):
    upper = shapes.patch((0, 0, 3), (3, 0, 0), (0, 3, 0), 0.08)
    grid = build(plain(shapes, upper))
    assert sorted(round(floor.level, 3) for floor in grid.floors) == [0.0, 3.0]
    assert grid.floors[0].level == pytest.approx(0.0, abs=1e-3), "the largest comes first"


def test_small_islands_are_dropped_and_the_rest_numbered_by_size(rooms):
    wide = replace(JETBOT, radius=0.47)
    floor = build(rooms, wide).floors[0]
    areas = floor.island_areas(0.05)
    assert len(areas) == 2
    assert areas[0] >= areas[1]
    bound = (areas[0] + areas[1]) / 2
    if areas[0] > areas[1]:
        assert len(build(rooms, wide, island=bound).floors[0].island_areas(0.05)) == 1


def test_tilt_and_scale_show_in_the_area(shapes, rooms, clean):
    # Three degrees of tilt lift the far end of 6 m by 31 cm, still one surface; the report's gate
    # names the tilt. A scale error moves the area by its square.
    smaller = build(TriMesh(rooms.vertices * np.float32(0.7), rooms.faces))
    larger = build(TriMesh(rooms.vertices * np.float32(1.4), rooms.faces))
    assert smaller.navigable_m2 < 0.55 * clean.navigable_m2
    assert larger.navigable_m2 > 1.8 * clean.navigable_m2
    steep = build(shapes.turned(rooms, 16))
    assert steep.navigable_m2 < 0.1 * clean.navigable_m2


def test_a_world_without_a_floor_is_refused(shapes):
    wall = shapes.patch((0, 0, 0), (0, 0, 2), (0, 3, 0), 0.2)
    with pytest.raises(GateNotMet, match="no floor was found"):
        build(wall)


def test_a_world_of_a_wrong_scale_is_refused_before_memory_runs_out(shapes):
    huge = shapes.patch((0, 0, 0), (4000, 0, 0), (0, 4000, 0), 1000)
    with pytest.raises(GateNotMet, match="Check its scale"):
        build(huge)


def test_a_grid_is_the_same_every_time_and_survives_its_file(rooms, clean, tmp_path):
    build(rooms).save(tmp_path / "a.npz")
    clean.save(tmp_path / "b.npz")
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    loaded = NavGrid.load(tmp_path / "b.npz")
    assert loaded.params == clean.params
    assert loaded.robot == clean.robot
    for a, b in zip(loaded.floors, clean.floors, strict=True):
        assert (a.level, a.noise_m) == (b.level, b.noise_m)
        for name in ("z", "walkable", "clearance", "island", "blocked", "observed", "made_up"):
            np.testing.assert_array_equal(getattr(a, name), getattr(b, name))


def test_a_damaged_grid_file_is_named(tmp_path):
    (tmp_path / "navgrid.npz").write_bytes(b"not a grid")
    with pytest.raises(CorruptData, match=r"navgrid\.npz is no navigation grid"):
        NavGrid.load(tmp_path / "navgrid.npz")


def test_cells_and_points_are_each_others_inverse(clean):
    cells = np.array([[3, 7], [100, 40], [0, 0]])
    np.testing.assert_array_equal(clean.cell_of(clean.centre_of(cells)), cells)


def test_two_hundred_thousand_triangles_take_less_than_the_budget(shapes):
    mesh = shapes.two_rooms(edge=0.036)
    assert len(mesh.faces) > 200_000
    build(mesh)  # Compiled and cached once.
    start = time.perf_counter()
    build(mesh)
    assert time.perf_counter() - start < 2.5


def test_the_ground_plane_is_exact_on_a_slope():
    cell, rows = 0.05, np.arange(40) * 0.05
    z = (0.1 * rows[:, None] + 0.05 * rows[None, :]).astype(np.float32)
    ground = fit_ground(z, radius=0.25, cell=cell, max_step=0.03, max_slope_deg=20)
    inner = (slice(6, -6), slice(6, -6))
    np.testing.assert_allclose(ground.slope[inner], np.hypot(0.1, 0.05), atol=1e-4)
    np.testing.assert_allclose(ground.plane[inner], z[inner], atol=1e-5)
    assert not ground.edge.any()


def test_noise_never_hides_a_rise_of_ten_centimetres():
    assert climb_above_noise(0.02, 0.0) == 0.02
    assert climb_above_noise(0.02, 0.5) == 0.10
