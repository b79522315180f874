"""Drift: KL(π_train ‖ π_base), exact over the vocabulary at every sampled position, apart from any loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from fastslow.evaluation.intervals import Interval, ratio_ci
from fastslow.policy.model import Policy
from fastslow.policy.plain import plain_hidden
from fastslow.policy.tree import TokenSequence, Tree
from fastslow.policy.tree_attention import attention_plan
from fastslow.types import Rollout

_ROWS = 256  # positions whose whole distributions are held at once
_ROLLOUTS = 64  # rollouts of one forward


@dataclass(frozen=True, slots=True)
class Drift:
    """``per_problem``: problem id -> (sum of KL in nats, tokens), over that problem's rollouts."""

    per_problem: dict[str, tuple[float, int]]

    @property
    def mean(self) -> float:
        """Nats per token."""
        return sum(kl for kl, _ in self.per_problem.values()) / max(1, self.tokens)

    @property
    def tokens(self) -> int:
        return sum(count for _, count in self.per_problem.values())


def drift_ci(per_seed: Sequence[Drift], level: float = 0.95, seed: int = 0) -> Interval:
    """Interval of the mean drift in nats per token, over seeds and problems; tokens of a problem stay together."""
    return ratio_ci([tuple(zip(*d.per_problem.values(), strict=True)) for d in per_seed], level, seed)


def measure_drift(policy: Policy, rollouts: Sequence[Rollout]) -> float:
    """Mean KL(π_train ‖ π_base) in nats per token, on tokens that π_train sampled on held-out prompts.

    Needs the base weights (:meth:`Policy.keep_base`, or :meth:`Policy.attach_base`).
    """
    return drift_by_problem(policy, rollouts).mean


@torch.no_grad()
def drift_by_problem(policy: Policy, rollouts: Sequence[Rollout]) -> Drift:
    """As :func:`measure_drift`, kept apart by problem."""
    sums: dict[str, tuple[float, int]] = {}
    for start in range(0, len(rollouts), _ROLLOUTS):
        part = rollouts[start : start + _ROLLOUTS]
        kl_T = _token_kl(policy, [TokenSequence(r.prompt_ids, r.shared, r.completion_ids) for r in part])
        for rollout, kl in zip(part, kl_T.split([len(r.completion_ids) for r in part]), strict=True):
            total, count = sums.get(rollout.problem_id, (0.0, 0))
            sums[rollout.problem_id] = (total + float(kl.double().sum()), count + len(kl))
    return Drift(sums)


def _token_kl(policy: Policy, sequences: Sequence[TokenSequence]) -> torch.Tensor:
    """KL at each completion token [T], over the sequences in the order given."""
    trained, base = _hidden(policy, sequences, base=False), _hidden(policy, sequences, base=True)
    parts = []
    for start in range(0, trained.shape[0], _ROWS):
        rows = slice(start, start + _ROWS)
        log_p = torch.log_softmax(policy.head(trained[rows]), -1)
        log_q = torch.log_softmax(policy.base_head(base[rows]), -1)
        parts.append((log_p.exp() * (log_p - log_q)).sum(-1).clamp_min(0.0))
    return torch.cat(parts)


def _hidden(policy: Policy, sequences: Sequence[TokenSequence], *, base: bool) -> torch.Tensor:
    if not policy.shares_prefixes:
        return plain_hidden(policy, sequences, base=base)[0]
    tree = Tree(sequences, policy.device)
    with attention_plan(tree):
        hidden = policy.base_hidden if base else policy.hidden
        return hidden(tree.input_ids, tree.position_ids)[tree.predict_T]
