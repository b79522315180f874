"""GSPO: one importance ratio per sequence, its length-normalised likelihood ratio (arXiv 2507.18071, eq. 5-7)."""

from __future__ import annotations

import torch
from torch import Tensor

from fastslow.slow.losses.base import LossSettings, TokenBatch, clipped_surrogate


def gspo(batch: TokenBatch, settings: LossSettings) -> Tensor:
    """s_i = exp(mean_t (log π_θ - log π_old)); the clipped surrogate of s_i, shared by the rollout's tokens -> [T].

    Needs all tokens of a rollout in one batch. The gradient of a token flows through s_i, as in eq. 7.
    """
    _, sequence_T = torch.unique(batch.sequence_T, return_inverse=True)
    sequences = int(sequence_T.max()) + 1 if sequence_T.numel() else 0
    delta_T = batch.logprobs_T - batch.old_logprobs_T
    total_S = torch.zeros(sequences, dtype=delta_T.dtype, device=delta_T.device).index_add(0, sequence_T, delta_T)
    length_S = torch.bincount(sequence_T, minlength=sequences).to(delta_T.dtype)
    ratio_T = (total_S / length_S).exp()[sequence_T]
    return clipped_surrogate(ratio_T, batch.advantages_T, settings)
