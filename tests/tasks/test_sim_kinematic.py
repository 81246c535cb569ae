"""The kinematic simulator meets floors, steps, ramps, walls and holes as its words promise."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worldloom.scene.errors import InvalidRequest
from worldloom.scene.frame import yaw_of_quat_wxyz
from worldloom.scene.mesh import TriMesh
from worldloom.tasks.sim_base import tilt_of
from worldloom.tasks.sim_collider import ColliderIndex
from worldloom.tasks.sim_kinematic import KinematicSim

ROBOT = SimpleNamespace(
    name="body", radius=0.12, height=0.25, max_step=0.02, max_slope_deg=15.0, v_max=0.5,
    w_max=2.0, a_max=1.0, alpha_max=4.0,
)  # fmt: skip


def start(x=0.0, y=0.0, z=0.0, yaw=0.0):
    return SimpleNamespace(start={"position": [x, y, z], "yaw": yaw})


@pytest.fixture(scope="module")
def floor(shapes):
    return shapes.patch((-3, -3, 0), (6, 0, 0), (0, 6, 0), 0.1)


def drive(mesh, steps, *, v=0.5, w=0.0, begin=None):
    sim = KinematicSim(mesh, ROBOT)
    states = [sim.reset(begin or start())]
    states += [sim.step(v, w) for _ in range(steps)]
    return states


def test_a_free_drive_follows_the_ramped_command(floor):
    states = drive(floor, 30)
    # 0.5 m/s after half a second at 1 m/s^2, at 40 Hz: the ramp costs v^2 / 2a less half a substep.
    expected = 3.0 * 0.5 - 0.125 + 0.5 * 0.5 / 40
    assert states[-1].pose_xyz_wxyz[0] == pytest.approx(expected, abs=1e-9)
    assert states[-1].pose_xyz_wxyz[1:3] == pytest.approx([0, 0], abs=1e-12)
    assert states[-1].t == pytest.approx(3.0)
    assert not any(s.contact for s in states)


def test_turning_left_is_positive(floor):
    state = drive(floor, 20, v=0.0, w=1.0)[-1]
    assert float(yaw_of_quat_wxyz(state.pose_xyz_wxyz[3:])) == pytest.approx(1.875 + 0.0125)
    assert state.twist[5] == pytest.approx(1.0)


def test_commands_beyond_the_limits_are_clipped(floor):
    assert drive(floor, 20, v=9.0)[-1].twist[0] == pytest.approx(ROBOT.v_max)
    assert drive(floor, 20, v=0.0, w=-9.0)[-1].twist[5] == pytest.approx(-ROBOT.w_max)


def test_a_wall_stops_the_disc_at_its_radius_and_is_one_long_contact(floor, shapes):
    wall = shapes.box((1, -2, -0.1), (1.2, 2, 1))
    states = drive(TriMesh.concat([floor, wall]), 60)
    assert states[-1].pose_xyz_wxyz[0] == pytest.approx(1 - ROBOT.radius, abs=1e-3)
    touching = [s.contact for s in states]
    assert touching[-1]
    assert touching == sorted(touching)
    assert 0 < states[-1].penetration < 0.01


def test_there_is_no_sliding_along_a_wall(floor, shapes):
    wall = shapes.box((1, -3, -0.1), (1.2, 3, 1))
    states = drive(TriMesh.concat([floor, wall]), 60, begin=start(yaw=0.7))
    after = [s.pose_xyz_wxyz[1] for s in states if s.contact]
    assert np.ptp(after[1:]) < 5e-3


def test_a_robot_that_backs_off_is_free_again(floor, shapes):
    sim = KinematicSim(TriMesh.concat([floor, shapes.box((1, -1, -0.1), (1.2, 1, 1))]), ROBOT)
    sim.reset(start(x=0.7))
    assert [sim.step(0.5, 0) for _ in range(20)][-1].contact
    assert not [sim.step(-0.5, 0) for _ in range(5)][-1].contact


@pytest.mark.parametrize(("height", "climbs"), [(0.01, True), (0.02, True), (0.025, False)])
def test_steps_up_to_the_limit_are_climbed(floor, shapes, height, climbs):
    step = shapes.box((0.6, -2, -0.1), (2.9, 2, height))
    states = drive(TriMesh.concat([floor, step]), 40)
    assert (states[-1].pose_xyz_wxyz[0] > 1.0) == climbs
    assert any(s.contact for s in states) != climbs
    if climbs:
        assert states[-1].pose_xyz_wxyz[2] == pytest.approx(height, abs=1e-6)


@pytest.mark.parametrize(("degrees", "climbs"), [(5, True), (14, True), (25, False)])
def test_ramps_up_to_the_limit_are_climbed_and_tilt_the_body(floor, degrees, climbs):
    points = floor.vertices.copy()
    points[:, 2] = np.maximum(0, points[:, 0] - 0.5) * np.tan(np.radians(degrees))
    states = drive(TriMesh(points, floor.faces), 50)
    x, _, z = states[-1].pose_xyz_wxyz[:3]
    assert (x > 1.5) == climbs
    if climbs:
        assert z == pytest.approx((x - 0.5) * np.tan(np.radians(degrees)), abs=2e-3)
        tilt = np.degrees(tilt_of(states[-1].pose_xyz_wxyz))
        assert tilt == pytest.approx(degrees, abs=0.1)


def test_the_robot_falls_off_the_end_of_the_floor(floor):
    states = drive(floor, 40, begin=start(x=2.5))
    assert states[-1].pose_xyz_wxyz[2] < -1.0
    falling = next(s for s in states if s.pose_xyz_wxyz[2] < -0.01)
    # It goes over when its centre has left the edge, not when its rim has.
    assert falling.pose_xyz_wxyz[0] == pytest.approx(3.0, abs=0.1)


def test_a_slit_narrower_than_the_footprint_is_crossed(shapes):
    left = shapes.patch((-2, -1, 0), (2.5, 0, 0), (0, 2, 0), 0.1)
    right = shapes.patch((0.55, -1, 0), (2, 0, 0), (0, 2, 0), 0.1)
    states = drive(TriMesh.concat([left, right]), 40)
    assert states[-1].pose_xyz_wxyz[0] > 1.5
    assert abs(states[-1].pose_xyz_wxyz[2]) < 1e-6


def test_a_low_table_is_an_obstacle_and_a_high_one_is_not(floor, shapes):
    for under, passes in ((0.2, False), (0.3, True)):
        table = shapes.box((0.8, -1, under), (1.4, 1, under + 0.05))
        assert (drive(TriMesh.concat([floor, table]), 50)[-1].pose_xyz_wxyz[0] > 1.5) == passes


def test_half_a_centimetre_of_noise_does_not_stop_the_robot(floor, shapes):
    states = drive(shapes.noisy(floor, 0.005), 40)
    assert states[-1].pose_xyz_wxyz[0] > 1.7
    assert not any(s.contact for s in states)


def test_reruns_are_identical_to_the_last_bit(rooms):
    runs = [drive(rooms, 40, w=0.4, begin=start(1.0, 0.6)) for _ in range(2)]
    for a, b in zip(*runs, strict=True):
        assert np.array_equal(a.pose_xyz_wxyz, b.pose_xyz_wxyz)
        assert a.contact == b.contact


def test_an_empty_or_broken_collider_is_refused(floor):
    with pytest.raises(InvalidRequest, match="0 triangles"):
        KinematicSim(TriMesh.empty(), ROBOT)
    broken = TriMesh(np.where(floor.vertices > 2.9, np.nan, floor.vertices), floor.faces)
    with pytest.raises(InvalidRequest, match="not finite"):
        KinematicSim(broken, ROBOT)


def test_a_floor_turned_over_is_a_hole(floor):
    index = ColliderIndex.build(floor)
    assert index.floor_below([[0, 0, 1.0], [0, 0, -0.1], [9, 9, 1.0]]).tolist() == [
        0.0, -np.inf, -np.inf,
    ]  # fmt: skip
    over = ColliderIndex.build(TriMesh(floor.vertices, floor.faces[:, ::-1].copy()))
    assert over.floor_below([[0, 0, 1.0]])[0] == -np.inf


@settings(max_examples=25, deadline=None)
@given(st.tuples(*[st.floats(-0.4, 0.4)] * 3), st.integers(0, 10_000))
def test_distances_match_the_slow_way(point, seed):
    rng = np.random.default_rng(seed)
    mesh = TriMesh(rng.uniform(-0.5, 0.5, (30, 3)).astype("f4"),
                   rng.permutation(30).reshape(10, 3).astype("i4"))  # fmt: skip
    found = ColliderIndex.build(mesh).distance([point], limit=2.0)[0]
    a, b = rng.random((2, 20_000))
    fold = a + b > 1
    a, b = np.where(fold, 1 - a, a)[:, None, None], np.where(fold, 1 - b, b)[:, None, None]
    c = mesh.corners()
    samples = (c[:, 0] + a * (c[:, 1] - c[:, 0]) + b * (c[:, 2] - c[:, 0])).reshape(-1, 3)
    sampled = np.linalg.norm(samples - point, axis=1).min()
    assert found <= sampled + 1e-9
    assert found >= sampled - 0.03
