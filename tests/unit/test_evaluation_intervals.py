"""Locks: intervals of hand-derived width, none of zero width at 0 or 1, and seeds that count as seeds."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fastslow.evaluation import intervals
from fastslow.evaluation.intervals import bootstrap_ci, hierarchical_ci, wilson_ci

Z = 1.959963984540054  # the 97.5% quantile of the normal distribution
MONTE_CARLO = 0.02  # three times the scatter of a 2000-fold bootstrap quantile, on the widths below


def test_wilson_by_hand():
    # No success in n: 0 to z² / (n + z²).
    assert wilson_ci(0, 10) == (0.0, pytest.approx(Z**2 / (10 + Z**2)))
    assert wilson_ci(10, 10) == (pytest.approx(10 / (10 + Z**2)), 1.0)
    # Half of n: 1/2 ± z / (2 sqrt(n + z²)).
    half = Z / (2 * math.sqrt(20 + Z**2))
    assert wilson_ci(10, 20) == pytest.approx((0.5 - half, 0.5 + half))
    # 81 of 263, from R. G. Newcombe, Statistics in Medicine 17 (1998), table I: 0.2553 to 0.3662.
    assert wilson_ci(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    narrower = wilson_ci(3, 10, level=0.5)
    assert wilson_ci(3, 10)[0] < narrower[0] < 0.3 < narrower[1] < wilson_ci(3, 10)[1]
    for bad in ((1, 0), (-1, 3), (4, 3)):
        with pytest.raises(ValueError):
            wilson_ci(*bad)


def test_bootstrap_has_the_width_of_the_binomial_it_draws_from():
    # The mean of 100 draws from 30 ones and 70 zeros: standard error sqrt(.3 * .7 / 100) = 0.0458.
    low, high = bootstrap_ci([1] * 30 + [0] * 70)
    assert low == pytest.approx(0.3 - Z * math.sqrt(0.21 / 100), abs=MONTE_CARLO)
    assert high == pytest.approx(0.3 + Z * math.sqrt(0.21 / 100), abs=MONTE_CARLO)
    # Two values, 0 and 1: a resample's mean is 0, 1/2 or 1 with 1/4, 1/2, 1/4.
    assert bootstrap_ci([0, 1]) == (0.0, 1.0)
    assert bootstrap_ci([0, 1], level=0.4) == (0.5, 0.5)


def test_constant_values():
    assert bootstrap_ci([0] * 10) == wilson_ci(0, 10)
    assert bootstrap_ci([1.0] * 7) == wilson_ci(7, 7)
    assert bootstrap_ci([0.25] * 4) == (0.25, 0.25)
    assert bootstrap_ci([0.0]) == wilson_ci(0, 1)


def test_the_seed_alone_decides_and_chunks_do_not(monkeypatch):
    values = list(np.random.default_rng(1).random(50))
    assert bootstrap_ci(values, seed=3) == bootstrap_ci(values, seed=3)
    assert bootstrap_ci(values, seed=3) != bootstrap_ci(values, seed=4)
    whole = bootstrap_ci(values, seed=3), hierarchical_ci([values, values[:20]], seed=3)
    monkeypatch.setattr(intervals, "_CHUNK", 700)
    assert (bootstrap_ci(values, seed=3), hierarchical_ci([values, values[:20]], seed=3)) == whole


def test_no_values_or_nan_is_an_error():
    for bad in ([], [0.5, float("nan")], [[0.1]]):
        with pytest.raises(ValueError, match="finite numbers"):
            bootstrap_ci(bad)
    with pytest.raises(ValueError, match="no seeds"):
        hierarchical_ci([])
    with pytest.raises(ValueError, match="between 0 and 1"):
        bootstrap_ci([0.1, 0.2], level=95)


def test_one_seed_is_the_plain_bootstrap():
    values = [0, 1, 1, 0, 1]
    assert hierarchical_ci([values], seed=2) == bootstrap_ci(values, seed=2)


def test_seeds_are_resampled_too():
    # Two seeds that disagree wholly: only the choice of seeds varies, (0, 0), (0, 1) twice, (1, 1).
    assert hierarchical_ci([[1] * 50, [0] * 50]) == (0.0, 1.0)
    assert hierarchical_ci([[1] * 50, [0] * 50], level=0.4) == (0.5, 0.5)
    # Two seeds alike, 30 of 100 each: the mean of two independent means, se sqrt(.21 / 100 / 2) = 0.0324.
    low, high = hierarchical_ci([[1] * 30 + [0] * 70] * 2)
    assert low == pytest.approx(0.3 - Z * math.sqrt(0.21 / 200), abs=MONTE_CARLO)
    assert high == pytest.approx(0.3 + Z * math.sqrt(0.21 / 200), abs=MONTE_CARLO)


def test_seeds_of_unequal_size_weigh_the_same():
    low, high = hierarchical_ci([[0.2] * 5, [0.2] * 500])
    assert (low, high) == pytest.approx((0.2, 0.2))
    assert hierarchical_ci([[1.0], [0.0] * 99], level=0.4) == (0.5, 0.5)


def test_all_zero_over_seeds_is_wilson_over_the_problems_of_one():
    assert hierarchical_ci([[0] * 30, [0] * 20, [0] * 25]) == wilson_ci(0, 20)
