"""Keys and values of the sampler: shared by context, copied per row only for the problem and the reply.

Rows are always sorted by context; how they meet the contexts' keys is in :mod:`fastslow.policy.shared_keys`.
Shapes as in :mod:`fastslow.policy.tree_attention`; R rows under way, S slots of a row (problem + reply).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fastslow.policy.context_store import ContextStore, Prefix
from fastslow.policy.model import Policy
from fastslow.policy.shared_keys import SharedKeys, Stacks, hidden_where
from fastslow.policy.tree_attention import AttentionOptions, KeyValue, Rows, attention_plan, window_allows


class _ProblemPlan:
    """Prefill of problems under stored contexts; keeps their keys and values as padded rows."""

    def __init__(self, store: ContextStore, prefixes: Sequence[Prefix], suffixes: Sequence[Prefix], device) -> None:
        self.shared = SharedKeys(store, prefixes, device)
        self.rows = Rows([len(s) for s in suffixes], device)
        column = torch.arange(self.rows.length, device=device)
        depth = torch.tensor([len(p) for p in prefixes], device=device)
        self.position_RL = depth[:, None] + column[None]
        self.hidden_1LL = hidden_where(column[:, None] < column[None, :])[None]
        self.layers: dict[int, KeyValue] = {}

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, options: AttentionOptions) -> Tensor:
        own = self.layers[layer] = (self.rows.pad(k), self.rows.pad(v))
        hidden = beyond_window(self.hidden_1LL, self.position_RL, self.position_RL, options)
        return self.rows.unpad(self.shared.attend(layer, self.rows.pad(q), own, hidden, self.position_RL, options))


def prefill_problems(
    policy: Policy,
    store: ContextStore,
    prefixes: Sequence[Prefix],
    suffixes: Sequence[Prefix],
    pair_of_row: Sequence[int],
    max_new_tokens: int,
) -> tuple[DecodeRows, Tensor]:
    """Compute each problem once; returns the rows ready to decode and logits [R, V] of their first token."""
    device = policy.device
    order = sorted(range(len(prefixes)), key=lambda i: prefixes[i])
    place = {old: new for new, old in enumerate(order)}
    prefixes, suffixes = [prefixes[i] for i in order], [suffixes[i] for i in order]
    plan = _ProblemPlan(store, prefixes, suffixes, device)
    ids = torch.tensor([t for s in suffixes for t in s], device=device)
    with attention_plan(plan):
        hidden_ND = policy.sampling_hidden(ids, plan.position_RL[plan.rows.valid_RL])
    ends = torch.cumsum(torch.tensor([len(s) for s in suffixes], device=device), 0) - 1
    logits_PV = policy.sampling_head(hidden_ND[ends])
    pairs = torch.tensor([place[p] for p in pair_of_row], device=device)
    layers = {
        layer: (_with_room(k[:, pairs], max_new_tokens), _with_room(v[:, pairs], max_new_tokens))
        for layer, (k, v) in plan.layers.items()
    }
    rows = DecodeRows(
        store,
        [prefixes[p] for p in pairs.tolist()],
        torch.tensor([len(suffixes[p]) for p in pairs.tolist()], device=device),
        layers,
        plan.shared.stacks,
    )
    return rows, logits_PV[pairs]


def beyond_window(hidden_RLS: Tensor, query_RL: Tensor, key_RS: Tensor, options: AttentionOptions) -> Tensor:
    """What to add to scores: ``hidden_RLS``, and minus infinity outside of a sliding window, by positions."""
    if options.window is None:
        return hidden_RLS
    return hidden_RLS.masked_fill(~window_allows(query_RL, key_RS, options.window), float("-inf"))


def _with_room(x_JRSD: Tensor, slots: int) -> Tensor:
    return torch.nn.functional.pad(x_JRSD, (0, 0, 0, slots))


class DecodeRows:
    """The rows being decoded: their own keys and values, and how many slots of each row are filled."""

    def __init__(
        self,
        store: ContextStore,
        prefixes: list[Prefix],
        filled_R: Tensor,
        layers: dict[int, KeyValue],
        stacks: Stacks | None = None,
    ) -> None:
        self.store, self.prefixes, self.filled_R, self.layers = store, prefixes, filled_R, layers
        self.shared = SharedKeys(store, prefixes, filled_R.device, stacks)
        self.depth_R = torch.tensor([len(p) for p in prefixes], device=filled_R.device)

    def step(self, policy: Policy, tokens: Sequence[int]) -> Tensor:
        """Feed one token a row; logits [R, V] of the next."""
        slots = next(iter(self.layers.values()))[0].shape[2]
        column = torch.arange(slots, device=policy.device)
        self.row = torch.arange(len(tokens), device=policy.device)
        self.hidden_R1S = hidden_where(column[None, :] > self.filled_R[:, None])[:, None, :]
        self.position_RL = (self.depth_R + self.filled_R)[:, None]
        self.own_position_RS = self.depth_R[:, None] + column[None]
        with attention_plan(self):
            hidden_RD = policy.sampling_hidden(torch.tensor(tokens, device=policy.device), self.position_RL[:, 0])
        self.filled_R = self.filled_R + 1
        return policy.sampling_head(hidden_RD)

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, options: AttentionOptions) -> Tensor:
        keys, values = self.layers[layer]
        keys[:, self.row, self.filled_R] = k
        values[:, self.row, self.filled_R] = v
        hidden = beyond_window(self.hidden_R1S, self.position_RL, self.own_position_RS, options)
        q_HRLD = q[:, :, None]
        return self.shared.attend(layer, q_HRLD, (keys, values), hidden, self.position_RL, options)[:, :, 0]

    def keep(self, indices: Sequence[int]) -> DecodeRows:
        """These rows, in this order."""
        index = torch.tensor(list(indices), device=self.filled_R.device, dtype=torch.long)
        layers = {n: (k.index_select(1, index), v.index_select(1, index)) for n, (k, v) in self.layers.items()}
        prefixes = [self.prefixes[i] for i in indices]
        return DecodeRows(self.store, prefixes, self.filled_R[index], layers, self.shared.stacks)

    @staticmethod
    def merge(first: DecodeRows, second: DecodeRows) -> DecodeRows:
        """All rows of both; the caller sorts them by context."""
        slots = max(next(iter(x.layers.values()))[0].shape[2] for x in (first, second))

        def join(a: Tensor, b: Tensor) -> Tensor:
            return torch.cat([_with_room(x, slots - x.shape[2]) for x in (a, b)], dim=1)

        layers = {n: (join(k, second.layers[n][0]), join(v, second.layers[n][1])) for n, (k, v) in first.layers.items()}
        filled = torch.cat([first.filled_R, second.filled_R])
        return DecodeRows(first.store, [*first.prefixes, *second.prefixes], filled, layers)
