"""Packing rollouts into a forest of tokens for one forward with gradient through the shared parts.

Layout of the packed row: all contexts, then all problems (once per context), then all completions but their last
token, which predicts nothing. So N tokens are computed where an unshared batch computes G times as many.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fastslow.policy.context_store import ContextStore
from fastslow.policy.tree_attention import AttentionOptions, KeyValue, Rows, attend_context, attend_rows, window_allows


@dataclass(frozen=True, slots=True)
class TokenSequence:
    """One rollout's tokens: prompt (its first ``shared`` are the context) and completion."""

    prompt_ids: tuple[int, ...]
    shared: int
    completion_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Family:
    """Padded rows of one level of the tree, sorted by context; ``spans[c]`` are the rows of context c."""

    rows: Rows
    spans: tuple[tuple[int, int], ...]
    allowed_RLS: Tensor
    position_RL: Tensor
    own_position_RS: Tensor


class Tree:
    """The packed forest of several rollouts; an :class:`AttentionPlan` for the training forward.

    ``input_ids`` and ``position_ids`` are [N]. ``predict_T`` [T] indexes the packed position that predicts each
    completion token; ``target_T`` [T] are those tokens; both run over the sequences in the order given, T being the
    sum of the completions' lengths.
    """

    def __init__(
        self,
        sequences: Sequence[TokenSequence],
        device: torch.device | str = "cpu",
        stored: ContextStore | None = None,
    ) -> None:
        """``stored`` holds the contexts' keys and values as constants: they are then not part of the packed row."""
        all_contexts, problems, order = _index(sequences)
        self._stored, self._contexts = stored, all_contexts
        contexts = all_contexts if stored is None else [()] * len(all_contexts)
        context_end = sum(map(len, contexts))
        problem_start = _spans([len(p) for _, p in problems], context_end)
        problem_end = context_end + sum(len(p) for _, p in problems)
        tails = [sequences[i].completion_ids[:-1] for i, _ in order]
        tail_start = _spans([len(t) for t in tails], problem_end)

        ids = [t for c in contexts for t in c] + [t for _, p in problems for t in p] + [t for s in tails for t in s]
        positions: list[int] = [i for c in contexts for i in range(len(c))]
        depth = [len(all_contexts[c]) for c, _ in problems]
        positions += [d + i for d, (_, p) in zip(depth, problems, strict=True) for i in range(len(p))]
        tail_depth = [depth[p] + len(problems[p][1]) for _, p in order]
        positions += [d + i for d, t in zip(tail_depth, tails, strict=True) for i in range(len(t))]
        self.input_ids = torch.tensor(ids, device=device)
        self.position_ids = torch.tensor(positions, device=device)
        self.max_position = max(positions, default=0)

        predict: list[list[int]] = [[] for _ in sequences]
        for (i, p), (start, end) in zip(order, tail_start, strict=True):
            predict[i] = [problem_start[p][1] - 1, *range(start, end)]
        self.predict_T = torch.tensor([t for row in predict for t in row], device=device)
        self.target_T = torch.tensor([t for s in sequences for t in s.completion_ids], device=device)

        self._problems = _problem_family(problems, depth, len(contexts), device)
        self._completions = _completion_family(problems, depth, order, tails, len(contexts), device)
        self._sizes = [*map(len, contexts), problem_end - context_end, len(ids) - problem_end]
        self._problem_of_row = torch.tensor([p for (_, p), t in zip(order, tails, strict=True) if t], device=device)

    @property
    def tokens(self) -> int:
        """N, the tokens that the forward computes."""
        return self.input_ids.numel()

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, options: AttentionOptions) -> Tensor:
        # split, not slices: backward of a split is one concatenation, that of each slice a whole tensor of zeros
        queries, keys, values = (x.split(self._sizes, dim=1) for x in (q, k, v))
        contexts = len(self._contexts)
        if self._stored is None:
            shared = list(zip(keys[:contexts], values[:contexts], strict=True))
            spans = zip(queries, shared, strict=False)
            outputs = [attend_context(query, *kv, options) for query, kv in spans if query.shape[1]]
        else:
            shared = [self._stored.get(c, layer, (keys[contexts], values[contexts])) for c in self._contexts]
            outputs = []
        problems, tails = self._problems, self._completions
        own = problems.rows.pad(keys[contexts]), problems.rows.pad(values[contexts])
        outputs.append(_attend_family(problems, queries[contexts], shared, own, options))
        if tails is not None:
            tail_k = torch.cat([own[0][:, self._problem_of_row], tails.rows.pad(keys[-1])], dim=2)
            tail_v = torch.cat([own[1][:, self._problem_of_row], tails.rows.pad(values[-1])], dim=2)
            outputs.append(_attend_family(tails, queries[-1], shared, (tail_k, tail_v), options))
        return torch.cat(outputs, dim=1)


