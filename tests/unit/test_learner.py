"""The slow learner on tiny random models. Locks: flat groups move nothing; micro-batches and both forwards give one
gradient; masks; warm-up; the pull of KL; adapters; a state that comes back to the bit."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from tiny_models import save_tiny, tiny_policy

from fastslow.config import LoraConfig, SamplingConfig, SlowConfig
from fastslow.errors import ModelError
from fastslow.evaluation.drift import measure_drift
from fastslow.policy.logprobs import sequence_logprobs
from fastslow.policy.model import head_logits
from fastslow.policy.sampler import build_sampler
from fastslow.policy.tree import TokenSequence
from fastslow.slow.learner import LocalLearner, rescued_by_contexts
from fastslow.types import Context, Group, Problem, Request, Rollout

STEP_TOLERANCE = 1e-5
NEW_TOKENS = 6
CONTEXTS = [
    Context({"instructions": "Say the word alone, please.", "examples": ""}),
    Context({"instructions": "Reply in capitals.", "examples": ""}),
]
PROBLEMS = [Problem(f"p{i}", text) for i, text in enumerate(["What is two?", "And three, please?", "Why?"])]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("learner"))


def config(**changes) -> SlowConfig:
    return SlowConfig(**{"lr": 1e-2, "warmup": 0, "kl": 0.0, "group_size": 4, "problems_per_step": 3, **changes})


def learner_of(policy, **changes) -> LocalLearner:
    return LocalLearner(policy, config(**changes), NEW_TOKENS)


def groups_of(policy, rewards=((1, 0, 0, 1), (0, 0, 0, 0), (1, 0, 0.5, 0)), finish: str | None = None) -> list[Group]:
    """Rollouts sampled from the policy itself, two under each context, with the given rewards."""
    sampler = build_sampler(policy, SamplingConfig(max_new_tokens=NEW_TOKENS))
    groups = []
    for number, (problem, given) in enumerate(zip(PROBLEMS, rewards, strict=True)):
        seed = 1000 * policy.weights_step + 10 * number
        asked = [Request(c, problem, 2, seed=seed + k) for k, c in enumerate(CONTEXTS)]
        drawn = [(r, c) for r, row in zip(asked, sampler.sample(asked), strict=True) for c in row]
        groups.append(
            Group(
                problem.id,
                tuple(
                    Rollout(
                        problem.id, r.context.id, policy.weights_step, "slow", 0, c.prompt_ids, c.shared,
                        c.completion_ids, c.logprobs, c.text, finish or c.finish_reason, float(reward),
                    )
                    for (r, c), reward in zip(drawn, given, strict=True)
                ),
            )
        )  # fmt: skip
    return groups


def weights(policy) -> dict[str, torch.Tensor]:
    return {n: p.detach().clone() for n, p in policy.trainable().items()}


def largest_difference(a: dict, b: dict) -> float:
    return max(float((a[n] - b[n]).abs().max()) for n in a)


def gradient(policy, groups, **changes) -> torch.Tensor:
    """The gradient of one update, caught at the optimizer."""
    learner = learner_of(policy, max_grad_norm=1e9, **changes)
    caught = {}
    learner.optimizer.step = lambda: caught.update({n: p.grad.clone() for n, p in policy.trainable().items()})
    learner.update(groups)
    policy.weights_step = 0
    return torch.cat([g.flatten() for g in caught.values()])


def assert_same_gradient(found, expected) -> None:
    assert torch.isfinite(expected).all() and expected.norm() > 0
    assert (found - expected).norm() / expected.norm() < STEP_TOLERANCE


def test_one_update_follows_the_rewards(folder):
    """The policy gives rewarded replies more probability than before, and others less."""
    policy = tiny_policy(folder)
    groups = groups_of(policy, ((1, 0, 0, 1), (0, 0, 0, 0), (1, 0, 0, 0)))
    metrics = learner_of(policy, lr=1e-3).update(groups)
    assert metrics["groups"] == 3 and metrics["flat_groups"] == 1 and metrics["grad_norm"] > 0
    assert metrics["ratio_max"] == pytest.approx(1, abs=1e-3)  # on-policy before the step
    change = {0.0: 0.0, 1.0: 0.0}
    for rollout in [r for g in (groups[0], groups[2]) for r in g.rollouts]:
        sequence = TokenSequence(rollout.prompt_ids, rollout.shared, rollout.completion_ids)
        with torch.no_grad(), sequence_logprobs(policy, [sequence]) as (now, _, _):
            change[rollout.reward] += float(now.sum()) - sum(rollout.logprobs)
    assert change[1.0] > 0 > change[0.0]


def test_the_gradient_is_the_one_of_cispo_by_autograd_alone(folder):
    """On-policy, ρ = 1: the loss is - Σ A log π, per problem the mean over its tokens, and the mean over problems."""
    policy = tiny_policy(folder)
    groups = groups_of(policy)
    found = gradient(policy, groups)
    policy.causal_lm.set_attn_implementation("sdpa")
    policy.model.zero_grad()
    total = torch.zeros(())
    kept = [g for g in groups if not g.is_flat]
    for group in kept:
        rewards = torch.tensor(group.rewards)
        advantages = (rewards - rewards.mean()) / (rewards.std(correction=0) + 1e-6)
        tokens = sum(len(r.completion_ids) for r in group.rollouts)
        for rollout, advantage in zip(group.rollouts, advantages, strict=True):
            ids = torch.tensor([[*rollout.prompt_ids, *rollout.completion_ids]])
            logits = policy.causal_lm(input_ids=ids, use_cache=False).logits[0, len(rollout.prompt_ids) - 1 : -1]
            chosen = torch.log_softmax(logits, -1).gather(-1, torch.tensor(rollout.completion_ids)[:, None])
            total = total - advantage * chosen.sum() / tokens / len(kept)
    total.backward()
    expected = torch.cat([p.grad.flatten() for p in policy.trainable().values()])
    assert (found - expected).norm() / expected.norm() < 1e-4


@pytest.mark.parametrize("kl", [0.0, 0.1])
def test_flat_groups_alone_leave_everything_as_it_was(folder, kl):
    policy = tiny_policy(folder)
    learner = learner_of(policy, kl=kl)
    learner.update(groups_of(policy))  # away from the base, so that KL would pull
    before, moments = weights(policy), copy.deepcopy(learner.state()[0]["optimizer"])
    metrics = learner.update(groups_of(policy, ((1, 1, 1, 1), (0, 0, 0, 0), (0.5,) * 4)))
    assert metrics["flat_groups"] == metrics["groups"] == 3 and metrics["computed_tokens"] == 0
    assert metrics["loss"] == metrics["kl"] == metrics["grad_norm"] == 0
    assert largest_difference(weights(policy), before) == 0
    assert largest_difference(learner.state()[0]["optimizer"], moments) == 0
    assert learner.updates == policy.weights_step == 1


@pytest.mark.parametrize("kl", [0.0, 0.1])
def test_a_flat_group_beside_others_adds_nothing(folder, kl):
    policy = tiny_policy(folder)
    groups = groups_of(policy)
    assert groups[1].is_flat
    with_flat, without = gradient(policy, groups, kl=kl), gradient(policy, [groups[0], groups[2]], kl=kl)
    assert torch.equal(with_flat, without)


@pytest.mark.parametrize("loss", ["cispo", "grpo", "dapo", "dr_grpo", "gspo"])
def test_micro_batches_give_the_gradient_of_one_batch(folder, loss):
    policy = tiny_policy(folder)
    groups = groups_of(policy)
    calls = []
    learner = learner_of(policy, loss=loss, kl=0.01, token_budget=64)
    whole = learner._backward_part
    learner._backward_part = lambda *args: (calls.append(1), whole(*args))
    small = weights(policy)
    metrics = learner.update(groups)
    assert len(calls) > 1
    other = tiny_policy(folder)
    expected = learner_of(other, loss=loss, kl=0.01, token_budget=10**6).update(groups)
    assert largest_difference(weights(other), small) > 1e-3  # it moved
    assert metrics["loss"] == pytest.approx(expected["loss"], abs=STEP_TOLERANCE)
    assert metrics["grad_norm"] == pytest.approx(expected["grad_norm"], rel=STEP_TOLERANCE)
    assert metrics["computed_tokens"] > expected["computed_tokens"]
    first = gradient(tiny_policy(folder), groups, loss=loss, kl=0.01, token_budget=64)
    assert_same_gradient(first, gradient(tiny_policy(folder), groups, loss=loss, kl=0.01, token_budget=10**6))


@pytest.mark.parametrize("kl", [0.0, 0.05])
def test_the_padded_forward_gives_the_update_of_the_shared_one(folder, kl):
    policy = tiny_policy(folder)
    groups = groups_of(policy)
    shared = gradient(policy, groups, kl=kl)
    policy.shares_prefixes = False
    policy.causal_lm.set_attn_implementation("sdpa")
    plain = gradient(policy, groups, kl=kl)
    assert (shared - plain).norm() / shared.norm() < 1e-4


def test_masked_rollouts_get_no_loss_but_count_in_the_mean(folder):
    policy = tiny_policy(folder)
    whole = groups_of(policy, finish="stop")
    cut = list(whole)
    first = cut[0]
    marked = (first.rollouts[0], _cut(first.rollouts[1]), *first.rollouts[2:])
    cut[0] = Group(first.problem_id, marked)
    as_zero = gradient(policy, cut, truncated="zero")
    masked = gradient(policy, cut, truncated="mask")
    assert torch.equal(as_zero, gradient(policy, whole))
    assert not torch.equal(masked, as_zero)
    poisoned = list(cut)  # whatever a masked rollout says, the gradient stays
    other = (first.rollouts[0], _cut(first.rollouts[1], completion_ids=(7, 8, 9), logprobs=(-1.0, -1.0, -1.0)))
    poisoned[0] = Group(first.problem_id, (*other, *first.rollouts[2:]))
    assert torch.equal(gradient(policy, poisoned, truncated="mask"), masked)


def _cut(rollout: Rollout, **changes) -> Rollout:
    return replace(rollout, finish_reason="length", **changes)


def test_nothing_but_masked_rollouts_moves_nothing(folder):
    policy = tiny_policy(folder)
    before = weights(policy)
    metrics = learner_of(policy, truncated="mask").update(groups_of(policy, finish="length"))
    assert largest_difference(weights(policy), before) == 0 and policy.weights_step == 0
    assert metrics["flat_groups"] == 1


def test_warm_up_is_used_as_logged(folder):
    """AdamW's first step moves every weight that has a gradient by the learning rate."""
    policy = tiny_policy(folder)
    learner = learner_of(policy, lr=1e-2, warmup=4, max_grad_norm=1e9)
    used, logged = [], []
    step = learner.optimizer.step
    learner.optimizer.step = lambda: (used.append([g["lr"] for g in learner.optimizer.param_groups]), step())
    before = weights(policy)
    for i in range(6):
        logged.append(learner.update(groups_of(policy))["lr"])
        if i == 0:
            assert largest_difference(weights(policy), before) == pytest.approx(logged[0], rel=1e-3)
            learner.update(groups_of(policy, ((0,) * 4,) * 3))  # no optimizer step, so the warm-up waits
    assert logged == pytest.approx([0.0025, 0.005, 0.0075, 0.01, 0.01, 0.01])
    assert used == [[lr] for lr in logged]


