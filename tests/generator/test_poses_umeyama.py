"""Similarities: the group, its algebra, and the fits to cameras and points."""

import numpy as np
import pytest
from scipy.linalg import expm

from worldloom.generator.poses import umeyama
from worldloom.generator.poses.similarity import (
    Similarity,
    adjoint,
    cross_matrix,
    exp_sim3,
    inverse_right_jacobian,
    invert_sim3,
    log_sim3,
    rotation_from_vector,
)
from worldloom.scene.errors import InvalidRequest
from worldloom.scene.frame import rigid, rotation_error


@pytest.fixture
def rng():
    return np.random.default_rng(7)


@pytest.fixture
def truth():
    return Similarity.exp([1.0, 2.0, -3.0, 0.5, -1.0, 0.7, 0.4])


def some_cameras(rng, n=20):
    turn = rotation_from_vector(0.5 * rng.normal(size=(n, 3)))
    return rigid(turn, rng.normal(size=(n, 3)))


def distance(first, second):
    return np.abs((first.inverse() @ second).log()).max()


def test_exponential_and_logarithm_agree_with_the_matrix_exponential(rng):
    for size in 10.0 ** np.linspace(-9, 0.3, 60):
        x = size * rng.normal(size=7)
        x[3:6] *= min(1.0, 3.1 / np.linalg.norm(x[3:6]))
        generator = np.zeros((4, 4))
        generator[:3, :3] = cross_matrix(x[3:6]) + x[6] * np.eye(3)
        generator[:3, 3] = x[:3]
        matrix = exp_sim3(x)
        np.testing.assert_allclose(matrix, expm(generator), atol=1e-9 * np.abs(matrix).max())
        np.testing.assert_allclose(log_sim3(matrix), x, atol=1e-8 * max(size, 1e-6))


def test_the_algebra_holds_for_batches(rng):
    x, d = 0.4 * rng.normal(size=(30, 7)), 1e-6 * rng.normal(size=(30, 7))
    m = exp_sim3(x)
    np.testing.assert_allclose(invert_sim3(m) @ m, np.broadcast_to(np.eye(4), m.shape), atol=1e-12)
    moved = np.einsum("nij,nj->ni", adjoint(m), d)
    np.testing.assert_allclose(m @ exp_sim3(d), exp_sim3(moved) @ m, atol=1e-11)
    first = x + np.einsum("nij,nj->ni", inverse_right_jacobian(x), d)
    np.testing.assert_allclose(log_sim3(m @ exp_sim3(d)), first, atol=1e-10)


def test_a_similarity_moves_points_cameras_and_depth_alike(rng, truth):
    cameras = some_cameras(rng)
    local = rng.normal(size=3)
    moved = truth.apply_cameras(cameras)
    assert rotation_error(moved[:, :3, :3]).max() < 1e-12
    world = cameras[:, :3, :3] @ local + cameras[:, :3, 3]
    again = moved[:, :3, :3] @ truth.apply_depth(local) + moved[:, :3, 3]
    np.testing.assert_allclose(truth.apply(world), again, atol=1e-12)
    np.testing.assert_allclose((truth @ truth.inverse()).matrix, np.eye(4), atol=1e-12)
    np.testing.assert_allclose(Similarity.from_matrix(truth.matrix).log(), truth.log(), atol=1e-12)


def test_a_matrix_that_is_no_similarity_is_refused():
    for bad in (np.diag([1.0, 2.0, 1.0, 1.0]), np.diag([1.0, 1.0, -1.0, 1.0]), np.eye(4) * np.nan):
        with pytest.raises(InvalidRequest, match="no similarity"):
            Similarity.from_matrix(bad)


def test_every_fit_returns_the_similarity_that_was_put_in(rng, truth):
    cameras, points = some_cameras(rng), rng.normal(size=(2000, 3))
    moved = truth.apply_cameras(cameras)
    for found in (
        umeyama.fit_similarity(cameras, moved),
        umeyama.fit_centres(cameras, moved),
        umeyama.fit_points(points, truth.apply(points)),
        umeyama.fit_points_robust(points, truth.apply(points)),
        umeyama.fit_joint(cameras, moved, points, truth.apply(points)),
    ):
        assert distance(found, truth) < 1e-12


