"""FST-distill's learner. Locks: which KL it is and in which direction, by hand; the gradient through the student alone,
by finite differences and against autograd over unshared forwards; what is left out; that the student comes nearer."""

from __future__ import annotations

import math

import pytest
import torch
from test_learner import CONTEXTS, NEW_TOKENS, PROBLEMS, config, groups_of, largest_difference, weights
from tiny_models import save_tiny, tiny_policy

from fastslow.policy import logprobs
from fastslow.policy.logprobs import sequence_hidden
from fastslow.policy.tree import TokenSequence
from fastslow.slow.distill import DistillLearner, reverse_kl
from fastslow.staleness import StaleError
from fastslow.types import Context, Group

EXACT, ROUNDING = 1e-6, 1e-4
SEED = Context({"instructions": "", "examples": ""})


@pytest.fixture(scope="module", params=["llama", "gemma2"])
def folder(request, tmp_path_factory):
    """Gemma 2 caps its logits, so its head is a function and not a matrix."""
    return save_tiny(tmp_path_factory.mktemp("distill"), request.param)


def learner_of(policy, seed: Context = SEED, **changes) -> DistillLearner:
    problems = {p.id: p for p in PROBLEMS}
    return DistillLearner(
        policy, config(**changes), NEW_TOKENS, 1.0, lambda i: policy.renderer.render(seed, problems[i])
    )


def halves(p: float) -> torch.Tensor:
    """Hidden states that an identity head turns into the distribution (p, 1 - p)."""
    return torch.tensor([[math.log(p), math.log(1 - p)]])


def test_the_kl_is_the_reverse_one_by_hand():
    """Student (1/4, 3/4), teacher (1/2, 1/2): KL(student ‖ teacher) = 1/4 ln 1/2 + 3/4 ln 3/2 = 0.13081.
    The forward one would be 1/2 ln 2 + 1/2 ln 2/3 = 0.14384."""
    found = reverse_kl(halves(0.25), halves(0.5), torch.eye(2))
    assert float(found) == pytest.approx(0.25 * math.log(0.5) + 0.75 * math.log(1.5), abs=EXACT)
    assert abs(float(found) - (0.5 * math.log(2) + 0.5 * math.log(2 / 3))) > 0.01


def test_its_gradient_by_hand_pulls_the_student_toward_the_teacher():
    """d KL / d z_v = p_v (ln p_v - ln q_v - KL): for v = 0, 1/4 (ln 1/2 - 0.13081) = -0.20599; the other is its
    negative. So a descent step raises the logit of the token that the student gives too little."""
    student, teacher = halves(0.25).requires_grad_(), halves(0.5).requires_grad_()
    reverse_kl(student, teacher, torch.eye(2)).sum().backward()
    kl = 0.25 * math.log(0.5) + 0.75 * math.log(1.5)
    expected = 0.25 * (math.log(0.5) - kl)
    assert student.grad[0].tolist() == pytest.approx([expected, -expected], abs=EXACT) and expected < 0
    assert teacher.grad is None


def test_the_temperature_divides_both_sides_logits():
    """Logits (ln 9, 0) at temperature 2 are (ln 3, 0): the distribution (3/4, 1/4) against (1/2, 1/2)."""
    student, teacher = torch.tensor([[math.log(9), 0.0]]), torch.zeros(1, 2)
    expected = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    assert float(reverse_kl(student, teacher, torch.eye(2), 2.0)) == pytest.approx(expected, abs=EXACT)


def test_the_head_moves_through_the_student_alone():
    """With hidden states h (student) and k (teacher), dKL/dW = (dKL/dz) hᵀ: no row of the teacher's k in it."""
    weight = torch.eye(2, requires_grad=True)
    student, teacher = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 5.0]])
    reverse_kl(student, teacher, weight).sum().backward()
    assert weight.grad[:, 1].abs().max() == 0 and weight.grad[:, 0].abs().max() > 0


def test_chunks_give_the_same_numbers_and_gradients(monkeypatch):
    torch.manual_seed(0)
    hidden, teacher, weight = torch.randn(7, 4), torch.randn(7, 4), torch.randn(5, 4)
    found = []
    for limit in (10_000, 20):  # 20 logits: two positions of five tokens, for two distributions
        monkeypatch.setattr(logprobs, "CHUNK_LOGITS", limit)
        student, head = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
        value = reverse_kl(student, teacher, head)
        (value * torch.arange(1.0, 8.0)).sum().backward()
        found.append((value.detach(), student.grad, head.grad))
    for whole, chunked in zip(*found, strict=True):
        assert torch.allclose(whole, chunked, atol=EXACT)


