"""Drift: KL(π_train ‖ π_base), exact over the vocabulary at every sampled position, apart from any loss."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from fastslow.policy.model import Policy
from fastslow.policy.plain import plain_hidden
from fastslow.policy.tree import TokenSequence, Tree
from fastslow.policy.tree_attention import attention_plan
from fastslow.types import Rollout

_ROWS = 256  # positions whose whole distributions are held at once


@torch.no_grad()
def measure_drift(policy: Policy, rollouts: Sequence[Rollout]) -> float:
    """Mean KL(π_train ‖ π_base) in nats per token, on tokens that π_train sampled on held-out prompts.

    Needs the base weights (:meth:`Policy.keep_base`, or :meth:`Policy.attach_base`).
    """
    sequences = [TokenSequence(r.prompt_ids, r.shared, r.completion_ids) for r in rollouts]
    trained, base = _hidden(policy, sequences, base=False), _hidden(policy, sequences, base=True)
    total, count = 0.0, trained.shape[0]
    for start in range(0, count, _ROWS):
        rows = slice(start, start + _ROWS)
        log_p = torch.log_softmax(policy.head(trained[rows]), -1)
        log_q = torch.log_softmax(policy.base_head(base[rows]), -1)
        total += float((log_p.exp() * (log_p - log_q)).sum(-1).clamp_min(0.0).sum())
    return total / max(1, count)


def _hidden(policy: Policy, sequences: Sequence[TokenSequence], *, base: bool) -> torch.Tensor:
    if not policy.shares_prefixes:
        return plain_hidden(policy, sequences, base=base)[0]
    tree = Tree(sequences, policy.device)
    with attention_plan(tree):
        hidden = policy.base_hidden if base else policy.hidden
        return hidden(tree.input_ids, tree.position_ids)[tree.predict_T]
