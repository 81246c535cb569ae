"""Metrics of cameras and depth: exact worlds have no error, known errors are found."""

import numpy as np
import pytest

from worldloom.generator.evaluate import depth_agreement, reprojection, revisit
from worldloom.generator.evaluate.controllability import camera_score, controllability, fit_scale
from worldloom.generator.evaluate.correspond import DepthView, land, sample_depth
from worldloom.scene.cameras import Cameras, intrinsics
from worldloom.scene.errors import InvalidCameraPath, InvalidRequest
from worldloom.scene.frame import rigid, rotation_about

K = intrinsics(60.0, 80, 60)


def wall(x=0.0, *, turn_deg=0.0, factor=1.0, distance=4.0):
    """A camera that sees a wall across z = `distance`, with its depth times `factor`."""
    turn = rotation_about([0, 1, 0], np.radians(turn_deg))
    c2w = rigid(turn, [x, 0, 0])
    rows, columns = np.mgrid[:60, :80] + 0.5
    rays = np.stack([(columns - K[0, 2]) / K[0, 0], (rows - K[1, 2]) / K[1, 1],
                     np.ones_like(rows)], -1) @ turn.T  # fmt: skip
    return DepthView((factor * distance / rays[..., 2]).astype(np.float32), K, c2w)


def walk(n=12):
    """A bent walk, [n 4 4]."""
    return np.stack([
        rigid(rotation_about([0, 1, 0], 0.05 * i), [0.3 * i, 0.02 * i * i, 0.1 * i])
        for i in range(n)
    ])  # fmt: skip


def test_a_found_path_in_another_world_and_unit_is_followed_perfectly():
    commanded = walk()
    home = rigid(rotation_about([1, 2, 3], 0.7), [5, -2, 1])
    found = commanded.copy()
    found[:, :3, 3] /= 2.5
    score = camera_score(commanded, home @ found)
    assert score.score == pytest.approx(100, abs=1e-4)
    assert score.scale == pytest.approx(2.5)
    assert score.rotation_deg == pytest.approx(0, abs=1e-5)


def test_the_scale_is_the_median_like_fit_that_one_outlier_does_not_move():
    found = np.eye(3)[[0, 0, 0, 0]] * np.arange(1, 5)[:, None]
    wanted = 2 * found
    wanted[3] = [0, 3, 0]
    assert fit_scale(wanted, found) == pytest.approx(2.0, abs=1e-6)
    brute = np.linspace(-1, 4, 50_001)
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 9, 3))
    cost = np.linalg.norm(a[None] - brute[:, None, None] * b, axis=-1).sum(-1)
    assert fit_scale(a, b) == pytest.approx(brute[cost.argmin()], abs=2e-4)
    assert fit_scale(a, np.zeros_like(a)) == 1.0


def test_controllability_follows_its_formula():
    assert controllability(0, 0) == 100
    assert controllability(15, 0) == 0
    assert controllability(0, 0.5) == 0
    assert controllability(99, 99) == 0
    assert controllability(7.5, 0.25) == pytest.approx(50)
    commanded = walk()
    turned = commanded.copy()
    turned[1:, :3, :3] = turned[1:, :3, :3] @ rotation_about([0, 1, 0], np.radians(3.0))
    score = camera_score(commanded, turned)
    assert score.rotation_deg == pytest.approx(3 * 11 / 12)
    assert score.translation == pytest.approx(0, abs=1e-6)


def test_paths_that_cannot_be_compared_are_refused():
    with pytest.raises(InvalidRequest, match="12 cameras were commanded and 5 found"):
        camera_score(walk(), walk(5))
    with pytest.raises(InvalidRequest, match="at least 2"):
        camera_score(walk(1), walk(1))
    broken = walk()
    broken[4, 0, 0] = np.nan
    with pytest.raises(InvalidCameraPath, match="pose 4"):
        camera_score(walk(), broken)


def test_exact_views_of_a_wall_agree_to_the_last_digit():
    views = [wall(0), wall(0.4, turn_deg=5), wall(0.8, turn_deg=-4)]
    assert reprojection.exact(views, views).mean_px == pytest.approx(0, abs=1e-4)
    assert reprojection.round_trip(views).mean_px == pytest.approx(0, abs=1e-3)
    agreement = depth_agreement.between_neighbours(views)
    assert agreement.median == pytest.approx(0, abs=1e-6)
    assert agreement.within_5_percent == 1
    assert agreement.pairs == 4


