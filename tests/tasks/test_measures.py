"""Measures agree with numbers worked out by hand, and keep the axioms of their definitions."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worldloom.tasks import measures

lengths = st.floats(0.01, 1e3)
flags = st.booleans()


def times(n, hz=10.0):
    return np.arange(n) / hz


def test_path_length_ignores_height():
    assert measures.path_length([[0, 0, 0], [3, 4, 9], [3, 4, 0]]) == pytest.approx(5.0)
    assert measures.path_length([[1, 2, 3]]) == 0.0


def test_spl_by_hand():
    assert measures.spl(True, 4.0, 5.0) == pytest.approx(0.8)
    assert measures.spl(True, 4.0, 3.0) == 1.0
    assert measures.spl(False, 4.0, 4.0) == 0.0
    assert measures.spl_to_radius(True, 4.0, 3.5, 0.5) == 1.0
    assert measures.spl_to_radius(True, 4.0, 7.0, 0.5) == pytest.approx(0.5)
    assert measures.spl_to_radius(True, 0.3, 0.0, 0.5) == 1.0


def test_soft_spl_and_progress_by_hand():
    assert measures.soft_spl(1.0, 4.0, 6.0) == pytest.approx(0.75 * 4 / 6)
    assert measures.soft_spl(5.0, 4.0, 1.0) == 0.0
    assert measures.progress(6.0, 4.0) == pytest.approx(-0.5)
    assert measures.progress(math.inf, 4.0) == -math.inf
    assert measures.soft_spl(math.inf, 4.0, 1.0) == 0.0


def test_time_scores_by_hand():
    assert measures.sct(True, 20.0, 10.0) == pytest.approx(0.5)
    assert measures.sct(True, 5.0, 10.0) == 1.0
    # BARN: OT = 10 m / 2 m/s = 5 s; the best score is one half, the worst success one eighth.
    assert measures.barn(True, 5.0, 10.0, 2.0) == pytest.approx(0.5)
    assert measures.barn(True, 20.0, 10.0, 2.0) == pytest.approx(0.25)
    assert measures.barn(True, 500.0, 10.0, 2.0) == pytest.approx(0.125)
    assert measures.barn(False, 5.0, 10.0, 2.0) == 0.0


@given(flags, lengths, lengths, lengths)
def test_every_score_stays_between_nought_and_one(success, geodesic, driven, final):
    for score in (
        measures.spl(success, geodesic, driven),
        measures.soft_spl(final, geodesic, driven),
        measures.sct(success, driven, geodesic),
        measures.spl_to_radius(success, geodesic, driven, 0.3),
        measures.barn(success, driven, geodesic, 0.5),
    ):
        assert 0.0 <= score <= 1.0


@given(lengths, lengths, st.floats(1.0, 10.0))
def test_a_longer_way_never_scores_higher(geodesic, driven, factor):
    assert measures.spl(True, geodesic, driven * factor) <= measures.spl(True, geodesic, driven)
    assert measures.soft_spl(0.0, geodesic, driven) == measures.spl(True, geodesic, driven)


def test_collisions_are_onsets_after_half_a_second_of_quiet():
    contact = np.zeros(60, bool)
    contact[10:15] = True  # 1.0 .. 1.4 s
    contact[18] = True  # 0.3 s of quiet in between: still the same collision
    contact[24] = True  # 0.5 s of quiet: a new one
    found = measures.collisions(times(60), contact)
    assert found.onsets.tolist() == [10, 24]
    assert found.ends.tolist() == [18, 24]
    assert found.count == 2
    assert found.first_s == pytest.approx(1.0)
    assert found.time_s == pytest.approx(0.7)


def test_no_contact_means_no_collision_and_constant_contact_is_one():
    none = measures.collisions(times(5), np.zeros(5, bool))
    assert none.count == 0
    assert none.first_s is None
    assert none.time_s == 0.0
    always = measures.collisions(times(50), np.ones(50, bool))
    assert always.count == 1
    assert always.time_s == pytest.approx(4.9)


@given(st.lists(flags, min_size=1, max_size=80), st.floats(0.05, 2.0))
def test_collision_events_cover_every_contact_and_are_apart(contact, quiet):
    t, contact = times(len(contact)), np.array(contact)
    found = measures.collisions(t, contact, quiet_s=quiet)
    inside = np.zeros(len(contact), bool)
    for begin, end in zip(found.onsets, found.ends, strict=True):
        inside[begin : end + 1] = True
    assert not (contact & ~inside).any()
    assert (found.onsets[1:] > found.ends[:-1]).all()
    assert contact[found.onsets].all()
    assert contact[found.ends].all()
    assert found.count <= measures.collisions(t, contact, quiet_s=quiet / 2).count


def test_smoothness_by_hand():
    t = times(31)
    speed = np.where((t > 0.95) & (t < 2.15), 0.0, 0.5)
    yaw = np.concatenate([np.linspace(3.0, 3.3, 16), np.linspace(3.3, 3.1, 15)])
    even = measures.smoothness(t, (yaw + np.pi) % (2 * np.pi) - np.pi, speed, 2.0)
    assert even.turning == pytest.approx((0.3 + 0.2) / 2.0)
    assert even.stops == 1
    assert even.acceleration == pytest.approx(2 * 5.0 / 30)
    still = measures.smoothness(t[:1], yaw[:1], speed[:1], 0.0)
    assert (still.turning, still.acceleration, still.jerk, still.stops) == (0, 0, 0, 0)


def test_standing_at_the_end_is_not_a_stop():
    t = times(40)
    assert measures.smoothness(t, np.zeros(40), np.where(t < 1, 0.5, 0.0), 0.5).stops == 0


def test_ndtw_of_a_parallel_path_by_hand():
    line = np.stack([np.arange(0, 2.01, 0.25), np.zeros(9)], 1)
    assert measures.ndtw(line, line) == 1.0
    shifted = measures.ndtw(line + np.array([0, 0.5]), line)
    assert shifted == pytest.approx(math.exp(-0.5))


@settings(max_examples=40)
@given(
    st.lists(st.tuples(st.floats(-5, 5), st.floats(-5, 5)), min_size=2, max_size=12),
    st.lists(st.tuples(st.floats(-5, 5), st.floats(-5, 5)), min_size=2, max_size=12),
)
def test_ndtw_is_one_only_for_equal_paths_and_cost_is_symmetric(a, b):
    a, b = np.array(a), np.array(b)
    assert measures.ndtw(a, a) == pytest.approx(1.0)
    assert 0.0 <= measures.ndtw(a, b) <= 1.0
    one, other = measures.resample(a, 0.25), measures.resample(b, 0.25)
    assert measures._dtw(one, other) == pytest.approx(measures._dtw(other, one))


def test_dtw_equals_a_plain_recursion():
    rng = np.random.default_rng(3)
    a, b = rng.normal(size=(7, 2)), rng.normal(size=(5, 2))
    cost = np.full((8, 6), np.inf)
    cost[0, 0] = 0
    for i in range(7):
        for j in range(5):
            least = min(cost[i, j], cost[i, j + 1], cost[i + 1, j])
            cost[i + 1, j + 1] = np.linalg.norm(a[i] - b[j]) + least
    assert measures._dtw(a, b) == pytest.approx(cost[-1, -1])


def test_resampling_keeps_ends_and_spacing():
    points = measures.resample([[0, 0], [1, 0], [1, 1.1]], 0.25)
    assert points[0].tolist() == [0, 0]
    assert points[-1].tolist() == pytest.approx([1, 1.1])
    steps = np.hypot(*np.diff(points, axis=0).T)
    assert steps[:-1].max() <= 0.25 + 1e-9