def test_a_straight_path_needs_the_axes_of_its_cameras(rng, truth):
    cameras = some_cameras(rng)
    cameras[:, :3, 3] = np.arange(20)[:, None] * [1.0, 0.0, 0.0]
    moved = truth.apply_cameras(cameras)
    assert distance(umeyama.fit_similarity(cameras, moved), truth) < 1e-12
    centres = umeyama.fit_centres(cameras, moved)
    assert np.isfinite(centres.matrix).all()
    np.testing.assert_allclose(centres.apply(cameras[:, :3, 3]), moved[:, :3, 3], atol=1e-3)
    assert distance(centres, truth) > 0.1


def test_noisy_axes_do_not_bend_the_scale(rng, truth):
    cameras = some_cameras(rng, 40)
    moved = truth.apply_cameras(cameras)
    moved[:, :3, :3] = moved[:, :3, :3] @ rotation_from_vector(0.1 * rng.normal(size=(40, 3)))
    assert abs(umeyama.fit_similarity(cameras, moved).scale / truth.scale - 1) < 0.01


def test_a_camera_that_only_turns_keeps_scale_one(rng, truth):
    cameras = some_cameras(rng)
    cameras[:, :3, 3] = (1.0, 2.0, 3.0)
    moved = truth.apply_cameras(cameras)
    found = umeyama.fit_similarity(cameras, moved)
    assert found.scale == 1.0
    np.testing.assert_allclose(found.R, truth.R, atol=1e-12)
    np.testing.assert_allclose(found.apply(cameras[0, :3, 3]), moved[0, :3, 3], atol=1e-12)
    assert umeyama.fit_centres(cameras, moved).scale > 0


def test_one_camera_is_enough_with_its_axes(rng, truth):
    cameras = some_cameras(rng, 1)
    found = umeyama.fit_similarity(cameras, truth.apply_cameras(cameras))
    np.testing.assert_allclose(found.R, truth.R, atol=1e-12)


def test_outliers_are_held_off_by_the_robust_fits(rng, truth):
    cameras, points = some_cameras(rng), rng.normal(size=(5000, 3))
    moved = truth.apply(points)
    moved[::5] += rng.normal(size=(1000, 3))
    plain = distance(umeyama.fit_points(points, moved), truth)
    robust = umeyama.fit_points_robust(points, moved, delta=0.01, rounds=10)
    assert distance(robust, truth) < 0.1 * plain
    joint = umeyama.fit_joint(cameras, truth.apply_cameras(cameras), points, moved)
    assert distance(joint, truth) < 1e-9


def test_points_that_are_not_finite_do_not_count(rng, truth):
    points = rng.normal(size=(50, 3))
    moved = truth.apply(points)
    points[3], moved[7] = np.nan, np.inf
    assert distance(umeyama.fit_points(points, moved), truth) < 1e-12
    weights = umeyama.depth_weights([np.nan, 0.0, 1.0, 2.0, np.inf])
    np.testing.assert_allclose(weights, [0, 0, 4 / 3, 2 / 3, 0], rtol=0.02)


def test_a_few_points_leave_the_joint_fit_to_the_cameras(rng, truth):
    cameras, points = some_cameras(rng), rng.normal(size=(10, 3))
    found = umeyama.fit_joint(cameras, truth.apply_cameras(cameras), points, points)
    assert distance(found, truth) < 1e-12


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (np.zeros((2, 3)), "2 of 2 pairs"),
        (np.full((9, 3), np.nan), "0 of 9 pairs"),
        (np.arange(9.0)[:, None] * [1.0, 0.0, 0.0], "on a line"),
        (np.zeros((9, 2)), r"\[n 3\]"),
    ],
)
def test_points_that_tell_nothing_are_refused_with_the_reason(source, words):
    with pytest.raises(InvalidRequest, match=words):
        umeyama.fit_points(source, source)


def test_camera_lists_that_do_not_fit_are_refused(rng):
    cameras = some_cameras(rng, 4)
    with pytest.raises(InvalidRequest, match="of one n"):
        umeyama.fit_similarity(cameras, cameras[:3])
    with pytest.raises(InvalidRequest, match="0 of 4 cameras"):
        umeyama.fit_similarity(cameras * np.nan, cameras)
