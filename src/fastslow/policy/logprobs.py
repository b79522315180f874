"""Log-probabilities of completions, with gradient, without ever holding all tokens' logits at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from fastslow.policy.model import Policy
from fastslow.policy.plain import plain_hidden
from fastslow.policy.tree import TokenSequence, Tree
from fastslow.policy.tree_attention import attention_plan

CHUNK_LOGITS = 24_000_000
"""Logits held at once (about 96 MB in float32); more tokens are taken in chunks and recomputed in backward."""


@contextmanager
def sequence_logprobs(
    policy: Policy, sequences: Sequence[TokenSequence], temperature: float = 1.0, *, base: bool = False
) -> Iterator[tuple[Tensor, Tensor, int]]:
    """(log π of each completion token [T], entropy [T] without gradient, tokens computed); nats.

    T runs over the sequences in the order given. Call backward inside the ``with`` block: recomputation there needs
    the same attention plan. ``base`` takes the weights of π_base.
    """
    hidden_of = policy.base_hidden if base else policy.hidden
    head = policy.base_head if base else policy.head
    if policy.shares_prefixes:
        tree = Tree(sequences, policy.device)
        with attention_plan(tree):
            hidden_TD = hidden_of(tree.input_ids, tree.position_ids)[tree.predict_T]
            yield *token_logprobs(hidden_TD, tree.target_T, head, temperature), tree.tokens
    else:
        hidden_TD, target_T, computed = plain_hidden(policy, sequences, base=base)
        yield *token_logprobs(hidden_TD, target_T, head, temperature), computed


def token_logprobs(
    hidden_TD: Tensor, target_T: Tensor, head: Callable[[Tensor], Tensor], temperature: float
) -> tuple[Tensor, Tensor]:
    """log π(target) [T] with gradient and entropy [T] without, chunked so that memory doesn't grow with T x V."""

    def chunk(hidden: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        logits = head(hidden) / temperature
        normalizer = logits.logsumexp(-1)
        chosen = logits.gather(-1, target[:, None])[:, 0] - normalizer
        with torch.no_grad():
            entropy = normalizer - (logits.softmax(-1) * logits).sum(-1)
        return chosen, entropy

    vocabulary = head(hidden_TD[:1].detach()).shape[-1]
    size = max(1, CHUNK_LOGITS // vocabulary)
    if len(target_T) <= size:
        return chunk(hidden_TD, target_T)
    parts = [
        checkpoint(chunk, hidden_TD[i : i + size], target_T[i : i + size], use_reentrant=False)
        for i in range(0, len(target_T), size)
    ]
    return torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts])
