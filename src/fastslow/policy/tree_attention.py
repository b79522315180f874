"""Attention over a tree of tokens: each context once, each problem once per context, many completions.

All rollouts of a step share K contexts, so a step's tokens form a forest: context -> problem -> completion. The
forward takes them packed as one row ``[1, N]`` without padding; only attention knows the tree. Queries below a
context are folded into one matrix product against that context's keys, which are never copied, and the softmax runs
jointly over the shared and the own part, so the result is exact (no log-sum-exp merge, gradients by autograd).

Shapes: H query heads, J key/value heads, Q = H / J queries per key head, N packed tokens, R rows of padded length L,
S own keys of a row, C keys of the shared context, D head width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from fastslow.policy import blocked_attention
from fastslow.policy.blocked_attention import BlockedCausalAttention

ATTENTION_NAME = "fastslow_tree"
KeyValue = tuple[Tensor, Tensor]
"""Keys and values of one layer, each [J, tokens, D]."""


class AttentionPlan(Protocol):
    """Computes attention of one layer for one packed forward."""

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, options: AttentionOptions) -> Tensor:
        """q [H, N, D], k and v [J, N, D] -> output [H, N, D]."""
        ...


class AttentionOptions:
    """What the model asks of attention: score scale, sliding window (tokens) and score soft cap."""

    __slots__ = ("scaling", "softcap", "window")

    def __init__(self, scaling: float, window: int | None, softcap: float | None) -> None:
        self.scaling, self.window, self.softcap = scaling, window, softcap


_active: list[AttentionPlan] = []  # a plain stack, not a context variable: backward may run in another thread


@contextmanager
def attention_plan(plan: AttentionPlan) -> Iterator[None]:
    """Every forward inside uses ``plan``; outside of it the model runs plain SDPA."""
    _active.append(plan)
    try:
        yield
    finally:
        _active.pop()


def _tree_attention(
    module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, Tensor | None]:
    if not _active:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    if query.shape[0] != 1 or kwargs.get("s_aux") is not None:
        raise NotImplementedError("tree attention takes one packed row and no attention sinks")
    if query.dtype != value.dtype:  # under autocast the rotary embedding leaves queries and keys in float32
        query, key = query.to(value.dtype), key.to(value.dtype)
    scaling = kwargs.get("scaling")
    options = AttentionOptions(
        scaling=query.shape[-1] ** -0.5 if scaling is None else float(scaling),
        window=kwargs.get("sliding_window"),
        softcap=kwargs.get("softcap"),
    )
    output = _active[-1].attend(module.layer_idx, query[0], key[0], value[0], options)
    return output.transpose(0, 1).unsqueeze(0), None


def _tree_mask(*args: Any, **kwargs: Any) -> Any:
    return None if _active else sdpa_mask(*args, **kwargs)


AttentionInterface.register(ATTENTION_NAME, _tree_attention)
AttentionMaskInterface.register(ATTENTION_NAME, _tree_mask)


class Rows:
    """Maps packed tokens [n] of several sequences to padded rows [R, L] and back."""

    def __init__(self, lengths: Sequence[int], device: torch.device | str = "cpu") -> None:
        self.count, self.length = len(lengths), max(lengths, default=0)
        size = torch.tensor(lengths, dtype=torch.long)
        start = torch.cumsum(size, 0) - size
        column = torch.arange(self.length)
        valid_RL = column[None, :] < size[:, None]
        gather_RL = torch.where(valid_RL, start[:, None] + column[None, :], 0)
        self.total = int(size.sum())
        self.is_dense = bool(valid_RL.all())
        self.valid_RL = valid_RL.to(device)
        self.gather = gather_RL.flatten().to(device)
        self.scatter = valid_RL.flatten().nonzero()[:, 0].to(device)

    def pad(self, x_HnD: Tensor) -> Tensor:
        """[H, n, D] -> [H, R, L, D]; padding repeats the first token, to be masked by the caller."""
        if not self.is_dense:
            x_HnD = x_HnD.index_select(1, self.gather)
        return x_HnD.view(x_HnD.shape[0], self.count, self.length, x_HnD.shape[-1])

    def unpad(self, x_HRLD: Tensor) -> Tensor:
        """[H, R, L, D] -> [H, n, D]."""
        x = x_HRLD.reshape(x_HRLD.shape[0], self.count * self.length, x_HRLD.shape[-1])
        return x if self.is_dense else x.index_select(1, self.scatter)


def attend_context(q_HCD: Tensor, k_JCD: Tensor, v_JCD: Tensor, options: AttentionOptions) -> Tensor:
    """Causal self-attention of one context -> [H, C, D]."""
    tokens = q_HCD.shape[1]
    windowed = options.window is not None and tokens > options.window
    if options.softcap is None and not windowed:
        if blocked_attention.suits(q_HCD):
            with torch.autocast(q_HCD.device.type, enabled=False):
                return BlockedCausalAttention.apply(q_HCD, k_JCD, v_JCD, options.scaling)
        gqa = q_HCD.shape[0] != k_JCD.shape[0]
        output = F.scaled_dot_product_attention(
            q_HCD[None], k_JCD[None], v_JCD[None], is_causal=True, scale=options.scaling, enable_gqa=gqa
        )
        return output[0]
    position = torch.arange(tokens, device=q_HCD.device)
    allowed = (position[:, None] >= position[None, :]) & window_allows(position, position, options.window)
    rows = attend_rows(
        q_HCD[:, None], (k_JCD[:, :0], v_JCD[:, :0]), (k_JCD[:, None], v_JCD[:, None]), allowed[None], None, options
    )
    return rows[:, 0]


def window_allows(query_position: Tensor, key_position: Tensor, window: int | None) -> Tensor:
    """[..., L] and [..., S] token positions -> bool [..., L, S]: is the key inside the query's sliding window?"""
    distance = query_position[..., :, None] - key_position[..., None, :]
    return distance < window if window is not None else torch.ones_like(distance, dtype=torch.bool)


