"""Every axis is pinned here: a sign error anywhere would make mirrored or upside-down worlds."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from worldloom.scene import frame
from worldloom.scene.cameras import intrinsics, strided, unproject

unit = st.floats(-1, 1).filter(lambda x: abs(x) > 1e-3)
quats = st.tuples(unit, unit, unit, unit).map(lambda q: np.array(q) / np.linalg.norm(q))


def test_a_camera_that_looks_ahead_sees_forward_as_world_x_and_up_as_world_z():
    assert pytest.approx([1, 0, 0]) == frame.CAMERA_TO_FLU @ [0, 0, 1]  # ahead
    assert pytest.approx([0, -1, 0]) == frame.CAMERA_TO_FLU @ [1, 0, 0]  # image right = -left
    assert pytest.approx([0, 0, -1]) == frame.CAMERA_TO_FLU @ [0, 1, 0]  # image down
    assert np.linalg.det(frame.CAMERA_TO_FLU) == pytest.approx(1)


def test_usd_cameras_look_down_minus_z_with_y_up():
    assert pytest.approx([0, 0, -1]) == frame.FLIP_YZ @ [0, 0, 1]
    assert pytest.approx([0, 1, 0]) == frame.FLIP_YZ @ [0, -1, 0]


def test_habitat_is_y_up_and_looks_down_minus_z():
    assert pytest.approx([0, 0, -1]) == frame.HABITAT_FROM_WORLD @ [1, 0, 0]
    assert pytest.approx([-1, 0, 0]) == frame.HABITAT_FROM_WORLD @ [0, 1, 0]
    assert pytest.approx([0, 1, 0]) == frame.HABITAT_FROM_WORLD @ [0, 0, 1]


def test_a_positive_yaw_turns_left():
    turned = frame.matrix_from_quat_wxyz(frame.yaw_quat_wxyz(np.pi / 2)) @ [1, 0, 0]
    assert turned == pytest.approx([0, 1, 0], abs=1e-12)
    assert frame.yaw_of_quat_wxyz(frame.yaw_quat_wxyz(0.3)) == pytest.approx(0.3)


def test_a_level_camera_gets_the_plain_axes():
    assert frame.level_from_up([0, -1, 0]) == pytest.approx(frame.CAMERA_TO_FLU)


def test_a_camera_pitched_down_sees_the_floor_ahead_below_its_centre():
    pitch = np.radians(15)
    up = [0, -np.cos(pitch), -np.sin(pitch)]  # looking down: up leans towards the viewer
    rotation = frame.level_from_up(up)
    view = rotation @ [0, 0, 1]
    assert view == pytest.approx([np.cos(pitch), 0, -np.sin(pitch)])
    assert rotation @ np.array(up) == pytest.approx([0, 0, 1])
    assert np.linalg.det(rotation) == pytest.approx(1)


@pytest.mark.parametrize("up", [[0, 0, 1], [0, 0, -1], [1e-4, 0, 1]])
def test_a_camera_that_looks_straight_up_or_down_still_gets_a_rotation(up):
    assert frame.rotation_error(frame.level_from_up(up)) < 1e-9


def test_look_at_puts_the_target_ahead_and_keeps_up_up():
    c2w = frame.look_at([0, 0, 1], [2, 0, 1])
    assert c2w[:3, :3] == pytest.approx(frame.CAMERA_TO_FLU)
    assert c2w[:3, 3] == pytest.approx([0, 0, 1])


@given(quats)
def test_quaternions_and_matrices_round_trip(q):
    back = frame.quat_wxyz_from_matrix(frame.matrix_from_quat_wxyz(q))
    assert min(np.abs(back - q).max(), np.abs(back + q).max()) < 1e-9
    assert back[0] >= 0


@given(quats, quats)
def test_multiplying_quaternions_multiplies_their_matrices(a, b):
    product = frame.matrix_from_quat_wxyz(frame.quat_multiply_wxyz(a, b))
    expected = frame.matrix_from_quat_wxyz(a) @ frame.matrix_from_quat_wxyz(b)
    assert product == pytest.approx(expected, abs=1e-9)


def test_half_turns_survive_the_round_trip():
    for axis in np.eye(3):
        matrix = frame.rotation_about(axis, np.pi)
        again = frame.matrix_from_quat_wxyz(frame.quat_wxyz_from_matrix(matrix))
        assert again == pytest.approx(matrix, abs=1e-9)


def test_slerp_takes_the_short_way_at_constant_speed():
    start, end = frame.yaw_quat_wxyz(0.0), -frame.yaw_quat_wxyz(1.0)
    yaw = frame.yaw_of_quat_wxyz(frame.slerp_wxyz(start, end, np.linspace(0, 1, 5)))
    assert yaw == pytest.approx([0, 0.25, 0.5, 0.75, 1.0])


def test_inverting_a_rigid_transform_undoes_it():
    transform = frame.look_at([1, 2, 3], [0, -1, 0.5])
    assert frame.invert_rigid(transform) @ transform == pytest.approx(np.eye(4))


def test_a_mirror_is_no_rotation():
    assert np.isinf(frame.rotation_error(np.diag([1.0, 1.0, -1.0])))
    assert frame.rotation_error(np.eye(3)) == 0


def test_every_third_pixel_looks_where_it_did():
    K, depth = intrinsics(70.0, 20, 13), np.random.default_rng(0).uniform(1, 4, (13, 20))
    c2w = frame.rigid(np.eye(3), [0.3, -1.0, 2.0])
    few = unproject(depth[::3, ::3], strided(K, 3), c2w)
    assert few == pytest.approx(unproject(depth, K, c2w)[::3, ::3])
    assert strided(np.stack([K, K]), 3)[1] == pytest.approx(strided(K, 3))
    assert pytest.approx(intrinsics(70.0, 20, 13)) == K, "the given matrix is left alone"
