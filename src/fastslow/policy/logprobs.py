"""Log-probabilities of completions, with gradient, without ever holding all tokens' logits at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from fastslow.policy.model import Policy
from fastslow.policy.plain import plain_hidden
from fastslow.policy.tree import TokenSequence, Tree
from fastslow.policy.tree_attention import attention_plan

CHUNK_LOGITS = 24_000_000
"""Logits held at once (about 96 MB in float32); more tokens are taken in chunks and recomputed in backward."""

Head = Tensor | Callable[[Tensor], Tensor]


@contextmanager
def sequence_logprobs(
    policy: Policy,
    sequences: Sequence[TokenSequence],
    temperature: float = 1.0,
    *,
    base: bool = False,
    context_gradient: bool = True,
) -> Iterator[tuple[Tensor, Tensor, int]]:
    """(log π of each completion token [T], entropy [T] without gradient, tokens computed); nats.

    T runs over the sequences in the order given. Call backward inside the ``with`` block: recomputation there needs
    the same attention plan. ``base`` takes the weights of π_base. Without ``context_gradient`` the contexts' keys and
    values are constants, taken from the policy's store: an approximation whose cost hardly grows with their length.
    """
    head = output_head(policy, base=base)
    with sequence_hidden(policy, sequences, base=base, context_gradient=context_gradient) as (hidden_TD, target_T, n):
        yield *token_logprobs(hidden_TD, target_T, head, temperature), n


def output_head(policy: Policy, *, base: bool = False) -> Head:
    """The head's weight [V, d] where logits are nothing but hidden @ weight.T, else a function to logits."""
    head = policy.plain_head(base=base)
    if head is not None:
        return head
    return policy.base_head if base else policy.head


@contextmanager
def sequence_hidden(
    policy: Policy, sequences: Sequence[TokenSequence], *, base: bool = False, context_gradient: bool = True
) -> Iterator[tuple[Tensor, Tensor, int]]:
    """(hidden states [T, d] that predict each completion token, those tokens [T], tokens computed).

    The rules of :func:`sequence_logprobs` hold.
    """
    hidden_of = policy.base_hidden if base else policy.hidden
    if policy.shares_prefixes:
        stored = None
        if not (context_gradient or base):
            stored = policy.stored_contexts([s.prompt_ids[: s.shared] for s in sequences])
        tree = Tree(sequences, policy.device, stored)
        with attention_plan(tree):
            yield hidden_of(tree.input_ids, tree.position_ids)[tree.predict_T], tree.target_T, tree.tokens
    else:
        yield plain_hidden(policy, sequences, base=base)


def token_logprobs(hidden_TD: Tensor, target_T: Tensor, head: Head, temperature: float) -> tuple[Tensor, Tensor]:
    """log π(target) [T] with gradient and entropy [T] without, chunked so that memory doesn't grow with T x V.

    ``head`` is the head's weight [V, d], or a function from hidden states to logits where there is more to it.
    """
    if isinstance(head, Tensor):
        return HeadLogprobs.apply(hidden_TD.float(), head, target_T, temperature)

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


class HeadLogprobs(torch.autograd.Function):
    """log softmax(hidden @ weight.T / temperature)[target] and its entropy, in place wherever a pass can be saved.

    A single chunk's probabilities are kept for the backward; several are computed anew there, one at a time. The
    gradient of token t's logits is g_t (onehot(target_t) - p_t) / temperature.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden_TD: Tensor, weight_VD: Tensor, target_T: Tensor, temperature: float
    ) -> tuple[Tensor, Tensor]:
        size = max(1, CHUNK_LOGITS // weight_VD.shape[0])
        chosen_T, entropy_T = hidden_TD.new_empty(len(target_T)), hidden_TD.new_empty(len(target_T))
        kept = None
        for i in range(0, len(target_T), size):
            part = slice(i, i + size)
            shifted = _logits(hidden_TD[part], weight_VD, temperature)
            shifted -= shifted.amax(-1, keepdim=True)
            chosen = shifted.gather(-1, target_T[part, None])[:, 0]
            weights = shifted.exp()
            total = weights.sum(-1)
            log_total = total.log()
            chosen_T[part] = chosen - log_total
            # entropy = log Σe^z - Σ z e^z / Σe^z, as one dot product a row
            mean = torch.bmm(shifted[:, None], weights[:, :, None])[:, 0, 0] / total
            entropy_T[part] = log_total - mean
            if len(target_T) <= size:
                kept = weights.div_(total[:, None])
        ctx.save_for_backward(hidden_TD, weight_VD, target_T, kept if any(ctx.needs_input_grad) else None)
        ctx.temperature, ctx.size = temperature, size
        ctx.mark_non_differentiable(entropy_T)
        return chosen_T, entropy_T

    @staticmethod
    def backward(ctx: Any, grad_T: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, target, kept = ctx.saved_tensors
        grad_hidden = torch.empty_like(hidden)
        grad_weight = None
        for i in range(0, len(target), ctx.size):
            part = slice(i, i + ctx.size)
            scale = grad_T[part, None] / ctx.temperature
            if kept is None:
                logits = torch.softmax(_logits(hidden[part], weight, ctx.temperature), -1).mul_(-scale)
            else:  # not in place: a second backward would find the kept ones spoilt
                logits = kept * -scale
            logits.scatter_add_(-1, target[part, None], scale)
            torch.mm(logits, weight, out=grad_hidden[part])
            if grad_weight is not None:
                grad_weight.addmm_(logits.t(), hidden[part])
            elif ctx.needs_input_grad[1]:
                grad_weight = logits.t() @ hidden[part]
        return grad_hidden, grad_weight, None, None


def _logits(hidden: Tensor, weight: Tensor, temperature: float) -> Tensor:
    logits = hidden @ weight.t()
    return logits if temperature == 1.0 else logits.div_(temperature)