def test_the_gradient_is_clipped_to_its_norm_and_the_norm_before_is_logged(folder):
    policy = tiny_policy(folder)
    groups = groups_of(policy)
    norm = float(gradient(policy, groups).norm())
    learner = learner_of(policy, max_grad_norm=norm / 10)
    caught = []
    step = learner.optimizer.step
    learner.optimizer.step = lambda: (caught.append([p.grad.clone() for p in policy.trainable().values()]), step())
    assert learner.update(groups)["grad_norm"] == pytest.approx(norm, rel=1e-4)
    clipped = torch.cat([g.flatten() for g in caught[0]]).norm()
    assert float(clipped) == pytest.approx(norm / 10, rel=1e-3)


def test_kl_pulls_back_toward_the_base(folder):
    """From weights away from the base, a large coefficient outweighs the rewards and brings the exact KL down."""
    policy = tiny_policy(folder)
    learner = learner_of(policy, kl=100.0, lr=2e-3)
    with torch.no_grad():
        for parameter in policy.trainable().values():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)), alpha=0.03)
    held_out = [r for g in groups_of(policy) for r in g.rollouts]
    before = measure_drift(policy, held_out)
    metrics = [learner.update(groups_of(policy, ((1, 0, 0, 1),) * 3)) for _ in range(25)]
    assert before > 0.1 and all(m["kl"] > 0 for m in metrics)
    assert measure_drift(policy, held_out) < 0.8 * before


