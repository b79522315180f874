"""CISPO: clip the importance weight, keep every token's gradient (MiniMax-M1, arXiv 2506.13585, eq. 4-5)."""

from __future__ import annotations

from torch import Tensor

from fastslow.slow.losses.base import LossSettings, TokenBatch


def cispo(batch: TokenBatch, settings: LossSettings) -> Tensor:
    """- sg(min(ρ, τ)) · A · log π_θ per token, ρ = π_θ / π_old, no lower bound -> [T]."""
    ratio_T = (batch.logprobs_T - batch.old_logprobs_T).exp()
    weight_T = ratio_T.clamp_max(settings.cap).detach()
    return -weight_T * batch.advantages_T * batch.logprobs_T
