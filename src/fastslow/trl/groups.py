"""Groups across processes: which context a rollout gets, and what advantage and weight its tokens get.

Pure functions over the whole batch of a slow step, which every process holds alike; each takes its slice afterwards.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fastslow.errors import EngineError
from fastslow.slow.advantages import group_advantages
from fastslow.slow.losses import LossSettings
from fastslow.slow.losses.weights import constant, per_problem, per_sequence, per_token
from fastslow.types import Group, Rollout, group_rollouts

TOKEN_WEIGHTS = {"problem": per_problem, "sequence": per_sequence, "token": per_token, "constant": constant}
"""How token losses add up, by the name in :class:`fastslow.trl.FSTConfig`."""


def context_index(position: int, group_size: int, contexts: int) -> int:
    """The context of the rollout at ``position`` of the whole batch: G/K in a row under each of K contexts.

    >>> [context_index(i, 4, 2) for i in range(8)]
    [0, 0, 1, 1, 0, 0, 1, 1]
    """
    return (position % group_size) * contexts // group_size


def check_positions(problem_ids: Sequence[str], group_size: int) -> None:
    """Raise :class:`EngineError` unless the batch is one problem after the other, ``group_size`` times each.

    The whole batch, over all processes: a group that spans processes is still one group.
    """
    if len(problem_ids) % group_size:
        raise EngineError(f"a batch of {len(problem_ids)} rollouts is not made of groups of exactly {group_size}")
    seen: set[str] = set()
    for start in range(0, len(problem_ids), group_size):
        members = problem_ids[start : start + group_size]
        if len(set(members)) != 1 or members[0] in seen:
            raise EngineError(
                f"positions {start} to {start + group_size - 1} hold problems {sorted(set(members))}, expected one "
                f"problem exactly {group_size} times; was the order of the prompts changed?"
            )
        seen.add(members[0])


@dataclass(frozen=True, slots=True)
class Weighed:
    """Over the S rollouts of a whole batch: advantage and weight of each token of a rollout.

    ``loss = sum over tokens of weights_S * loss_T / tokens``. Weights average 1 over the ``tokens`` that count.
    """

    groups: tuple[Group, ...]
    advantages_S: Tensor
    weights_S: Tensor
    tokens: float

    @property
    def is_flat(self) -> bool:
        """Nothing to learn from: every group is flat, or all of it is masked."""
        return not bool((self.weights_S > 0).any())


def weigh(
    rollouts: Sequence[Rollout],
    counted: Sequence[bool],
    group_size: int,
    *,
    average: str,
    max_tokens: int,
    divide_by_std: bool = True,
) -> Weighed:
    """Advantages over each problem's G rollouts, and token weights by ``average`` (a key of ``TOKEN_WEIGHTS``).

    As in the local engine: flat groups, and rollouts that are not ``counted``, weigh nothing and count in no divisor.
    """
    check_positions([r.problem_id for r in rollouts], group_size)
    groups = group_rollouts(rollouts, group_size)
    advantages = torch.cat([group_advantages(g.rewards, divide_by_std) for g in groups])
    kept = [
        i for i, r in enumerate(rollouts) if counted[i] and r.completion_ids and not groups[i // group_size].is_flat
    ]
    weights = torch.zeros(len(rollouts))
    if not kept:
        return Weighed(tuple(groups), advantages, weights, 1.0)
    lengths = torch.tensor([len(rollouts[i].completion_ids) for i in kept])
    sequence_T = torch.arange(len(kept)).repeat_interleave(lengths)
    group_T = torch.tensor([i // group_size for i in kept])[sequence_T]
    weights_T = TOKEN_WEIGHTS[average](sequence_T, group_T, LossSettings(max_tokens=max_tokens))
    first = torch.cumsum(lengths, 0) - lengths  # every token of a rollout has one weight
    tokens = float(lengths.sum())
    weights[kept] = weights_T[first] * tokens
    return Weighed(tuple(groups), advantages, weights, tokens)
