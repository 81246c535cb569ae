"""PhysX in its child process: the same floors and walls, resets to the bit, honest failures."""

import importlib.util
from types import SimpleNamespace

import numpy as np
import pytest

if importlib.util.find_spec("ovphysx") is None:
    pytest.skip("ovphysx is not installed", allow_module_level=True)
pytest.importorskip("pxr")

from worldloom.generator.layers.collider_layer import write_collider_layer
from worldloom.scene.errors import EngineFailed, InvalidRequest
from worldloom.scene.mesh import TriMesh
from worldloom.tasks.sim_base import tilt_of
from worldloom.tasks.sim_kinematic import KinematicSim
from worldloom.tasks.sim_physx import PhysxSim

ROBOT = SimpleNamespace(
    name="body", radius=0.12, height=0.25, max_step=0.02, max_slope_deg=15.0, v_max=0.5,
    w_max=2.0, a_max=1.0, alpha_max=4.0,
)  # fmt: skip


def start(x=0.0, y=0.0, z=0.0, yaw=0.0):
    return SimpleNamespace(start={"position": [x, y, z], "yaw": yaw})


@pytest.fixture(scope="module")
def course(shapes):
    """Noisy floor, a wall ahead, and lanes with a low step, a high step and a ramp."""
    floor = shapes.noisy(shapes.patch((-1, -1, 0), (4, 0, 0), (0, 2, 0), 0.1), 0.002)
    smooth = shapes.patch((-1, 1, 0), (4, 0, 0), (0, 5, 0), 0.25)
    ramp = shapes.patch((0.5, 4.6, -0.02), (1.5, 0, 0.26), (0, 0.8, 0), 0.1)
    parts = [
        floor, smooth, ramp,
        shapes.box((1, -1, -0.1), (1.2, 1, 1)),
        shapes.box((0.5, 1.6, -0.1), (2, 2.4, 0.015)),
        shapes.box((0.5, 3.1, -0.1), (2, 3.9, 0.03)),
    ]  # fmt: skip
    return TriMesh.concat(parts)


@pytest.fixture(scope="module")
def tile(course, tmp_path_factory):
    file = tmp_path_factory.mktemp("tile") / "tile.usdc"
    write_collider_layer(course, file)
    return file


@pytest.fixture(scope="module")
def sim(tile):
    simulator = PhysxSim([tile], ROBOT)
    yield simulator
    simulator.close()


def drive(sim, steps, *, v=0.5, w=0.0, begin=None):
    return [sim.reset(begin or start()), *[sim.step(v, w) for _ in range(steps)]]


def test_it_stands_still_on_a_noisy_floor(sim):
    states = drive(sim, 20, v=0.0)
    moved = states[-1].pose_xyz_wxyz[:3] - states[0].pose_xyz_wxyz[:3]
    assert np.abs(moved).max() < 2e-3
    assert not any(s.contact for s in states)
    assert abs(states[-1].pose_xyz_wxyz[2]) < 0.006


def test_it_agrees_with_the_kinematic_simulator_until_the_wall_and_at_it(sim, course):
    kinematic = KinematicSim(course, ROBOT)
    ours, theirs = drive(sim, 40), drive(kinematic, 40)
    for a, b in zip(ours, theirs, strict=True):
        assert np.abs(a.pose_xyz_wxyz[:2] - b.pose_xyz_wxyz[:2]).max() < 0.015
    assert abs(sum(s.contact for s in ours) - sum(s.contact for s in theirs)) <= 1
    assert ours[-1].contact
    assert ours[-1].impulse > 0
    assert ours[-1].pose_xyz_wxyz[0] == pytest.approx(1 - ROBOT.radius, abs=2e-3)


def test_resets_repeat_to_the_last_bit(sim):
    runs = [drive(sim, 15, w=0.5) for _ in range(3)]
    for other in runs[1:]:
        for a, b in zip(runs[0], other, strict=True):
            assert np.array_equal(a.pose_xyz_wxyz, b.pose_xyz_wxyz)
            assert a.contact == b.contact


def test_a_low_step_and_a_ramp_are_climbed_without_contact_and_a_high_step_is_not(sim):
    low = drive(sim, 30, begin=start(y=2.0))
    assert low[-1].pose_xyz_wxyz[2] == pytest.approx(0.015, abs=2e-3)
    ramp = drive(sim, 35, begin=start(y=5.0))
    assert ramp[-1].pose_xyz_wxyz[2] > 0.1
    assert np.degrees(tilt_of(ramp[-1].pose_xyz_wxyz)) == pytest.approx(9.8, abs=1.0)
    assert not any(s.contact for s in low + ramp)
    high = drive(sim, 30, begin=start(y=3.5))
    assert high[-1].pose_xyz_wxyz[0] < 0.5
    assert high[-1].contact


def test_turning_on_the_spot_stays_on_the_spot(sim):
    state = drive(sim, 20, v=0.0, w=1.0)[-1]
    assert np.abs(state.pose_xyz_wxyz[:2]).max() < 5e-3
    assert state.twist[5] == pytest.approx(1.0, abs=0.1)


def test_the_robot_falls_off_the_floor(sim):
    states = drive(sim, 25, v=-0.5, begin=start(x=-0.5))
    assert states[-1].pose_xyz_wxyz[2] < -1.0


def test_a_start_without_floor_is_named(sim):
    with pytest.raises(EngineFailed, match="no floor under the start"):
        sim.reset(start(x=50.0))
    assert np.isfinite(sim.reset(start()).pose_xyz_wxyz).all()


def test_a_child_that_dies_is_an_error_and_not_a_hang(tile):
    simulator = PhysxSim([tile], ROBOT)
    simulator.reset(start())
    simulator._process._process.kill()
    simulator._process._process.wait()
    with pytest.raises(EngineFailed, match="ended"):
        simulator.step(0.1, 0.0)
    with pytest.raises(EngineFailed, match="closed"):
        simulator.step(0.1, 0.0)
    simulator.close()


def test_a_world_without_collider_is_refused():
    with pytest.raises(InvalidRequest, match="no collision layers"):
        PhysxSim([], ROBOT)


def test_this_process_never_loads_physx(sim):
    import sys

    assert "ovphysx" not in sys.modules
