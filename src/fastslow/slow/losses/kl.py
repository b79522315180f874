"""KL to the base model as a loss term: the non-negative, low-variance estimator k3 (Schulman 2020; GRPO eq. 4)."""

from __future__ import annotations

from torch import Tensor


def kl_penalty(logprobs_T: Tensor, base_logprobs_T: Tensor) -> Tensor:
    """π_base / π_θ - log(π_base / π_θ) - 1 per token [T], nats; an estimate of KL(π_θ ‖ π_base)."""
    delta_T = base_logprobs_T - logprobs_T
    return delta_T.exp() - delta_T - 1.0
