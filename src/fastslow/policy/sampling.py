"""What every sampler shares: rows with their own random streams, drawing by inverse CDF, and where a reply ends."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from fastslow.config import SamplingConfig
from fastslow.errors import ModelError
from fastslow.policy.model import Policy
from fastslow.seeds import derive_seed
from fastslow.types import Completion, Context, FinishReason, Request

_BLOCK = 256


@dataclass(slots=True)
class SampleRow:
    """One sample under way: its place (request, sample), its prompt, its stream and what it said so far."""

    request: int
    sample: int
    prompt_ids: tuple[int, ...]
    shared: int
    uniforms: np.ndarray
    completion_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)

    @property
    def prefix(self) -> tuple[int, ...]:
        return self.prompt_ids[: self.shared]


class RowSampler:
    """Base of the samplers (see :class:`fastslow.policy.base.Sampler`)."""

    def __init__(self, policy: Policy, config: SamplingConfig) -> None:
        self.policy = policy
        self.config = config
        self._ends = set(policy.end_ids)

    @property
    def weights_step(self) -> int:
        return self.policy.weights_step

    def context_tokens(self, context: Context) -> int:
        return self.policy.renderer.context_tokens(context)

    def rows(self, requests: Sequence[Request]) -> list[SampleRow]:
        rows = []
        for i, request in enumerate(requests):
            prompt_ids, shared = self.policy.renderer.render(request.context, request.problem)
            self.policy.check_length(len(prompt_ids), self.config.max_new_tokens, request)
            for sample in range(request.n):
                stream = np.random.Generator(np.random.Philox(key=derive_seed(request.seed, sample)))
                uniforms = stream.random(self.config.max_new_tokens)
                rows.append(SampleRow(i, sample, prompt_ids, shared, uniforms))
        return rows

    def draw(self, rows: Sequence[SampleRow], logits_RV: Tensor) -> tuple[list[int], list[float]]:
        """The next token of each row and its log-probability; row r uses the next number of its own stream."""
        if self.config.temperature == 0:
            tokens_R = logits_RV.argmax(-1)
            chosen_R = torch.log_softmax(logits_RV, dim=-1).gather(-1, tokens_R[:, None])[:, 0]
        else:
            p_RV = torch.softmax(logits_RV / self.config.temperature, dim=-1)
            last = self.config.max_new_tokens - 1  # an ended row of a fixed batch draws on, unheard
            uniform = np.array([r.uniforms[min(len(r.completion_ids), last)] for r in rows])
            tokens_R = inverse_cdf(p_RV, torch.from_numpy(uniform).to(p_RV.device))
            chosen_R = p_RV.gather(-1, tokens_R[:, None])[:, 0].log()
        chosen = chosen_R.tolist()
        if any(map(math.isnan, chosen)):  # one NaN or +inf among a row's logits makes all its log-probabilities NaN
            raise ModelError(
                f"weights step {self.weights_step}: the model's logits are NaN or infinite, and no token can be drawn; "
                "try a lower slow.lr, or model.sampling_dtype: float32"
            )
        return tokens_R.tolist(), chosen

    def append(self, row: SampleRow, token: int, logprob: float) -> FinishReason | None:
        """Add a token; why the row ends with it, or None."""
        row.completion_ids.append(token)
        row.logprobs.append(logprob)
        if token in self._ends:
            return "stop"
        if self.config.stop:
            # Enough of the tail to hold any stop string; decoding all of it would cost more with every token.
            tail = self.policy.tokenizer.decode(row.completion_ids[-(2 + max(map(len, self.config.stop))) :])
            if any(s in tail for s in self.config.stop):
                return "stop"
        return "length" if len(row.completion_ids) >= self.config.max_new_tokens else None

    def completion(self, row: SampleRow, reason: FinishReason) -> Completion:
        text = self.policy.tokenizer.decode(row.completion_ids, skip_special_tokens=True)
        cuts = [text.find(s) for s in self.config.stop if s in text]
        return Completion(
            prompt_ids=row.prompt_ids,
            shared=row.shared,
            completion_ids=tuple(row.completion_ids),
            logprobs=tuple(row.logprobs),
            text=text[: min(cuts)] if cuts else text,
            finish_reason=reason,
        )


def inverse_cdf(p_RV: Tensor, uniform_R: Tensor) -> Tensor:
    """Tokens [R] at which the running sum of ``p_RV`` passes ``uniform_R`` (float64, in [0, 1)).

    First the block of the vocabulary, then the token in it: only one block a row is summed up token by token, in
    float64. A token of no probability is never drawn.

    >>> inverse_cdf(torch.tensor([[0.5, 0.0, 0.5]]).expand(3, -1), torch.tensor([0.0, 0.5, 0.999])).tolist()
    [0, 2, 2]
    """
    (R, V), block = p_RV.shape, _BLOCK
    if V % block:
        p_RV = torch.nn.functional.pad(p_RV, (0, block - V % block))
    p_RNB = p_RV.view(R, -1, block)
    blocks_RN = p_RNB.sum(-1).to(torch.float64)
    block_R1, before_R = _pick(blocks_RN, uniform_R * blocks_RN.sum(-1))
    inside_RB = p_RNB[torch.arange(R, device=p_RV.device), block_R1[:, 0]].to(torch.float64)
    share_R = before_R / blocks_RN.gather(-1, block_R1)[:, 0]
    token_R1, _ = _pick(inside_RB, share_R * inside_RB.sum(-1))
    return block_R1[:, 0] * block + token_R1[:, 0]


def _pick(p_RN: Tensor, point_R: Tensor) -> tuple[Tensor, Tensor]:
    """Index [R, 1] of the entry in which ``point_R`` falls, never one of 0, and how far into it."""
    sums_RN = p_RN.cumsum(-1)
    index_R1 = torch.searchsorted(sums_RN, point_R[:, None], right=True)
    last_R1 = (p_RN > 0).to(torch.uint8).mul(torch.arange(1, p_RN.shape[1] + 1, device=p_RN.device)).argmax(-1)[:, None]
    index_R1 = torch.minimum(index_R1, last_R1)  # rounding may put the point behind the end
    return index_R1, point_R - (sums_RN - p_RN).gather(-1, index_R1)[:, 0]