def _attend_family(
    family: _Family, q_HnD: Tensor, shared: Sequence[KeyValue], own: KeyValue, options: AttentionOptions
) -> Tensor:
    allowed = family.allowed_RLS
    if options.window is not None:
        allowed = allowed & window_allows(family.position_RL, family.own_position_RS, options.window)
    counts = [b - a for a, b in family.spans]
    parts = (x.split(counts, dim=1) for x in (family.rows.pad(q_HnD), *own))
    outputs = []
    for (a, b), (k, v), q, own_k, own_v in zip(family.spans, shared, *parts, strict=True):
        if b == a:
            continue
        shared_allowed = None
        if options.window is not None:
            context_position = torch.arange(k.shape[1], device=k.device).expand(b - a, -1)
            shared_allowed = window_allows(family.position_RL[a:b], context_position, options.window)
        outputs.append(attend_rows(q, (k, v), (own_k, own_v), allowed[a:b], shared_allowed, options))
    return family.rows.unpad(torch.cat(outputs, dim=1))


def _index(
    sequences: Sequence[TokenSequence],
) -> tuple[list[tuple[int, ...]], list[tuple[int, tuple[int, ...]]], list[tuple[int, int]]]:
    """Distinct contexts; distinct (context, problem) pairs sorted by context; (sequence, pair) sorted by pair."""
    contexts: dict[tuple[int, ...], int] = {}
    pairs: dict[tuple[int, tuple[int, ...]], int] = {}
    for s in sequences:
        if len(s.prompt_ids) <= s.shared or not s.completion_ids:
            raise ValueError("every rollout needs a problem of at least one token and a completion of at least one")
        c = contexts.setdefault(s.prompt_ids[: s.shared], len(contexts))
        pairs.setdefault((c, s.prompt_ids[s.shared :]), len(pairs))
    problems = sorted(pairs, key=lambda pair: pair[0])
    place = {pair: i for i, pair in enumerate(problems)}
    order = [(i, place[contexts[s.prompt_ids[: s.shared]], s.prompt_ids[s.shared :]]) for i, s in enumerate(sequences)]
    return list(contexts), problems, sorted(order, key=lambda pair: (pair[1], pair[0]))


def _spans(lengths: Sequence[int], start: int) -> list[tuple[int, int]]:
    spans = []
    for length in lengths:
        spans.append((start, start + length))
        start += length
    return spans


def _row_spans(context_of_row: Sequence[int], contexts: int) -> tuple[tuple[int, int], ...]:
    counts = [0] * contexts
    for c in context_of_row:
        counts[c] += 1
    return tuple(_spans(counts, 0))


def _causal(rows: Rows, device: torch.device | str) -> Tensor:
    """[R, L, L]: causal among a row's valid tokens; a padded query may see the first key, so that softmax is finite."""
    column = torch.arange(rows.length, device=device)
    allowed = (column[:, None] >= column[None, :])[None] & rows.valid_RL[:, None, :]
    allowed[:, :, 0] = True
    return allowed


def _problem_family(
    problems: Sequence[tuple[int, tuple[int, ...]]],
    depth: Sequence[int],
    contexts: int,
    device: torch.device | str,
) -> _Family:
    rows = Rows([len(p) for _, p in problems], device)
    position = torch.tensor(depth, device=device)[:, None] + torch.arange(rows.length, device=device)[None]
    spans = _row_spans([c for c, _ in problems], contexts)
    return _Family(rows, spans, _causal(rows, device), position, position)


def _completion_family(
    problems: Sequence[tuple[int, tuple[int, ...]]],
    depth: Sequence[int],
    order: Sequence[tuple[int, int]],
    tails: Sequence[tuple[int, ...]],
    contexts: int,
    device: torch.device | str,
) -> _Family | None:
    """Rows of completions with at least two tokens; their own keys are the problem's (padded), then their own."""
    kept = [(p, len(t)) for (_, p), t in zip(order, tails, strict=True) if t]
    if not kept:
        return None
    rows = Rows([n for _, n in kept], device)
    problem_length = torch.tensor([len(problems[p][1]) for p, _ in kept], device=device)
    longest = max(len(p) for _, p in problems)
    column = torch.arange(longest, device=device)
    problem_allowed = (column[None, :] < problem_length[:, None])[:, None, :].expand(-1, rows.length, -1)
    start = torch.tensor([depth[p] for p, _ in kept], device=device)
    position = (start + problem_length)[:, None] + torch.arange(rows.length, device=device)[None]
    own_position = torch.cat([start[:, None] + column[None], position], dim=1)
    allowed = torch.cat([problem_allowed, _causal(rows, device)], dim=2)
    spans = _row_spans([problems[p][0] for p, _ in kept], contexts)
    return _Family(rows, spans, allowed, position, own_position)