def test_without_kl_no_base_is_kept(folder):
    policy = tiny_policy(folder)
    assert learner_of(policy, kl=0.0).update(groups_of(policy))["kl"] == 0
    with pytest.raises(ModelError, match="base weights were not kept"), policy.base_lm():
        pass


def test_adapters_alone_are_trained_and_can_be_switched_off(folder):
    torch.manual_seed(0)
    policy = tiny_policy(folder, lora=LoraConfig(rank=2))
    assert policy.shares_prefixes
    assert all("lora_" in name for name in policy.trainable())
    frozen = {n: p.detach().clone() for n, p in policy.model.named_parameters() if not p.requires_grad}
    base_ids = torch.tensor([[5, 6, 7, 8]])

    def logits() -> torch.Tensor:
        with torch.inference_mode():
            return head_logits(policy.causal_lm, policy.causal_lm.base_model(base_ids).last_hidden_state)[0]

    start = logits()
    learner = learner_of(policy, kl=0.01)
    before = weights(policy)
    for _ in range(3):
        learner.update(groups_of(policy))
    assert policy.weights_step == 3 and largest_difference(weights(policy), before) > 1e-3
    assert all(torch.equal(p, frozen[n]) for n, p in policy.model.named_parameters() if not p.requires_grad)
    moved = logits()
    assert float((moved - start).abs().max()) > 1e-3
    with policy.base_lm():
        assert torch.allclose(logits(), start, atol=1e-6)
    assert torch.equal(logits(), moved)
    assert policy._base is None  # no second copy
    tensors, _ = learner.state()
    assert tensors["weights"].keys() == before.keys()


