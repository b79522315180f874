"""Losses by name. Another one is a file here and a line below."""

from __future__ import annotations

from fastslow.slow.losses.base import Loss, LossSettings, TokenBatch
from fastslow.slow.losses.cispo import cispo
from fastslow.slow.losses.dapo import dapo
from fastslow.slow.losses.dr_grpo import dr_grpo
from fastslow.slow.losses.grpo import grpo
from fastslow.slow.losses.gspo import gspo
from fastslow.slow.losses.kl import kl_penalty
from fastslow.slow.losses.weights import per_problem, per_sequence

LOSSES: dict[str, Loss] = {
    "cispo": Loss(cispo, per_problem),
    "grpo": Loss(grpo, per_sequence),
    "dapo": dapo,
    "dr_grpo": dr_grpo,
    "gspo": Loss(gspo, per_sequence),
}

__all__ = ["LOSSES", "Loss", "LossSettings", "TokenBatch", "kl_penalty"]
