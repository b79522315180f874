"""Every loss against numbers derived by hand, and against its own mirror image: a flipped sign must show."""

from __future__ import annotations

import math

import pytest
import torch

from fastslow.slow.advantages import EPSILON, group_advantages
from fastslow.slow.losses import LOSSES, LossSettings, TokenBatch, kl_penalty

ATOL = 1e-6  # float32 arithmetic on numbers of order one

# Two problems. Rollout 0 (problem 0): two tokens, A = +1. Rollout 1 (problem 0): one token, A = -1.
# Rollout 2 (problem 1): one token, A = +2. Ratios ρ = π_θ / π_old: 1.5 and 0.5; 1.5; 8.
RATIOS = [1.5, 0.5, 1.5, 8.0]
ADVANTAGES = [1.0, 1.0, -1.0, 2.0]
LOGPROBS = [-1.0, -2.0, -0.5, -0.25]


def batch(advantages=ADVANTAGES) -> TokenBatch:
    logprobs = torch.tensor(LOGPROBS, requires_grad=True)
    old = torch.tensor([lp - math.log(r) for lp, r in zip(LOGPROBS, RATIOS)])
    return TokenBatch(logprobs, old, torch.tensor(advantages), torch.tensor([0, 0, 1, 2]), torch.tensor([0, 0, 0, 1]))


def value_and_gradient(name: str, tokens: TokenBatch, **settings) -> tuple[float, list[float]]:
    loss, limits = LOSSES[name], LossSettings(**settings)
    weights = loss.weights(tokens.sequence_T, tokens.group_T, limits)
    total = (weights * loss.tokens(tokens, limits)).sum()
    total.backward()
    return total.item(), tokens.logprobs_T.grad.tolist()


# CISPO, τ = 4: - min(ρ, 4) A log π = 1.5, 1.0, -0.75 and 4*2*0.25 = 2; per problem: (1.75 / 3 + 2 / 1) / 2.
# Its gradient is - min(ρ, τ) A x weight: the capped token keeps one.
# GRPO, clip 0.2: - min(ρA, clip(ρ)A) = -1.2 (clipped), -0.5, +1.5 (A < 0: the larger ratio counts), -2.4 (clipped);
# per sequence: mean of (-0.85, 1.5, -2.4).
CASES = {
    "cispo": (
        {"cap": 4.0},
        (1.75 / 3 + 2.0) / 2,
        [-1.5 / 6, -0.5 / 6, 1.5 / 6, -8.0 / 2],
    ),
    "grpo": ({}, (-0.85 + 1.5 - 2.4) / 3, [0.0, -0.5 / 6, 1.5 / 3, 0.0]),
    "dapo": ({"clip_high": 0.28}, (-1.28 - 0.5 + 1.5 - 2.56) / 4, [0.0, -0.5 / 4, 1.5 / 4, 0.0]),
    "dr_grpo": ({"max_tokens": 5}, (-1.2 - 0.5 + 1.5 - 2.4) / 15, [0.0, -0.5 / 15, 1.5 / 15, 0.0]),
}


@pytest.mark.parametrize("name", CASES)
def test_loss_and_gradient_equal_the_numbers_derived_by_hand(name):
    settings, expected, gradient = CASES[name]
    value, found = value_and_gradient(name, batch(), **settings)
    assert value == pytest.approx(expected, abs=ATOL)
    assert found == pytest.approx(gradient, abs=ATOL)


def test_gspo_shares_one_ratio_per_sequence():
    # Sequence 0: s = sqrt(1.5 * 0.5) = 0.866, inside the clip; 1: s = 1.5 with A = -1; 2: s = 8, clipped to 1.2.
    s = math.sqrt(0.75)
    value, gradient = value_and_gradient("gspo", batch())
    assert value == pytest.approx((-s + 1.5 - 2.4) / 3, abs=ATOL)
    # d s / d log π_t = s / |y| for each of the two tokens; both carry the surrogate with weight 1/2.
    assert gradient == pytest.approx([-s / 2 / 3, -s / 2 / 3, 1.5 / 3, 0.0], abs=ATOL)


