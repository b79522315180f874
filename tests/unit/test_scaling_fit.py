"""The sigmoid fit: known parameters come back, intervals cover them about as often as they say, and data that can't
tell the asymptote are refused with a reason."""

from __future__ import annotations

import re

import numpy as np
import pytest
from measure_fakes import curves

from fastslow.evaluation.scaling_fit import MIN_POINTS, fit_curves, fit_scaling, sigmoid

COST = np.linspace(0, 4000, 17)
TRUE = {"R0": 0.1, "A": 0.7, "C_mid": 800.0, "B": 2.0}
NOISE = 0.02


def curve(rng=None, cost=COST, noise=NOISE) -> np.ndarray:
    clean = sigmoid(cost, *TRUE.values())
    return clean if rng is None else clean + rng.normal(0, noise, size=len(cost))


def test_the_sigmoid_by_hand():
    # At C_mid half of the gain; at 2 C_mid with B = 2: 1 / (1 + 1/4) = 4/5 of it; at 0 nothing, at infinity all.
    found = sigmoid(np.array([0, 800, 1600, 1e12]), *TRUE.values())
    assert found == pytest.approx([0.1, 0.4, 0.1 + 0.6 * 0.8, 0.7])


def test_clean_data_give_the_parameters_back():
    found = fit_scaling([COST], [curve()], n=20)
    assert found.reason == "" and found.residual < 1e-6
    assert found.values == pytest.approx(TRUE, rel=1e-3)
    assert found.asymptote == pytest.approx(0.7, abs=1e-3)


def test_the_interval_of_a_covers_the_truth_about_as_often_as_it_says():
    covered, widths, n = 0, [], 30
    for trial in range(n):
        rng = np.random.default_rng(trial)
        found = fit_scaling([COST, COST], [curve(rng), curve(rng)], seed=trial, n=80)
        assert found.values is not None, found.reason
        low, high = found.intervals["A"]
        covered += low <= TRUE["A"] <= high
        widths.append(high - low)
    assert covered >= 0.8 * n  # 95% in the long run; 30 trials of a percentile bootstrap are seldom below 80%
    assert 0.01 < np.median(widths) < 0.2  # and it isn't covered by saying nothing


def test_two_arms_are_told_apart():
    rng = np.random.default_rng(7)
    low = {**TRUE, "A": 0.4}
    worse = [sigmoid(COST, *low.values()) + rng.normal(0, NOISE, len(COST)) for _ in range(3)]
    better = [curve(rng) for _ in range(3)]
    left, right = (fit_scaling([COST] * 3, r, n=80) for r in (worse, better))
    assert left.intervals["A"][1] < right.intervals["A"][0]


@pytest.mark.parametrize(
    "cost, accuracy, reason",
    [
        (COST[: MIN_POINTS - 1], curve()[: MIN_POINTS - 1], "evaluations after the start"),
        (COST, np.full(len(COST), 0.3), "no clear rise"),
        (COST, 0.3 + np.random.default_rng(0).normal(0, 0.05, len(COST)), "no clear rise"),
        (COST, curve()[::-1], "no clear rise"),
        (COST, 0.1 + 0.5 * (COST / 4000) ** 2, "not yet bent"),
        (np.linspace(0, 500, 9), curve(np.random.default_rng(3), np.linspace(0, 500, 9), 0.01), "yet bent|identified"),
    ],
)
def test_what_cannot_tell_the_asymptote_is_refused(cost, accuracy, reason):
    found = fit_scaling([cost], [accuracy], "RL", n=60)
    assert found.values is None and found.intervals is None and found.asymptote is None
    assert re.search(reason, found.reason), found.reason


def test_an_arm_is_fitted_over_its_seeds():
    rng = np.random.default_rng(1)
    found = fit_curves(curves("FST", [curve(rng), curve(rng), curve(rng)], COST), n=40)
    assert (found.label, found.by, found.seeds, found.points) == ("FST", "rollouts", 3, 16)
    assert found.intervals["A"][0] <= 0.7 <= found.intervals["A"][1]
    again = fit_curves(curves("FST", [curve(), curve()], COST), "problems", n=20)
    assert again.values["C_mid"] == pytest.approx(100, rel=1e-2)  # 8 rollouts a problem
