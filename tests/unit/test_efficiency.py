"""Sample efficiency by hand: who reaches whose best, at what cost, and what is said where nobody does."""

from __future__ import annotations

import numpy as np
import pytest
from measure_fakes import curves
from report_fakes import evaluation_line

from fastslow.evaluation.curves import Curves, curves_from_lines
from fastslow.evaluation.efficiency import Bounded, sample_efficiency

RL = curves("RL", [0.0, 0.1, 0.2, 0.4, 0.3])  # best 0.4, first seen at 300 rollouts
FST = curves("FST", [0.1, 0.4, 0.5, 0.6, 0.7])  # has 0.4 at 100


def test_the_ratio_is_the_cost_of_the_best_over_the_cost_of_reaching_it():
    found = sample_efficiency(FST, RL, "rollouts")
    assert (found.target, found.other_cost, found.cost, found.ratio) == (0.4, 300, Bounded(100), Bounded(3.0))
    by_problems = sample_efficiency(FST, RL, "problems")
    assert (by_problems.other_cost, by_problems.cost, by_problems.ratio) == (37.5, Bounded(12.5), Bounded(3.0))


def test_a_share_of_the_best_is_reached_sooner_by_both():
    half = sample_efficiency(FST, RL, share=0.5)  # RL has 0.2 at 200, FST at 100
    assert (half.target, half.other_cost, half.cost, half.ratio) == (0.2, 200, Bounded(100), Bounded(2.0))
    assert sample_efficiency(FST, RL, share=0.75).other_cost == 300


def test_total_rollouts_include_the_fast_phase():
    paying = curves("FST", [0.1, 0.4, 0.5], rollouts_P=[0, 250, 350])
    assert sample_efficiency(paying, RL, "rollouts").ratio == Bounded(300 / 250)


def test_never_reached_is_a_bound_and_stays_in_the_table():
    found = sample_efficiency(RL, FST)
    assert found.cost == Bounded(400, ">") and found.cost.text() == "> 400"
    assert found.ratio == Bounded(1.0, "<")  # FST's best came at 400: RL needs more than 400
    assert found.ci95 is None and "no interval" in found.note


def test_reached_before_any_training_is_a_bound_on_the_other_side():
    found = sample_efficiency(curves("FST", [0.5, 0.6]), RL)
    assert (found.cost, found.ratio) == (Bounded(0.0), Bounded(3.0, ">"))


def test_an_arm_that_never_rose_sets_no_goal():
    found = sample_efficiency(FST, curves("RL", [0.0, 0.0, 0.0]))
    assert found.ratio is None and "never rose" in found.note


def test_the_interval_resamples_seeds():
    # FST reaches RL's 0.4 at 100 with either seed: no width, though two seeds differ elsewhere.
    steady = curves("FST", [[0.1, 0.4, 0.5], [0.0, 0.6, 0.9]])
    assert sample_efficiency(steady, RL, n=200).ci95 == (Bounded(3.0), Bounded(3.0))
    # One seed gets there at 100, the other never. Means: (0.1, 0.35, 0.35); never, at a cost of 200.
    split = curves("FST", [[0.1, 0.6, 0.6], [0.1, 0.1, 0.1]])
    found = sample_efficiency(split, RL, n=400)
    assert found.cost == Bounded(200, ">") and found.ratio == Bounded(1.5, "<")
    assert found.ci95 == (Bounded(1.5, "<"), Bounded(3.0))  # two draws of four: never; one of four: at 100
    assert found.unreached == pytest.approx(0.75, abs=0.1)  # both must be the good seed: 1/4
    assert sample_efficiency(split, RL, n=400) == found


def test_problems_are_resampled_too_and_keep_their_whole_curves():
    rng = np.random.default_rng(0)
    solved_from = rng.integers(1, 5, size=40)  # each problem is solved from some evaluation on
    values = (np.arange(5)[:, None] >= solved_from).astype(float)
    cost = np.arange(5) * 100.0
    arm = Curves("FST", tuple(range(5)), cost[None] / 8, cost[None], (values,))
    found = sample_efficiency(arm, RL, n=300)
    assert found.seeds == (1, 1) and found.ci95 is not None
    assert found.ci95[0].value <= found.ratio.value <= found.ci95[1].value
    drawn = arm.resampled(rng)
    assert all((np.diff(drawn.values[0], axis=0) >= 0).ravel())  # still curves that only rise


def test_curves_come_from_metrics_at_the_steps_that_all_seeds_share():
    def run(steps, shift):
        lines = [{"kind": "slow", "step": 1}]
        for s in steps:
            line = evaluation_line(s, 10 * s, 64 * s + shift, [0.0, 0.0], [0.0, s / 10], 0.1)
            lines.append({"kind": "evaluation", "step": s, **line})
        return lines

    found = curves_from_lines("FST", [run([0, 3, 6], 0), run([0, 6, 9], 8)])
    assert found.steps == (0, 6)
    assert found.rollouts_SP.tolist() == [[0, 444], [8, 452]] and found.problems_SP.tolist() == [[0, 48], [0, 48]]
    assert found.accuracy_SP.tolist() == [[0, 0.3], [0, 0.3]] and found.resamples_problems
    assert curves_from_lines("FST", [run([0, 6], 0)], "seed_context").accuracy_SP.tolist() == [[0, 0]]
    with pytest.raises(ValueError, match="no evaluation in common"):
        curves_from_lines("FST", [run([0, 3], 0), run([6], 0)])


def test_curves_without_problems_keep_their_means():
    lines = [{"kind": "evaluation", "step": 0, "problems": 0, "rollouts": {"fast": 0, "slow": 0},
              "accuracy": {"seed_context": 0.25, "evolved_context": None}}]  # fmt: skip
    found = curves_from_lines("RL", [lines])
    assert found.accuracy_SP.tolist() == [[0.25]] and not found.resamples_problems