@pytest.mark.parametrize("name", LOSSES)
def test_descending_the_loss_makes_good_tokens_likelier_and_bad_ones_less_likely(name):
    """On-policy (ρ = 1), the gradient is - A x a positive weight: a flipped sign anywhere fails here."""
    tokens = batch()._replace(old_logprobs_T=torch.tensor(LOGPROBS))
    _, gradient = value_and_gradient(name, tokens, max_tokens=5)
    for slope, advantage in zip(gradient, ADVANTAGES):
        assert slope * advantage < 0


@pytest.mark.parametrize("name", LOSSES)
def test_mirrored_advantages_do_not_give_the_same_loss(name):
    value, _ = value_and_gradient(name, batch(), max_tokens=5)
    mirrored, _ = value_and_gradient(name, batch([-a for a in ADVANTAGES]), max_tokens=5)
    assert abs(value - mirrored) > 1000 * ATOL


def test_every_problem_weighs_the_same_under_cispo_whatever_its_length():
    weights = LOSSES["cispo"].weights(torch.tensor([0, 0, 1, 2]), torch.tensor([0, 0, 0, 1]), LossSettings())
    assert weights.tolist() == pytest.approx([1 / 6, 1 / 6, 1 / 6, 1 / 2])


def test_weights_over_a_whole_batch_add_up_across_microbatches():
    tokens = batch()
    loss, limits = LOSSES["cispo"], LossSettings()
    weights = loss.weights(tokens.sequence_T, tokens.group_T, limits)
    whole = float((weights * loss.tokens(tokens, limits)).sum())
    parts = [torch.tensor([0, 1]), torch.tensor([2]), torch.tensor([3])]
    split = sum(float((weights[i] * loss.tokens(TokenBatch(*(x[i] for x in tokens)), limits)).sum()) for i in parts)
    assert split == pytest.approx(whole, abs=ATOL)


def test_advantages_are_centred_and_scaled_over_the_whole_group():
    # Rewards 1, 0, 0, 1: mean 0.5, population std 0.5.
    assert group_advantages([1, 0, 0, 1]).tolist() == pytest.approx([1, -1, -1, 1], abs=4 * EPSILON)
    # 1, 0, 0, 0: mean 0.25, std sqrt(3)/4.
    expected = [0.75 / (math.sqrt(3) / 4), *[-0.25 / (math.sqrt(3) / 4)] * 3]
    assert group_advantages([1, 0, 0, 0]).tolist() == pytest.approx(expected, abs=1e-5)
    assert group_advantages([1, 0, 0, 0], divide_by_std=False).tolist() == pytest.approx([0.75, -0.25, -0.25, -0.25])


def test_a_flat_group_has_no_advantage():
    assert group_advantages([1, 1, 1, 1]).tolist() == [0.0] * 4
    assert group_advantages([0, 0]).tolist() == [0.0] * 2


def test_kl_penalty_by_hand():
    # π_θ = 0.5, π_base = 0.25: r = 0.5, r - log r - 1 = 0.5 + 0.6931 - 1; and it is 0 where both agree.
    value = kl_penalty(torch.tensor([math.log(0.5), -3.0]), torch.tensor([math.log(0.25), -3.0]))
    assert value.tolist() == pytest.approx([0.5 + math.log(2) - 1, 0.0], abs=ATOL)


def test_kl_penalty_pulls_towards_the_base():
    logprobs = torch.tensor([math.log(0.5)], requires_grad=True)
    kl_penalty(logprobs, torch.tensor([math.log(0.25)])).sum().backward()
    assert float(logprobs.grad) == pytest.approx(0.5, abs=ATOL)  # 1 - π_base / π_θ: descent lowers π_θ
