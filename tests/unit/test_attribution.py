"""Attribution by hand: four cells, paired effects, the law of total variance inside groups, rescued groups."""

from __future__ import annotations

import numpy as np
import pytest

from fastslow.evaluation.attribution import CELLS, attribute, measure_cells
from fastslow.evaluation.intervals import wilson_ci
from fastslow.evaluation.variance import group_variance, groups_from_rows, is_flat, is_rescued, variance_report
from fastslow.slow.learner import rescued_by_contexts
from fastslow.types import Group, Rollout


def cells(base_seed, trained_seed, base_evolved, trained_evolved):
    rows = (base_seed, trained_seed, base_evolved, trained_evolved)
    return {cell: {str(i): v for i, v in enumerate(row)} for cell, row in zip(CELLS, rows, strict=True)}


def test_the_effects_by_hand():
    # HoVer-hard as the paper gives it: 2.0 base, 11.6 weights alone, 10.6 context alone, 21.2 both.
    found = attribute([cells([0.02] * 3, [0.116] * 3, [0.106] * 3, [0.212] * 3)])
    means = {name: e.mean for name, e in found.effects.items()}
    assert means == pytest.approx(
        {
            "weights alone": 0.096,
            "context alone": 0.086,
            "both": 0.192,
            "weights effect": (0.096 + 0.106) / 2,
            "context effect": (0.086 + 0.096) / 2,
            "interaction": 0.212 - 0.116 - 0.106 + 0.02,
        }
    )
    assert found.effects["weights effect"].mean + found.effects["context effect"].mean == pytest.approx(0.192)
    assert found.cells["trained", "evolved"].mean == pytest.approx(0.212)
    assert (found.problems, found.seeds) == (3, 1)


def test_pairing_by_problem_takes_the_problems_difficulty_out_of_the_interval():
    # Every problem gains exactly 0.1 from training, however hard it is: the effect is certain, the cells are not.
    hard = np.linspace(0, 0.8, 9)
    found = attribute([cells(hard, hard + 0.1, hard, hard + 0.1)])
    low, high = found.effects["weights effect"].ci95
    assert low == pytest.approx(0.1) and high == pytest.approx(0.1)
    low, high = found.cells["base", "seed"].ci95
    assert high - low > 0.2


def test_no_change_in_a_few_problems_is_no_proof_of_none():
    found = attribute([cells(*[[0.0] * 8] * 4)])
    upper = wilson_ci(0, 8)[1]
    assert found.effects["both"].ci95 == (-upper, upper)
    certain = attribute([cells([0.0] * 8, [1.0] * 8, [1.0] * 8, [0.0] * 8)])
    assert certain.effects["weights alone"].ci95 == wilson_ci(8, 8)
    assert certain.effects["interaction"].mean == -2  # in no cell's range, so a plain constant
    down = attribute([cells([1.0] * 8, [0.0] * 8, [1.0] * 8, [0.0] * 8)])
    assert down.effects["weights alone"].ci95 == tuple(-x for x in reversed(wilson_ci(8, 8)))


def test_seeds_widen_the_interval():
    one, other = cells([0.0] * 20, [0.9] * 20, [0.0] * 20, [0.9] * 20), cells(*[[0.0, 0.1] * 10] * 4)
    low, high = attribute([one, other]).effects["weights alone"].ci95
    assert low < 0.1 and high > 0.8
    assert attribute([one, other]) == attribute([one, other])


def test_cells_of_different_problems_are_refused():
    wrong = {**cells([0], [0], [0], [0]), CELLS[3]: {"other": 0.0}}
    with pytest.raises(ValueError, match="same problems"):
        attribute([wrong])
    with pytest.raises(ValueError, match="no runs"):
        attribute([])


def test_each_cell_is_evaluated_once_and_weights_change_once():
    asked = []

    def evaluate(weights, context):
        asked.append((weights, context))
        return {"p": len(asked)}

    found = measure_cells(evaluate)
    assert sorted(asked) == sorted(CELLS) and [w for w, _ in asked] == ["base", "base", "trained", "trained"]
    assert all(found[cell] == {"p": asked.index(cell) + 1} for cell in CELLS)


def test_the_law_of_total_variance_by_hand():
    # a: 1, 1, 0 (mean 2/3), b: 0 (mean 0); all: mean 1/2, variance 1/4.
    # Between: 3/4 (2/3 - 1/2)^2 + 1/4 (1/2)^2 = 1/48 + 3/48 = 1/12. Within: 3/4 * 2/9 = 1/6. Sum 1/4.
    found = group_variance({"a": [1, 1, 0], "b": [0]})
    assert (found.between, found.within, found.total) == pytest.approx((1 / 12, 1 / 6, 1 / 4))
    only_between = group_variance({"a": [1, 1], "b": [0, 0]})
    assert (only_between.between, only_between.within) == (0.25, 0)
    only_within = group_variance({"a": [1, 0], "b": [1, 0], "empty": []})
    assert (only_within.between, only_within.within) == (0, 0.25)


def test_the_parts_always_add_up():
    rng = np.random.default_rng(0)
    for _ in range(50):
        group = {str(c): rng.normal(size=rng.integers(1, 6)).tolist() for c in range(rng.integers(1, 5))}
        rewards = [r for values in group.values() for r in values]
        assert group_variance(group).total == pytest.approx(np.var(rewards))


GROUPS = {
    "flat": {"a": [1, 1], "b": [1, 1]},
    "rescued": {"a": [1, 1], "b": [0, 0]},
    "alive by itself": {"a": [1, 0], "b": [0, 0]},
    "one context": {"a": [1, 0, 0, 0]},
}


def test_rescued_groups_are_those_that_the_learner_counts():
    for name, group in GROUPS.items():
        rollouts = tuple(
            Rollout("p", context, 0, "slow", 0, (1,), 0, (2,), (-1.0,), "", "stop", float(r))
            for context, rewards in group.items()
            for r in rewards
        )
        assert is_rescued(group) == rescued_by_contexts(Group("p", rollouts)) == (name == "rescued")
        assert is_flat(group) == Group("p", rollouts).is_flat == (name == "flat")


def test_the_report_over_groups_by_hand():
    found = variance_report([list(GROUPS.values())])
    # Totals: 0, 1/4, 3/16, 3/16. Between: 0, 1/4, 1/16, 0.
    assert found.total == pytest.approx((1 / 4 + 3 / 8) / 4) and found.between == pytest.approx(5 / 16 / 4)
    assert found.within == pytest.approx(found.total - found.between)
    assert found.between_share == pytest.approx((5 / 16) / (5 / 8))
    assert found.between_share_ci95[0] <= 0.5 <= found.between_share_ci95[1]
    assert (found.groups, found.flat, found.rescued, found.rescued_share) == (4, 1, 1, 0.25)
    dead = variance_report([[GROUPS["flat"]] * 3])
    assert dead.between_share is None and dead.flat_share == 1
    with pytest.raises(ValueError, match="no groups"):
        variance_report([[]])


def test_groups_come_from_a_ledgers_rows():
    rows = [
        {"step": step, "problem_id": p, "context_id": c, "reward": r}
        for step, p, c, r in [(0, "x", "a", 1), (0, "x", "b", 0), (0, "y", "a", 0), (3, "x", "a", 0), (0, "x", "a", 0)]
    ]
    assert groups_from_rows(rows) == [{"a": [1, 0], "b": [0]}, {"a": [0]}, {"a": [0]}]