def attend_rows(
    q_HRLD: Tensor,
    shared: KeyValue,
    own: KeyValue,
    own_allowed_RLS: Tensor,
    shared_allowed_RLC: Tensor | None,
    options: AttentionOptions,
) -> Tensor:
    """Joint attention of R rows over one shared context [J, C, D] and each row's own keys [J, R, S, D].

    ``own_allowed_RLS`` is boolean and must allow at least one key per query. Returns [H, R, L, D].
    """
    (k_JCD, v_JCD), (k_JRSD, v_JRSD) = shared, own
    H, R, L, D = q_HRLD.shape
    J, C, S = k_JCD.shape[0], k_JCD.shape[1], k_JRSD.shape[2]
    Q = H // J
    q = (q_HRLD * options.scaling).view(J, Q, R, L, D).transpose(1, 2).reshape(J, R, Q * L, D)
    # In a narrow dtype the scores stay in it: softmax reckons in float32 inside, and keeps half as much for backward.
    own_scores = cap(torch.matmul(q, k_JRSD.transpose(-1, -2)).view(J, R, Q, L, S), options.softcap)
    own_scores = own_scores.masked_fill(~own_allowed_RLS[None, :, None], float("-inf"))
    if C == 0:
        weights = _softmax(own_scores).to(v_JRSD.dtype)
        output = torch.matmul(weights.view(J, R, Q * L, S), v_JRSD)
    else:
        shared_scores = torch.matmul(q.reshape(J, R * Q * L, D), k_JCD.transpose(-1, -2)).view(J, R, Q, L, C)
        shared_scores = cap(shared_scores, options.softcap)
        if shared_allowed_RLC is not None:
            shared_scores = shared_scores.masked_fill(~shared_allowed_RLC[None, :, None], float("-inf"))
        weights = _softmax(torch.cat([shared_scores, own_scores], dim=-1)).to(v_JRSD.dtype)
        shared_weights, own_weights = weights.split([C, S], dim=-1)
        output = torch.matmul(shared_weights.reshape(J, R * Q * L, C), v_JCD).view(J, R, Q * L, -1)
        output = output + torch.matmul(own_weights.reshape(J, R, Q * L, S), v_JRSD)
    return output.view(J, R, Q, L, -1).transpose(1, 2).reshape(H, R, L, -1)


def _softmax(scores: Tensor) -> Tensor:
    """Over the last dimension, in the scores' own dtype; autocast, left to itself, would widen them first."""
    with torch.autocast(scores.device.type, enabled=False):
        return torch.softmax(scores, dim=-1)


def cap(scores: Tensor, softcap: float | None) -> Tensor:
    """Gemma 2's soft cap on scores, where there is one; in float32."""
    return scores if softcap is None else softcap * torch.tanh(scores.float() / softcap)
