"""Retention, plasticity and collapse by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from measure_fakes import curves
from tiny_models import save_tiny, tiny_policy

from fastslow.evaluation.collapse import check_collapse
from fastslow.evaluation.curves import Curves
from fastslow.evaluation.drift import Drift, drift_ci
from fastslow.evaluation.intervals import difference_ci, ratio_ci, wilson_ci
from fastslow.evaluation.likelihood import answer_loglik, mean_loglik, text_loglik
from fastslow.evaluation.passages import PASSAGES
from fastslow.evaluation.plasticity import areas, compare_plasticity
from fastslow.evaluation.retention import SUITE, SUITE_TASKS, TEXT, compare_snapshots, suite_for
from fastslow.policy.tree import TokenSequence
from fastslow.tasks.presets import SMALL
from fastslow.types import Context, Problem


def snapshot(accuracy, loglik, text):
    by_id = {(name, m): dict(enumerate(v)) for m, d in (("accuracy", accuracy), ("log-likelihood", loglik))
             for name, v in d.items()}  # fmt: skip
    return {**by_id, (TEXT, "log-likelihood"): dict(enumerate(text))}


BEFORE = snapshot({"gcd": [1, 0, 0, 1], "sort": [0] * 4}, {"gcd": [-1.0] * 4, "sort": [-2.0] * 4}, [-3.0, -3.0])
AFTER = snapshot({"gcd": [0, 0, 0, 1], "sort": [0] * 4}, {"gcd": [-1.5] * 4, "sort": [-2.0] * 4}, [-3.0, -3.2])


def test_retention_is_after_minus_before_paired_by_problem():
    found = {(r.task, r.measure): r for r in compare_snapshots([BEFORE], [AFTER])}
    gcd = found["gcd", "accuracy"]
    assert (gcd.before, gcd.after, gcd.difference.mean, gcd.n, gcd.seeds) == (0.5, 0.25, -0.25, 4, 1)
    assert gcd.difference.ci95[0] <= -0.25 <= gcd.difference.ci95[1]
    upper = wilson_ci(0, 4)[1]
    assert found["sort", "accuracy"].difference.ci95 == (-upper, upper)  # no change in four problems proves little
    assert found["gcd", "log-likelihood"].difference.ci95 == (-0.5, -0.5)
    assert found["gcd", "log-likelihood"].forgotten and not found["sort", "log-likelihood"].forgotten
    assert found[TEXT, "log-likelihood"].difference.mean == pytest.approx(-0.1)
    everything = found["all tasks", "accuracy"]
    assert (everything.before, everything.after, everything.n) == (0.25, 0.125, 8)


def test_retention_over_seeds():
    found = compare_snapshots([BEFORE, BEFORE], [AFTER, BEFORE])
    assert found[0].difference.mean == pytest.approx(-0.125) and found[0].seeds == 2
    with pytest.raises(ValueError, match="as many snapshots"):
        compare_snapshots([BEFORE], [])
    other = {k: {**v, 99: 0.0} for k, v in AFTER.items()}
    with pytest.raises(ValueError, match="same problems"):
        compare_snapshots([BEFORE], [other])


def test_the_suite_is_of_small_presets_that_were_never_trained():
    assert set(SUITE) <= set(SMALL)
    for trained in (*SUITE, "chain_sum"):
        chosen = suite_for([trained])
        assert len(chosen) == SUITE_TASKS and trained not in chosen


def test_the_passages_are_fixed_plain_english():
    import hashlib

    assert len(PASSAGES) == len(set(PASSAGES)) == 30
    assert all(p.isascii() and "\n" not in p and p[-1] == "." and 40 < len(p) < 200 for p in PASSAGES)
    assert hashlib.sha256("\n".join(PASSAGES).encode()).hexdigest()[:12] == "3606f53d7859"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("likelihood"))


def by_hand(policy, sequence: TokenSequence) -> float:
    """The mean log-probability in double precision, by the plain forward."""
    ids = torch.tensor([[*sequence.prompt_ids, *sequence.completion_ids]])
    with torch.inference_mode():
        logits = policy.causal_lm(input_ids=ids, use_cache=False).logits[0, len(sequence.prompt_ids) - 1 : -1]
    table = torch.log_softmax(logits.double(), -1)
    return float(table[torch.arange(len(table)), torch.tensor(sequence.completion_ids)].mean())


def test_the_likelihood_of_text_by_hand(folder):
    policy = tiny_policy(folder)
    found = text_loglik(policy, ["Say the word alone.", "ABC 0123"])
    for text, value in found.items():
        first, *rest = policy.tokenizer(text)["input_ids"]
        assert value == pytest.approx(by_hand(policy, TokenSequence((first,), 0, tuple(rest))), abs=1e-4)
    assert all(v < 0 for v in found.values())


def test_the_likelihood_of_gold_answers_by_hand(folder, monkeypatch):
    policy, context = tiny_policy(folder), Context({"instructions": "", "examples": ""})
    problems = [Problem("a", "What is two?", "five"), Problem("b", "And three?", None), Problem("c", "Why?", " 12 ")]
    found = answer_loglik(policy, problems, context)
    assert list(found) == ["a", "c"]  # no answer, no likelihood
    prompt, shared = policy.renderer.render(context, problems[0])
    answer = tuple(policy.tokenizer(" five")["input_ids"])
    assert found["a"] == pytest.approx(by_hand(policy, TokenSequence(prompt, shared, answer)), abs=1e-4)
    assert found["c"] == pytest.approx(answer_loglik(policy, [Problem("c", "Why?", "12")], context)["c"], abs=1e-6)
    monkeypatch.setattr("fastslow.evaluation.likelihood._SEQUENCES", 1)  # in pieces
    assert answer_loglik(policy, problems, context) == pytest.approx(found, abs=1e-5)
    assert mean_loglik(policy, []) == []


def test_drift_by_problem_weighs_tokens():
    drift = Drift({"a": (3.0, 10), "b": (1.0, 30)})
    assert (drift.mean, drift.tokens) == (4.0 / 40, 40)
    low, high = drift_ci([drift, drift])
    assert low == pytest.approx(1 / 30) and high == pytest.approx(0.3)  # all draws b, all draws a
    with pytest.raises(ValueError, match="positive denominators"):
        ratio_ci([([1.0], [0.0])])


def test_differences_by_hand():
    assert difference_ci([[-0.2, -0.2]], proportions=False) == (-0.2, -0.2)
    low, high = difference_ci([[0.0, 1.0, -1.0, 0.0] * 10])
    assert low < 0 < high and low == pytest.approx(-high, abs=0.1)
    with pytest.raises(ValueError, match="no seeds"):
        difference_ci([])


def test_the_area_is_the_mean_accuracy_over_the_budget():
    # Trapezoids over unequal steps: 0 to 100 at mean 0.25, 100 to 400 at mean 0.75; over 400: 0.625.
    found = curves("x", [0.0, 0.5, 1.0], rollouts_P=[0, 100, 400], problems=2)
    assert [a.tolist() for a in areas(found, "rollouts")] == [[0.625, 0.625]]
    assert [a.tolist() for a in areas(found, "problems")] == [[0.625, 0.625]]


def test_plasticity_is_relative_to_a_start_from_base_with_the_same_seed():
    base = curves("base", [[0.0, 0.4, 0.8], [0.0, 0.2, 0.6]], problems=4)
    rl = curves("RL", [[0.0, 0.0, 0.1], [0.0, 0.0, 0.1]], problems=4)
    fst = curves("FST", [[0.0, 0.4, 0.8], [0.0, 0.2, 0.6]], problems=4)
    found = {p.label: p for p in compare_plasticity({"base": base, "RL": rl, "FST": fst})}
    assert found["base"].final_minus_base is None and found["base"].final.mean == pytest.approx(0.7)
    assert found["RL"].final_minus_base.mean == pytest.approx(-0.6)
    assert found["RL"].area_minus_base.mean == pytest.approx((0.025 - 0.4 + 0.025 - 0.25) / 2)
    assert found["RL"].final_minus_base.ci95[1] < 0
    upper = wilson_ci(0, 4)[1]
    assert found["FST"].final_minus_base.ci95 == (-upper, upper)  # paired by seed: no difference at all
    assert (found["FST"].seeds, found["FST"].problems) == (2, 4)


def test_probes_with_other_budgets_are_not_compared():
    base, short = curves("base", [0.0, 0.4, 0.8]), curves("RL", [0.0, 0.4])
    with pytest.raises(ValueError, match="not the same evaluations"):
        compare_plasticity({"base": base, "RL": short})
    with pytest.raises(ValueError, match="needs the start 'base'"):
        compare_plasticity({"RL": base})
    with pytest.raises(ValueError, match="shape"):
        Curves("x", (0, 1), np.zeros((1, 2)), np.zeros((1, 3)), (np.zeros((2, 1)),))


def run_lines(majority, entropies, constant=None):
    lines = [{"kind": "slow", "step": i, **({} if e is None else {"entropy": e})} for i, e in enumerate(entropies)]
    return [*lines, {"kind": "evaluation", "step": 9, "majority_answer_share": majority,
                     "constant_answer_share": constant}]  # fmt: skip


@pytest.mark.parametrize(
    "majority, constant, entropies, collapsed, said",
    [
        (0.9, 0.1, [1.0, 0.5, 0.05, 0.04, 0.03], True, "collapsed: one reply is 90% of all"),
        (0.9, 0.1, [1.0, 1.1, 1.0, 0.9], False, "watch"),
        (0.9, 0.85, [1.0, 0.01, 0.01, 0.01], False, "none seen"),  # the task's answers are mostly the same
        (0.15, 0.1, [1.0, 0.01, 0.01, 0.01], False, "none seen"),  # a deterministic task, learnt
        (0.9, None, [1.0, 0.01, 0.01, 0.01], False, "unknown"),
        (0.9, 0.1, [None, None], False, "watch"),  # no gradient ever, so no entropy
    ],
)
def test_a_collapse_takes_two_signs(majority, constant, entropies, collapsed, said):
    found = check_collapse(run_lines(majority, entropies, constant))
    assert found.collapsed is collapsed and said in found.text
    assert check_collapse(run_lines(majority, entropies), constant) == found


def test_the_entropies_are_those_of_steps_with_a_gradient():
    found = check_collapse(run_lines(0.5, [None, 1.0, 0.8, 0.6, None, 0.3, 0.2, 0.1, None], 0.1))
    assert found.entropy_start == pytest.approx(0.8) and found.entropy_end == pytest.approx(0.2)
    assert found.excess == pytest.approx(0.4)
    empty = check_collapse([])
    assert empty.entropy_end is None and empty.excess is None and not math.isnan(empty.collapsed)
