"""The sampler for models whose attention can't take a shared cache: left-padded rows and the model's own cache."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fastslow.policy.model import causal_lm, head_logits
from fastslow.policy.sampling import RowSampler, SampleRow
from fastslow.types import Completion, Request


class PlainSampler(RowSampler):
    """Same requests, same random streams and same numbers to rounding as the sharing sampler; nothing is shared."""

    @torch.inference_mode()
    def sample(self, requests: Sequence[Request]) -> list[list[Completion]]:
        rows = self.rows(requests)
        results: list[list[Completion | None]] = [[None] * r.n for r in requests]
        for start in range(0, len(rows), self.config.batch_size):
            for row, reason in self._decode(rows[start : start + self.config.batch_size]):
                results[row.request][row.sample] = self.completion(row, reason)
        return [[c for c in row if c is not None] for row in results]

    def _decode(self, rows: list[SampleRow]) -> list:
        device, longest = self.policy.device, max(len(r.prompt_ids) for r in rows)
        padding = [longest - len(r.prompt_ids) for r in rows]
        ids = torch.tensor([[0] * p + list(r.prompt_ids) for p, r in zip(padding, rows, strict=True)], device=device)
        mask = torch.tensor([[0] * p + [1] * (longest - p) for p in padding], device=device)
        cache, finished, ended = None, [], [False] * len(rows)
        while not all(ended):
            logits_RV, cache = self._forward(ids, mask, cache)
            tokens, logprobs = self.draw(rows, logits_RV)
            for i, row in enumerate(rows):
                if not ended[i]:
                    reason = self.append(row, tokens[i], logprobs[i])
                    if reason is not None:
                        ended[i] = True
                        finished.append((row, reason))
            ids = torch.tensor(tokens, device=device)[:, None]
            mask = torch.cat([mask, mask.new_ones(len(rows), 1)], dim=1)
        return finished

    def _forward(self, ids: Tensor, mask: Tensor, cache) -> tuple[Tensor, object]:
        """Logits [R, V] of the next token, and the model's own cache."""
        lm = causal_lm(self.policy.sampling_model())
        positions = (mask.cumsum(-1) - 1).clamp_min(0)[:, -ids.shape[1] :]
        output = lm.base_model(
            input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True
        )
        return head_logits(self.policy.causal_lm, output.last_hidden_state[:, -1]), output.past_key_values