def plain_logits(policy, prompt, completion):
    ids = torch.tensor([[*prompt, *completion]])
    return policy.causal_lm(input_ids=ids, use_cache=False).logits[0, len(prompt) - 1 : -1]


@pytest.mark.parametrize("budget", [64, 4096])
def test_the_gradient_is_the_one_of_unshared_forwards(folder, budget):
    """Per problem the mean over its tokens, then the mean over problems, whatever the rewards."""
    policy = tiny_policy(folder)
    groups = groups_of(policy)
    learner = learner_of(policy, max_grad_norm=1e9, token_budget=budget)
    caught = {}
    learner.optimizer.step = lambda: caught.update({n: p.grad.clone() for n, p in policy.trainable().items()})
    metrics = learner.update(groups)
    found = torch.cat([g.flatten() for g in caught.values()])
    policy.causal_lm.set_attn_implementation("eager")
    policy.model.zero_grad()
    total, problems = torch.zeros(()), {p.id: p for p in PROBLEMS}
    for group in groups:
        prompt, _ = policy.renderer.render(SEED, problems[group.problem_id])
        tokens = sum(len(r.completion_ids) for r in group.rollouts)
        for r in group.rollouts:
            log_p = plain_logits(policy, prompt, r.completion_ids).log_softmax(-1)
            log_q = plain_logits(policy, r.prompt_ids, r.completion_ids).log_softmax(-1).detach()
            total = total + (log_p.exp() * (log_p - log_q)).sum() / tokens / len(groups)
    total.backward()
    expected = torch.cat([p.grad.flatten() for p in policy.trainable().values()])
    assert metrics["loss"] == pytest.approx(float(total.detach()), rel=ROUNDING) and metrics["loss"] > 0
    assert (found - expected).norm() / expected.norm() < ROUNDING
    assert metrics["flat_groups"] == 0 and metrics["distilled_rollouts"] == 12


def distance(policy, groups) -> float:
    problems = {p.id: p for p in PROBLEMS}
    rollouts = [r for g in groups for r in g.rollouts]
    teacher = [TokenSequence(r.prompt_ids, r.shared, r.completion_ids) for r in rollouts]
    student = [TokenSequence(*policy.renderer.render(SEED, problems[r.problem_id]), r.completion_ids) for r in rollouts]
    with torch.no_grad(), sequence_hidden(policy, teacher) as (q, _, _), sequence_hidden(policy, student) as (p, _, _):
        return float(reverse_kl(p, q, policy.head).mean())


def test_the_student_comes_nearer_to_the_teacher(folder):
    policy = tiny_policy(folder)
    learner = learner_of(policy, lr=2e-3)
    before = distance(policy, groups_of(policy))
    for _ in range(12):
        learner.update(groups_of(policy))
    assert distance(policy, groups_of(policy)) < 0.7 * before
    assert learner.updates == policy.weights_step == 12


def test_rewards_move_nothing(folder):
    found = []
    for rewards in (((0, 0, 0, 0),) * 3, ((1, 0, 0, 1), (0.5, 1, 0, 0), (1, 1, 1, 0))):
        policy = tiny_policy(folder)
        metrics = learner_of(policy).update(groups_of(policy, rewards))
        found.append((metrics, weights(policy)))
    assert found[0][0] == found[1][0] and largest_difference(found[0][1], found[1][1]) == 0


def test_rollouts_of_the_student_s_own_prompt_are_left_out(folder):
    """Under the seed context teacher and student are one: with nothing else, the weights stay."""
    policy = tiny_policy(folder)
    groups, before = groups_of(policy), weights(policy)
    metrics = learner_of(policy, seed=CONTEXTS[0]).update(groups)
    assert metrics["distilled_rollouts"] == 6
    policy = tiny_policy(folder)
    alone = [Group(g.problem_id, g.rollouts[:2]) for g in groups]  # the first context's
    metrics = learner_of(policy, seed=CONTEXTS[0]).update(alone)
    assert metrics["distilled_rollouts"] == metrics["loss"] == metrics["grad_norm"] == 0
    assert largest_difference(weights(policy), before) == 0 and policy.weights_step == 0


def test_cut_off_replies_are_masked_where_the_config_says_so(folder):
    policy = tiny_policy(folder)
    assert learner_of(policy, truncated="mask").update(groups_of(policy, finish="length"))["distilled_rollouts"] == 0


def test_stale_rollouts_are_refused(folder):
    policy = tiny_policy(folder)
    learner, groups = learner_of(policy), groups_of(policy)
    learner.update(groups)
    with pytest.raises(StaleError, match="weights of step 0"):
        learner.update(groups)


def test_no_second_copy_of_the_weights_is_kept(folder):
    policy = tiny_policy(folder)
    learner_of(policy, kl=0.5)
    assert policy._base is None
