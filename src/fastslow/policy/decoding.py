"""Keys and values of the sampler: shared by context, copied per row only for the problem and the reply.

Rows are always sorted by context, so the rows of one context are a slice and meet its keys in one matrix product.
Shapes as in :mod:`fastslow.policy.tree_attention`; R rows under way, S slots of a row (problem + reply).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fastslow.policy.context_store import ContextStore, Prefix
from fastslow.policy.model import Policy
from fastslow.policy.tree_attention import (
    AttentionOptions,
    KeyValue,
    Rows,
    attention_plan,
    cap,
    window_allows,
)


def _spans(prefixes: Sequence[Prefix]) -> list[tuple[Prefix, int, int]]:
    """Runs of equal neighbours: (context, first row, end row)."""
    spans: list[tuple[Prefix, int, int]] = []
    for i, prefix in enumerate(prefixes):
        if spans and spans[-1][0] == prefix:
            spans[-1] = (prefix, spans[-1][1], i + 1)
        else:
            spans.append((prefix, i, i + 1))
    return spans


def _attend_spans(
    store: ContextStore,
    spans: Sequence[tuple[Prefix, int, int]],
    layer: int,
    q_HRLD: Tensor,
    own: KeyValue,
    allowed_RLS: Tensor,
    positions: tuple[Tensor, Tensor],
    options: AttentionOptions,
) -> Tensor:
    """Rows of each context against its stored keys and their own; ``positions`` are those of queries and own keys.

    The same as :func:`~fastslow.policy.tree_attention.attend_rows` span by span, without autograd: all rows share one
    softmax over [longest context + own], written in place, because a decoding step is many tiny operations.
    """
    query_RL, own_RS = positions
    if options.window is not None:
        allowed_RLS = allowed_RLS & window_allows(query_RL, own_RS, options.window)
    k_JRSD, v_JRSD = own
    H, R, L, D = q_HRLD.shape
    J, S = k_JRSD.shape[0], k_JRSD.shape[2]
    Q = H // J
    q = (q_HRLD * options.scaling).view(J, Q, R, L, D).transpose(1, 2).reshape(J, R, Q * L, D)
    shared = [store.get(prefix, layer, (k_JRSD[:, 0], v_JRSD[:, 0])) for prefix, _, _ in spans]
    C = max(k.shape[1] for k, _ in shared)
    scores = q.new_full((J, R, Q * L, C + S), float("-inf"), dtype=torch.float32)
    own_scores = torch.matmul(q, k_JRSD.transpose(-1, -2)).view(J, R, Q, L, S)
    own_scores = cap(own_scores.float(), options.softcap)
    scores[..., C:] = own_scores.masked_fill_(~allowed_RLS[None, :, None], float("-inf")).view(J, R, Q * L, S)
    for (prefix, a, b), (k, _) in zip(spans, shared, strict=True):
        if not prefix:
            continue
        part = torch.matmul(q[:, a:b].reshape(J, -1, D), k.transpose(-1, -2)).view(J, b - a, Q * L, -1)
        part = cap(part.float(), options.softcap)
        if options.window is not None:
            position = torch.arange(len(prefix), device=q.device).expand(b - a, -1)
            seen = window_allows(query_RL[a:b], position, options.window)
            part = part.view(J, b - a, Q, L, -1).masked_fill(~seen[None, :, None], float("-inf")).view_as(part)
        scores[:, a:b, :, : len(prefix)] = part
    weights = torch.softmax(scores, dim=-1).to(v_JRSD.dtype)
    output = torch.matmul(weights[..., C:], v_JRSD)
    for (prefix, a, b), (_, v) in zip(spans, shared, strict=True):
        if prefix:
            part = weights[:, a:b, :, : len(prefix)].reshape(J, -1, len(prefix))
            output[:, a:b] += torch.matmul(part, v).view(J, b - a, Q * L, -1)
    return output.view(J, R, Q, L, -1).transpose(1, 2).reshape(H, R, L, -1)


class _ProblemPlan:
    """Prefill of problems under stored contexts; keeps their keys and values as padded rows."""

    def __init__(self, store: ContextStore, prefixes: Sequence[Prefix], suffixes: Sequence[Prefix], device) -> None:
        self.store, self.spans = store, _spans(prefixes)
        self.rows = Rows([len(s) for s in suffixes], device)
        column = torch.arange(self.rows.length, device=device)
        depth = torch.tensor([len(p) for p in prefixes], device=device)
        self.position_RL = depth[:, None] + column[None]
        self.allowed = (column[:, None] >= column[None, :])[None].expand(self.rows.count, -1, -1)
        self.layers: dict[int, KeyValue] = {}

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, options: AttentionOptions) -> Tensor:
        own = self.layers[layer] = (self.rows.pad(k), self.rows.pad(v))
        positions = (self.position_RL, self.position_RL)
        output = _attend_spans(self.store, self.spans, layer, self.rows.pad(q), own, self.allowed, positions, options)
        return self.rows.unpad(output)


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
    )
    return rows, logits_PV[pairs]


def _with_room(x_JRSD: Tensor, slots: int) -> Tensor:
    return torch.nn.functional.pad(x_JRSD, (0, 0, 0, slots))


class DecodeRows:
    """The rows being decoded: their own keys and values, and how many slots of each row are filled."""

    def __init__(
        self, store: ContextStore, prefixes: list[Prefix], filled_R: Tensor, layers: dict[int, KeyValue]
    ) -> None:
        self.store, self.prefixes, self.filled_R, self.layers = store, prefixes, filled_R, layers
        self.spans = _spans(prefixes)
        self.depth_R = torch.tensor([len(p) for p in prefixes], device=filled_R.device)

    def step(self, policy: Policy, tokens: Sequence[int]) -> Tensor:
        """Feed one token a row; logits [R, V] of the next."""
        slots = next(iter(self.layers.values()))[0].shape[2]
        column = torch.arange(slots, device=policy.device)
        self.row = torch.arange(len(tokens), device=policy.device)
        self.allowed_RLS = (column[None, :] <= self.filled_R[:, None])[:, None, :]
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
        positions = (self.position_RL, self.own_position_RS)
        output = _attend_spans(
            self.store, self.spans, layer, q[:, :, None], (keys, values), self.allowed_RLS, positions, options
        )
        return output[:, :, 0]

    def keep(self, indices: Sequence[int]) -> DecodeRows:
        """These rows, in this order."""
        index = torch.tensor(list(indices), device=self.filled_R.device, dtype=torch.long)
        layers = {n: (k.index_select(1, index), v.index_select(1, index)) for n, (k, v) in self.layers.items()}
        return DecodeRows(self.store, [self.prefixes[i] for i in indices], self.filled_R[index], layers)

    @staticmethod
    def merge(first: DecodeRows, second: DecodeRows) -> DecodeRows:
        """All rows of both; the caller sorts them by context."""
        slots = max(next(iter(x.layers.values()))[0].shape[2] for x in (first, second))

        def join(a: Tensor, b: Tensor) -> Tensor:
            return torch.cat([_with_room(x, slots - x.shape[2]) for x in (a, b)], dim=1)

        layers = {n: (join(k, second.layers[n][0]), join(v, second.layers[n][1])) for n, (k, v) in first.layers.items()}
        filled = torch.cat([first.filled_R, second.filled_R])
        return DecodeRows(first.store, [*first.prefixes, *second.prefixes], filled, layers)