@pytest.mark.parametrize("lora", [None, LoraConfig(rank=2)])
def test_a_saved_state_goes_on_to_the_bit(folder, lora):
    torch.manual_seed(0)
    policy = tiny_policy(folder, lora=lora)
    learner = learner_of(policy, warmup=5, kl=0.01)
    for _ in range(2):
        learner.update(groups_of(policy))
    tensors, state = learner.state()
    tensors = {g: {n: t.clone() for n, t in group.items()} for g, group in tensors.items()}
    torch.manual_seed(1)  # adapters would start elsewhere
    other_policy = tiny_policy(folder, lora=lora)
    other = learner_of(other_policy, warmup=5, kl=0.01)
    other.load_state(tensors, state)
    assert other.updates == other_policy.weights_step == 2
    for _ in range(2):
        a, b = learner.update(groups_of(policy)), other.update(groups_of(other_policy))
        assert a == b
    assert largest_difference(weights(policy), weights(other_policy)) == 0
    mine, theirs = learner.state(), other.state()
    assert mine[1] == theirs[1] and largest_difference(mine[0]["optimizer"], theirs[0]["optimizer"]) == 0


def test_tied_weights_are_stored_once(folder):
    policy = tiny_policy(folder)
    tensors, _ = learner_of(policy).state()
    places = [t.data_ptr() for t in tensors["weights"].values()]
    assert len(places) == len(set(places))


def test_a_group_is_rescued_where_every_context_alone_was_flat(folder):
    groups = groups_of(tiny_policy(folder), ((1, 1, 0, 0), (1, 0, 0, 1), (1, 1, 1, 1)))
    assert [rescued_by_contexts(g) for g in groups] == [True, False, False]
    alone = Group("p0", groups[0].rollouts[:2])
    assert not rescued_by_contexts(alone)
