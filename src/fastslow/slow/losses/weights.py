"""How token losses add up to one number. Each returns weights [T] for the tokens of a whole batch."""

from __future__ import annotations

import torch
from torch import Tensor

from fastslow.slow.losses.base import LossSettings


def per_problem(sequence_T: Tensor, group_T: Tensor, settings: LossSettings) -> Tensor:
    """Divide by the problem's token count, then by the number of problems: every problem weighs the same (ScaleRL)."""
    return _inverse_count(group_T) / _distinct(group_T)


def per_sequence(sequence_T: Tensor, group_T: Tensor, settings: LossSettings) -> Tensor:
    """Mean over a rollout's tokens, then over rollouts (GRPO, arXiv 2402.03300, eq. 3)."""
    return _inverse_count(sequence_T) / _distinct(sequence_T)


def per_token(sequence_T: Tensor, group_T: Tensor, settings: LossSettings) -> Tensor:
    """Mean over all tokens of the batch (DAPO, arXiv 2503.14476, eq. 8)."""
    return torch.full(sequence_T.shape, 1.0 / max(1, sequence_T.numel()), device=sequence_T.device)


def constant(sequence_T: Tensor, group_T: Tensor, settings: LossSettings) -> Tensor:
    """Divide by rollouts x the most tokens one may have: no length bias (Dr. GRPO, arXiv 2503.20783)."""
    divisor = _distinct(sequence_T) * settings.max_tokens
    return torch.full(sequence_T.shape, 1.0 / divisor, device=sequence_T.device)


def _inverse_count(index_T: Tensor) -> Tensor:
    _, inverse, counts = torch.unique(index_T, return_inverse=True, return_counts=True)
    return 1.0 / counts[inverse].float()


def _distinct(index_T: Tensor) -> int:
    return max(1, torch.unique(index_T).numel())
