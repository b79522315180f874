"""Accuracy by hand; drift against KL by hand, whatever the loss was."""

from __future__ import annotations

import json

import pytest
import torch
from tiny_models import save_tiny, tiny_policy

from fastslow.config import LoraConfig, SamplingConfig
from fastslow.errors import ModelError
from fastslow.evaluation.accuracy import Accuracy, measure_accuracy
from fastslow.evaluation.drift import measure_drift
from fastslow.policy.sampler import build_sampler
from fastslow.types import Context, Problem, Request, Rollout


def rollout(problem: str, reward: float, text: str = "a", finish: str = "stop") -> Rollout:
    return Rollout(problem, "c", 0, "evaluation", 0, (1, 2), 1, (3,), (-1.0,), text, finish, reward)


def test_accuracy_is_the_mean_over_problems_of_the_share_that_is_solved():
    rollouts = [
        rollout("a", 1.0, "x"), rollout("a", 0.9995, " x\n"), rollout("a", 0.5, "y"), rollout("a", 0.0, "x"),
        rollout("b", 1.0, "z", "length"), rollout("b", 0.998, "w"),
        rollout("c", -1.0, "v", "length"),
    ]  # fmt: skip
    found = measure_accuracy(rollouts)
    assert found.per_problem == {"a": 0.5, "b": 0.5, "c": 0.0}
    assert found.mean == pytest.approx(1 / 3)
    assert found.reward == pytest.approx((1 + 0.9995 + 0.5 + 0 + 1 + 0.998 - 1) / 7)
    assert found.majority_answer_share == pytest.approx(3 / 7)  # "x" with its white space folded
    assert found.truncated_share == pytest.approx(2 / 7)
    low, high = found.ci95
    assert 0 <= low <= found.mean <= high <= 1


def test_accuracy_of_all_or_nothing():
    assert measure_accuracy([rollout(str(i), 1.0) for i in range(9)]).mean == 1
    nothing = measure_accuracy([rollout(str(i), 0.0) for i in range(9)])
    assert nothing.mean == 0 and nothing.ci95[1] > 0  # nine misses are no proof of never
    with pytest.raises(ValueError, match="at least one rollout"):
        measure_accuracy([])


def test_accuracy_survives_json():
    found = measure_accuracy([rollout("a", 1.0), rollout("b", 0.3), rollout("b", 1.0)], seed=3)
    assert Accuracy.from_dict(json.loads(json.dumps(found.to_dict()))) == found


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("drift"))


def sampled(policy, texts=("Say the word alone.", "")) -> list[Rollout]:
    asked = [
        Request(Context({"instructions": t, "examples": ""}), Problem(p, f"What is {p}?"), 2, 5)
        for t in texts
        for p in ("two", "three")
    ]
    rows = build_sampler(policy, SamplingConfig(max_new_tokens=5)).sample(asked)
    return [
        Rollout(
            r.problem.id, r.context.id, policy.weights_step, "evaluation", 0, c.prompt_ids, c.shared, c.completion_ids,
            c.logprobs, c.text, c.finish_reason, 0.0,
        )
        for r, row in zip(asked, rows, strict=True)
        for c in row
    ]  # fmt: skip


def move(policy, size: float, only: str = "") -> None:
    with torch.no_grad():
        for i, (name, parameter) in enumerate(policy.trainable().items()):
            if only in name:
                noise = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(i))
                parameter.add_(noise, alpha=size)


def by_hand(lm, base, rollouts) -> float:
    """Every distribution in double precision, by the plain forward of both models."""
    terms = []
    for r in rollouts:
        ids = torch.tensor([[*r.prompt_ids, *r.completion_ids]])
        with torch.inference_mode():
            p, q = (
                torch.log_softmax(m(input_ids=ids, use_cache=False).logits[0, len(r.prompt_ids) - 1 : -1].double(), -1)
                for m in (lm, base)
            )
        terms += (p.exp() * (p - q)).sum(-1).tolist()
    return sum(terms) / len(terms)


def test_equal_weights_have_no_drift(folder):
    policy = tiny_policy(folder)
    policy.keep_base()
    assert measure_drift(policy, sampled(policy)) == 0.0


@pytest.mark.parametrize("only", ["lm_head", "layers.1", ""])
def test_drift_is_the_exact_kl_by_hand(folder, only, monkeypatch):
    policy, fresh = tiny_policy(folder), tiny_policy(folder)
    policy.keep_base()
    move(policy, 0.05, only)
    rollouts = sampled(policy)
    expected = by_hand(policy.causal_lm, fresh.causal_lm, rollouts)
    assert expected > 0.01
    assert measure_drift(policy, rollouts) == pytest.approx(expected, rel=1e-3)
    monkeypatch.setattr("fastslow.evaluation.drift._ROWS", 3)  # in pieces
    assert measure_drift(policy, rollouts) == pytest.approx(expected, rel=1e-3)


def test_a_base_attached_after_training_serves_as_well_as_one_kept(folder):
    kept, attached = tiny_policy(folder), tiny_policy(folder)
    kept.keep_base()
    for policy in (kept, attached):
        move(policy, 0.05)
    with pytest.raises(ModelError, match="base weights were not kept"):
        measure_drift(attached, sampled(attached))
    attached.attach_base(tiny_policy(folder).causal_lm)
    assert measure_drift(attached, sampled(attached)) == measure_drift(kept, sampled(kept)) > 0


def test_drift_needs_no_shared_prefixes(folder):
    policy = tiny_policy(folder)
    policy.keep_base()
    move(policy, 0.05)
    rollouts = sampled(policy)
    shared = measure_drift(policy, rollouts)
    policy.shares_prefixes = False
    assert measure_drift(policy, rollouts) == pytest.approx(shared, rel=1e-3)


def test_drift_looks_at_tokens_and_not_at_rewards_or_old_logprobs(folder):
    from dataclasses import replace

    policy = tiny_policy(folder)
    policy.keep_base()
    move(policy, 0.05)
    rollouts = sampled(policy)
    other = [replace(r, reward=7.0, logprobs=(0.0,) * len(r.logprobs), weights_step=9) for r in rollouts]
    assert measure_drift(policy, other) == measure_drift(policy, rollouts)


def test_drift_of_adapters_is_against_the_model_without_them(folder):
    torch.manual_seed(0)
    policy, fresh = tiny_policy(folder, lora=LoraConfig(rank=2)), tiny_policy(folder)
    assert measure_drift(policy, sampled(policy)) == pytest.approx(0.0, abs=1e-7)
    move(policy, 0.1)
    rollouts = sampled(policy)
    expected = by_hand(policy.causal_lm, fresh.causal_lm, rollouts)
    assert measure_drift(policy, rollouts) == pytest.approx(expected, rel=1e-3)
    assert expected > 0.01


def test_measuring_changes_nothing(folder):
    policy = tiny_policy(folder)
    policy.keep_base()
    move(policy, 0.05)
    assert policy.weights_step == 0
    before = {n: p.clone() for n, p in policy.trainable().items()}
    measure_drift(policy, sampled(policy))
    assert all(torch.equal(p, before[n]) for n, p in policy.trainable().items())
    assert all(p.grad is None for p in policy.trainable().values())