def test_depth_that_is_three_percent_deeper_is_found_so():
    views = [wall(0), wall(0.2, factor=1.03)]
    median = depth_agreement.between_neighbours(views).median
    assert median == pytest.approx(0.03, abs=2e-3)


def test_a_known_turn_moves_pixels_by_the_focal_length_times_its_angle():
    truth = [wall(0), wall(0.2)]
    turn = rotation_about([0, 1, 0], np.radians(0.5))
    off = DepthView(truth[1].depth, K, rigid(turn, truth[1].c2w[:3, 3]))
    found = reprojection.exact([truth[0], off], truth)
    wanted = K[0, 0] * np.radians(0.5)
    assert found.median_px == pytest.approx(wanted, rel=0.2)
    doubled = reprojection.exact([truth[0], off], truth, pixel=2)
    assert doubled.median_px == pytest.approx(2 * wanted, rel=0.2)


def test_points_behind_what_a_view_sees_do_not_count_and_points_before_it_do():
    near = DepthView(np.full((60, 80), 2.0, np.float32), K, np.eye(4))
    far = DepthView(np.full((60, 80), 4.0, np.float32), K, np.eye(4))
    assert land(far, near).z.size == 0
    assert land(near, far).z.size == 60 * 80


def test_depth_is_not_sampled_in_gaps_across_edges_or_outside():
    depth = np.full((4, 4), 2.0)
    depth[:, 2:] = 4.0
    depth[0, 0] = 0.0
    at = np.array([[1.2, 2.5], [2.0, 2.5], [0.9, 0.9], [-1.0, 2.0], [4.0, 2.0], [3.5, 3.5]])
    assert sample_depth(depth, at).tolist() == [2.0, 0.0, 0.0, 0.0, 0.0, 4.0]


def test_views_that_share_nothing_are_told_apart_from_perfect_ones():
    back = [wall(0), DepthView(wall(0).depth, K, rigid(rotation_about([0, 1, 0], np.pi), [0] * 3))]
    with pytest.raises(InvalidRequest, match="share no point"):
        reprojection.round_trip(back)
    with pytest.raises(InvalidRequest, match="share no point"):
        depth_agreement.between_neighbours(back)
    with pytest.raises(InvalidRequest, match="0 pairs"):
        reprojection.round_trip(back[:1])
    empty = DepthView(np.zeros((60, 80), np.float32), K, np.eye(4))
    with pytest.raises(InvalidRequest, match="share no point"):
        depth_agreement.between_neighbours([empty, empty])


def test_depth_between_visits_needs_a_return():
    views = [wall(0), wall(3), wall(0.1)]
    found = depth_agreement.between_visits(views, [0, 40, 80], apart=40)
    assert found.pairs == 1
    with pytest.raises(InvalidRequest, match="the path returns to no place"):
        depth_agreement.between_visits(views[:2], [0, 40], apart=40)


def cameras_of(poses):
    n = len(poses)
    return Cameras(np.stack(poses), np.tile(K, (n, 1, 1)), np.tile([80, 60], (n, 1)), np.arange(n))


def test_returns_are_found_and_small_turns_are_undone():
    turn = rotation_about([0, 1, 0], np.radians(2.0))
    poses = [rigid(np.eye(3), [0.1 * i, 0, 0]) for i in range(50)]
    cameras = cameras_of([*poses, rigid(turn, [0.0, 0, 0])])
    visits = revisit.find_visits(cameras, 4.0)
    assert [(v.first, v.again) for v in visits] == [(0, 50)]
    assert visits[0].turn_deg == pytest.approx(2.0)
    rows, columns = np.mgrid[:60, :80] + 0.5

    def picture(number):
        """A smooth pattern painted on infinity, as this frame sees it."""
        rays = np.stack([(columns - K[0, 2]) / K[0, 0], (rows - K[1, 2]) / K[1, 1],
                         np.ones_like(rows)], -1) @ cameras.c2w[number, :3, :3].T  # fmt: skip
        angle = np.arctan2(rays[..., 0], rays[..., 2])
        return np.repeat((0.5 + 0.4 * np.sin(25 * angle))[..., None], 3, -1)

    level, distance, count = revisit.compare_visits(visits, cameras, picture)
    assert (distance, count) == (None, 1)
    assert level > 40
    still = revisit.compare_visits(
        visits, cameras, picture, lambda a, b: float(np.abs(a - b).max())
    )
    assert still[1] < 0.05


def test_a_path_that_goes_on_has_no_returns():
    poses = [rigid(np.eye(3), [0.1 * i, 0, 0]) for i in range(90)]
    assert revisit.find_visits(cameras_of(poses), 4.0) == []
