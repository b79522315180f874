"""GRPO: PPO's clipped surrogate on group advantages, one clip on both sides (arXiv 2402.03300, eq. 3)."""

from __future__ import annotations

from torch import Tensor

from fastslow.slow.losses.base import LossSettings, TokenBatch, clipped_surrogate


def grpo(batch: TokenBatch, settings: LossSettings) -> Tensor:
    """- min(ρ A, clip(ρ, 1 - low, 1 + high) A) per token -> [T]; DAPO and Dr. GRPO weight the same tokens otherwise."""
    ratio_T = (batch.logprobs_T - batch.old_logprobs_T).exp()
    return clipped_surrogate(ratio_T, batch.advantages_T, settings)
