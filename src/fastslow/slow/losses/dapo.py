"""DAPO: GRPO with a higher upper clip and all tokens of a batch weighing the same (arXiv 2503.14476, eq. 8)."""

from __future__ import annotations

from fastslow.slow.losses.base import Loss
from fastslow.slow.losses.grpo import grpo
from fastslow.slow.losses.weights import per_token

DAPO_CLIP_HIGH = 0.28
"""The paper's upper clip; set ``slow.clip_high`` to it."""

dapo = Loss(grpo, per_token)
