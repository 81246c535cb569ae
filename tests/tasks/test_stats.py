"""Intervals match published values, and the same seed gives the same interval."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from worldloom.tasks import stats


def test_wilson_matches_the_values_of_the_specification():
    hundred = stats.wilson(90, 100)
    assert (round(hundred.low, 3), round(hundred.high, 3)) == (0.826, 0.945)
    thousand = stats.wilson(900, 1000)
    assert (round(thousand.low, 3), round(thousand.high, 3)) == (0.880, 0.917)


@given(st.integers(0, 200), st.integers(0, 200))
def test_wilson_contains_the_rate_and_stays_in_range(k, extra):
    found = stats.wilson(k, k + extra)
    if k + extra == 0:
        assert math.isnan(found.mean)
    else:
        assert 0 <= found.low <= found.mean <= found.high <= 1


def test_certainty_is_never_claimed():
    assert stats.wilson(20, 20).low < 0.9
    assert stats.wilson(0, 20).high > 0.1


def test_bootstrap_is_seeded_and_near_the_normal_interval():
    values = np.random.default_rng(1).normal(3.0, 1.0, 400)
    first, second = stats.bootstrap(values, seed=4), stats.bootstrap(values, seed=4)
    assert first == second
    assert first != stats.bootstrap(values, seed=5)
    half = 1.96 * values.std() / math.sqrt(400)
    assert first.low == pytest.approx(values.mean() - half, abs=0.02)
    assert first.high == pytest.approx(values.mean() + half, abs=0.02)


def test_worlds_are_drawn_first_when_there_are_several():
    # Two worlds that differ, and no spread inside: only drawing worlds shows the uncertainty.
    values = np.r_[np.zeros(50), np.ones(50)]
    alone = stats.bootstrap(values)
    grouped = stats.bootstrap(values, groups=["a"] * 50 + ["b"] * 50)
    assert grouped.low == 0.0
    assert grouped.high == 1.0
    assert alone.low > 0.3
    assert stats.bootstrap(values, groups=["a"] * 100) == alone


def test_missing_values_are_left_out_of_the_mean():
    assert stats.bootstrap([1.0, math.nan, 3.0]).n == 2
    assert stats.bootstrap([1.0, math.nan, 3.0]).mean == 2.0
    assert stats.bootstrap([]).n == 0


def test_mcnemar_by_hand():
    assert stats.mcnemar(0, 0) == 1.0
    assert stats.mcnemar(5, 5) == 1.0
    # 0 against 6: 2 / 2^6
    assert stats.mcnemar(0, 6) == pytest.approx(2 / 64)
    assert stats.mcnemar(6, 0) == stats.mcnemar(0, 6)


def test_comparison_is_paired():
    a = [True, True, False, False, True]
    b = [True, False, True, True, True]
    found = stats.compare_success(a, b)
    assert (found.only_a, found.only_b, found.n) == (1, 2, 5)
    assert found.success_difference.mean == pytest.approx(0.2)
    same = stats.compare_success(a, a)
    assert same.p_value == 1.0
    assert same.success_difference.low == 0.0
