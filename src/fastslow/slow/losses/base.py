"""What every loss takes and gives: pure functions of flat token tensors.

Shapes: T completion tokens of a whole batch, over all its rollouts, S rollouts (sequences).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


class TokenBatch(NamedTuple):
    """Tokens of some rollouts. ``sequence_T`` numbers each token's rollout and ``group_T`` its problem."""

    logprobs_T: Tensor
    """log π_θ of each token, nats, with gradient."""
    old_logprobs_T: Tensor
    """log π_old as sampled."""
    advantages_T: Tensor
    """The rollout's advantage, repeated over its tokens."""
    sequence_T: Tensor
    group_T: Tensor


@dataclass(frozen=True, slots=True)
class LossSettings:
    """Numbers a loss may need. ``cap``: CISPO's τ; ``clip_low``/``clip_high``: ratio in [1 - low, 1 + high];
    ``max_tokens``: Dr. GRPO's constant divisor."""

    cap: float = 4.0
    clip_low: float = 0.2
    clip_high: float = 0.2
    max_tokens: int = 1


TokenLoss = Callable[[TokenBatch, LossSettings], Tensor]
"""-> loss of each token [T], before weighting; lower is better."""

TokenWeights = Callable[[Tensor, Tensor, LossSettings], Tensor]
"""(sequence_T, group_T, settings) -> weights [T]; the loss is the weighted sum over the whole batch."""


@dataclass(frozen=True, slots=True)
class Loss:
    """A token loss with the weighting its paper gives it; ``divides_by_std``: advantages are divided by the group's."""

    tokens: TokenLoss
    weights: TokenWeights
    divides_by_std: bool = True


def clipped_surrogate(ratio_T: Tensor, advantages_T: Tensor, settings: LossSettings) -> Tensor:
    """PPO's pessimistic clip: - min(ρ A, clip(ρ, 1 - low, 1 + high) A)."""
    clipped = ratio_T.clamp(1 - settings.clip_low, 1 + settings.clip_high)
    return -torch.minimum(ratio_T * advantages_T, clipped * advantages_T)
