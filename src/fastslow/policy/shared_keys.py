"""Attention of many rows to the contexts that they share: one matrix product for all contexts of a batch.

A decoding step is many tiny operations, so contexts are stacked, padded to the longest, and rows laid out by context,
padded to the most that one has. Shapes as in :mod:`fastslow.policy.tree_attention`; R rows of M queries each (heads of
a group by tokens), G contexts of a stack, W rows of each, C tokens of the longest.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fastslow.policy.context_store import ContextStore, Prefix
from fastslow.policy.tree_attention import AttentionOptions, KeyValue, cap, window_allows

Span = tuple[Prefix, int, int]
"""A context, and the first and the end row of those under it."""
Stacks = dict[tuple[Prefix, ...], dict[int, KeyValue]]
"""Contexts side by side -> layer -> their keys and values [J, G, C, D]."""


def spans_of(prefixes: Sequence[Prefix]) -> list[Span]:
    """Runs of equal neighbours."""
    spans: list[Span] = []
    for i, prefix in enumerate(prefixes):
        if spans and spans[-1][0] == prefix:
            spans[-1] = (prefix, spans[-1][1], i + 1)
        else:
            spans.append((prefix, i, i + 1))
    return spans


class SharedKeys:
    """The contexts of a batch whose rows are sorted by context. ``stacks``: those of the batch before, to be reused."""

    def __init__(
        self, store: ContextStore, prefixes: Sequence[Prefix], device: torch.device, stacks: Stacks | None = None
    ) -> None:
        groups = _group([span for span in spans_of(prefixes) if span[0]])
        self.groups = [_Group(spans, len(prefixes), device) for spans in groups]
        self.stacks: Stacks = {g.contexts: (stacks or {}).get(g.contexts, {}) for g in self.groups}
        self._store = store

    def attend(
        self,
        layer: int,
        q_HRLD: Tensor,
        own: KeyValue,
        hidden_RLS: Tensor,
        query_RL: Tensor,
        options: AttentionOptions,
    ) -> Tensor:
        """Joint softmax over each row's context and its own keys [J, R, S, D] -> [H, R, L, D]; no autograd.

        ``hidden_RLS`` is added to the scores of the own keys, 0 or minus infinity, and leaves each query at least one
        key; ``query_RL``: positions.
        """
        k_JRSD, v_JRSD = own
        H, R, L, D = q_HRLD.shape
        J, S = k_JRSD.shape[0], k_JRSD.shape[2]
        Q = H // J
        q = (q_HRLD * options.scaling).view(J, Q, R, L, D).transpose(1, 2).reshape(J, R, Q * L, D)
        # In a narrow dtype the scores stay in it: softmax reckons in float32 inside.
        scores = cap(torch.matmul(q, k_JRSD.transpose(-1, -2)), options.softcap)
        scores.view(J, R, Q, L, S).add_(hidden_RLS[None, :, None])
        for group in self.groups:
            shared = group.scores(q, self._stack(group, layer, own)[0], query_RL, options)
            scores = torch.cat([shared, scores], dim=-1)
        weights = torch.softmax(scores, dim=-1).to(v_JRSD.dtype)
        output, end = torch.matmul(weights[..., -S:], v_JRSD), weights.shape[-1] - S
        for group in self.groups:
            start = end - group.longest
            group.add_values(output, weights[..., start:end], self._stack(group, layer, own)[1])
            end = start
        return output.view(J, R, Q, L, -1).transpose(1, 2).reshape(H, R, L, -1)

    def _stack(self, group: _Group, layer: int, like: KeyValue) -> KeyValue:
        layers = self.stacks[group.contexts]
        if layer not in layers:
            layers[layer] = group.stack([self._store.get(p, layer, like) for p in group.contexts])
        return layers[layer]


class _Group:
    """Contexts of like lengths with like numbers of rows: padding at most doubles the work."""

    def __init__(self, spans: Sequence[Span], rows: int, device: torch.device) -> None:
        self.contexts = tuple(prefix for prefix, _, _ in spans)
        self.longest = max(map(len, self.contexts))
        counts = [end - start for _, start, end in spans]
        self.wide, self.rows = max(counts), rows
        whole = sum(counts) == rows and [s for _, s, _ in spans] == list(range(0, rows, self.wide))
        self._row = self._slot = None
        if not whole or set(counts) != {self.wide}:
            pairs = [
                (r, g * self.wide + r - start) for g, (_, start, end) in enumerate(spans) for r in range(start, end)
            ]
            self._row, self._slot = torch.tensor(pairs, device=device).unbind(1)
        length_R = torch.zeros(rows, dtype=torch.long, device=device)
        for prefix, start, end in spans:
            length_R[start:end] = len(prefix)
        self._position_C = torch.arange(self.longest, device=device)
        beyond_RC = self._position_C >= length_R[:, None]
        self._hidden_RC = hidden_where(beyond_RC) if bool(beyond_RC.any()) else None

    def stack(self, stored: Sequence[KeyValue]) -> KeyValue:
        keys, values = (
            torch.stack([_padded(x, self.longest) for x in side], dim=1) for side in zip(*stored, strict=True)
        )
        return keys, values

    def scores(self, q_JRMD: Tensor, k_JGCD: Tensor, query_RL: Tensor, options: AttentionOptions) -> Tensor:
        """[J, R, M, C]; minus infinity where a row has no such key."""
        (J, R, M, _), L = q_JRMD.shape, query_RL.shape[1]
        product = torch.matmul(self._laid_out(q_JRMD), k_JGCD.transpose(-1, -2))
        scores = cap(self._rows(product, M), options.softcap)
        if self._hidden_RC is not None:
            scores += self._hidden_RC[None, :, None]
        if options.window is not None:
            seen = window_allows(query_RL, self._position_C.expand(R, -1), options.window)
            scores.view(J, R, M // L, L, -1).masked_fill_(~seen[None, :, None], float("-inf"))
        return scores

    def add_values(self, output_JRMD: Tensor, weights_JRMC: Tensor, v_JGCD: Tensor) -> None:
        product = torch.matmul(self._laid_out(weights_JRMC), v_JGCD)
        output_JRMD += self._rows(product, output_JRMD.shape[2])

    def _laid_out(self, x_JRMD: Tensor) -> Tensor:
        """[J, R, M, D] -> [J, G, W·M, D]."""
        J, _, M, D = x_JRMD.shape
        if self._slot is not None:
            laid = x_JRMD.new_zeros(J, len(self.contexts) * self.wide, M, D)
            x_JRMD = laid.index_copy_(1, self._slot, x_JRMD.index_select(1, self._row))
        return x_JRMD.reshape(J, len(self.contexts), self.wide * M, D)

    def _rows(self, x_JGXD: Tensor, M: int) -> Tensor:
        """[J, G, W·M, D] -> [J, R, M, D]; zeros for rows of no context here."""
        J, D = x_JGXD.shape[0], x_JGXD.shape[-1]
        laid = x_JGXD.view(J, len(self.contexts) * self.wide, M, D)
        if self._slot is None:
            return laid
        picked = laid.index_select(1, self._slot)
        if len(self._slot) == self.rows:
            return picked
        return picked.new_zeros(J, self.rows, M, D).index_copy_(1, self._row, picked)


def hidden_where(mask: Tensor) -> Tensor:
    """Boolean -> what to add to scores: minus infinity where true. On a CPU faster than filling by a broadcast mask."""
    return torch.zeros(mask.shape, device=mask.device).masked_fill_(mask, float("-inf"))


def _group(spans: Sequence[Span]) -> list[list[Span]]:
    """Split so that no group's padding is more than its content; the largest first, in the rows' order inside."""
    groups: list[list[Span]] = []
    for span in sorted(spans, key=_cells, reverse=True):
        for group in groups:
            together = [*group, span]
            wide, longest = max(e - s for _, s, e in together), max(len(p) for p, _, _ in together)
            if len(together) * wide * longest <= 2 * sum(map(_cells, together)):
                group.append(span)
                break
        else:
            groups.append([span])
    return [sorted(group, key=lambda span: span[1]) for group in groups]


def _cells(span: Span) -> int:
    prefix, start, end = span
    return len(prefix) * (end - start)


def _padded(x_JCD: Tensor, length: int) -> Tensor:
    return torch.nn.functional.pad(x_JCD, (0, 0, 0, length - x_JCD.shape[1]))
