"""Continuous batching over shared prefixes: each context is prefilled once per weights step, each problem once per
context, and every row decodes against keys and values that it shares.

Each sample draws from its own random stream (request seed, sample index) by inverse CDF, one uniform number a token,
so its draws don't depend on its neighbours. The same requests in the same order give the same text on CPU.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fastslow.config import SamplingConfig
from fastslow.policy.context_store import prefill_contexts
from fastslow.policy.decoding import DecodeRows, prefill_problems
from fastslow.policy.model import Policy
from fastslow.policy.plain_sampler import PlainSampler
from fastslow.policy.sampling import RowSampler, SampleRow
from fastslow.types import Completion, FinishReason, Request

Results = list[list[Completion | None]]


def build_sampler(policy: Policy, config: SamplingConfig) -> RowSampler:
    """The sharing sampler, or the plain one where the model's attention can't share."""
    return TreeSampler(policy, config) if policy.shares_prefixes else PlainSampler(policy, config)


class TreeSampler(RowSampler):
    """The :class:`~fastslow.policy.base.Sampler` of the local engine."""

    def __init__(self, policy: Policy, config: SamplingConfig) -> None:
        super().__init__(policy, config)
        self._store = policy.contexts

    @torch.inference_mode()
    def sample(self, requests: Sequence[Request]) -> list[list[Completion]]:
        """Completions [len(requests)][n], drawn under the current weights."""
        results: Results = [[None] * r.n for r in requests]
        waiting = self.rows(requests)
        waiting.reverse()  # popped from the end, so requests start in the order given
        self._store.refresh(self.policy.weights_step)
        batch: DecodeRows | None = None
        active: list[SampleRow] = []
        while waiting or active:
            if waiting and len(active) <= self.config.batch_size // 2:
                joined = self._take(waiting, self.config.batch_size - len(active))
                fresh, logits_RV = self._prefill(joined)
                joined, fresh = self._advance(joined, fresh, logits_RV, results)
                active, batch = _join(active, batch, joined, fresh)
                continue
            assert batch is not None
            logits_RV = batch.step(self.policy, [r.completion_ids[-1] for r in active])
            active, batch = self._advance(active, batch, logits_RV, results)
        return [[c for c in row if c is not None] for row in results]

    def _take(self, waiting: list[SampleRow], room: int) -> list[SampleRow]:
        """The next rows that fit; a request's rows stay together, so that its prompt is prefilled once."""
        taken: list[SampleRow] = []
        while waiting and len(taken) < room:
            size = 1
            while size < len(waiting) and waiting[-1 - size].request == waiting[-1].request:
                size += 1
            if taken and len(taken) + size > room:
                break
            taken += [waiting.pop() for _ in range(min(size, room))]
        return sorted(taken, key=lambda r: r.prefix)

    def _prefill(self, rows: list[SampleRow]) -> tuple[DecodeRows, Tensor]:
        prefill_contexts(self.policy, self._store, [r.prefix for r in rows])
        pairs: dict[tuple[int, ...], SampleRow] = {}
        for row in rows:
            pairs.setdefault(row.prompt_ids, row)
        place = {prompt: i for i, prompt in enumerate(pairs)}
        prefixes = [r.prefix for r in pairs.values()]
        suffixes = [r.prompt_ids[r.shared :] for r in pairs.values()]
        pair_of_row = [place[r.prompt_ids] for r in rows]
        return prefill_problems(self.policy, self._store, prefixes, suffixes, pair_of_row, self.config.max_new_tokens)

    def _advance(
        self, rows: list[SampleRow], batch: DecodeRows, logits_RV: Tensor, results: Results
    ) -> tuple[list[SampleRow], DecodeRows]:
        """Draw one token for each row; finished rows leave the batch."""
        tokens, logprobs = self.draw(rows, logits_RV)
        kept: list[int] = []
        for i, row in enumerate(rows):
            reason: FinishReason | None = self.append(row, tokens[i], logprobs[i])
            if reason is None:
                kept.append(i)
            else:
                results[row.request][row.sample] = self.completion(row, reason)
        if len(kept) < len(rows):
            batch = batch.keep(kept)
        return [rows[i] for i in kept], batch


def _join(
    active: list[SampleRow], batch: DecodeRows | None, joined: list[SampleRow], fresh: DecodeRows
) -> tuple[list[SampleRow], DecodeRows]:
    if batch is None or not active:
        return joined, fresh
    rows = [*active, *joined]
    order = sorted(range(len(rows)), key=lambda i: rows[i].prefix)
    return [rows[i] for i in order], DecodeRows.merge(batch, fresh).keep(order)
