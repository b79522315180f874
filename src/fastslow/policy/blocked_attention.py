"""Causal self-attention of one long context in bfloat16 on a CPU, block of queries by block of queries.

PyTorch's fused kernel for CPUs multiplies small tiles and casts each anew; here every block is two batched products
over all the keys that it may see, at the full speed of the machine's bfloat16 products. Backward works the weights out
again, so memory grows with the context's length and not with its square.

Shapes: H query heads, J key/value heads, Q = H / J, C tokens, L queries of a block, S keys that it sees, D head width.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

BLOCK = 128
"""Queries of a block: enough for a product at full speed, few enough that little is computed above the diagonal."""


class BlockedCausalAttention(torch.autograd.Function):
    """softmax(scaling · q kᵀ + causal mask) v -> [H, C, D]; keeps q, k and v for the backward, and no weights."""

    @staticmethod
    def forward(ctx: Any, q_HCD: Tensor, k_JCD: Tensor, v_JCD: Tensor, scaling: float) -> Tensor:
        ctx.save_for_backward(q_HCD, k_JCD, v_JCD)
        ctx.scaling = scaling
        q = _grouped(q_HCD, k_JCD, scaling)
        output = torch.empty_like(q)
        for start, end in _blocks(q.shape[2]):
            weights = _weights(q, k_JCD, start, end)
            output[:, :, start:end] = torch.bmm(weights, v_JCD[:, :end]).view(*q.shape[:2], end - start, -1)
        return output.view_as(q_HCD)

    @staticmethod
    def backward(ctx: Any, grad_HCD: Tensor) -> tuple[Tensor | None, ...]:
        q_HCD, k_JCD, v_JCD = ctx.saved_tensors
        q = _grouped(q_HCD, k_JCD, ctx.scaling)
        J, Q, C, D = q.shape
        grad = grad_HCD.reshape(J, Q, C, D)
        grad_q = torch.empty_like(q)
        grad_k, grad_v = (torch.zeros(J, C, D, dtype=torch.float32, device=q.device) for _ in range(2))
        for start, end in _blocks(C):
            rows = Q * (end - start)
            weights = _weights(q, k_JCD, start, end)
            grad_out = grad[:, :, start:end].reshape(J, rows, D)
            grad_v[:, :end] += torch.bmm(weights.transpose(1, 2), grad_out)
            grad_weights = torch.bmm(grad_out, v_JCD[:, :end].transpose(1, 2))
            scores = torch.ops.aten._softmax_backward_data(grad_weights, weights, -1, weights.dtype)
            grad_q[:, :, start:end] = torch.bmm(scores, k_JCD[:, :end]).view(J, Q, end - start, D)
            grad_k[:, :end] += torch.bmm(scores.transpose(1, 2), q[:, :, start:end].reshape(J, rows, D))
        grad_q *= ctx.scaling
        return grad_q.view_as(q_HCD), grad_k.to(k_JCD.dtype), grad_v.to(v_JCD.dtype), None


def suits(q: Tensor) -> bool:
    """Whether this is the faster way for ``q``: elsewhere PyTorch's own kernels are."""
    return q.device.type == "cpu" and q.dtype == torch.bfloat16


def _grouped(q_HCD: Tensor, k_JCD: Tensor, scaling: float) -> Tensor:
    """Scaled queries by the key head that they share -> [J, Q, C, D]."""
    heads, tokens, width = q_HCD.shape
    return (q_HCD * scaling).view(k_JCD.shape[0], heads // k_JCD.shape[0], tokens, width)


def _blocks(tokens: int) -> Iterator[tuple[int, int]]:
    return ((start, min(start + BLOCK, tokens)) for start in range(0, tokens, BLOCK))


def _weights(q_JQCD: Tensor, k_JCD: Tensor, start: int, end: int) -> Tensor:
    """Attention weights of queries start … end over the keys before ``end`` -> [J, Q L, S]."""
    J, Q, _, D = q_JQCD.shape
    length = end - start
    scores = torch.bmm(q_JQCD[:, :, start:end].reshape(J, Q * length, D), k_JCD[:, :end].transpose(1, 2))
    future = torch.ones(length, length, dtype=torch.bool, device=scores.device).triu_(1)
    scores.view(J, Q, length, end)[..., start:].masked_fill_(future, float("-inf"))
    return torch.softmax(scores, dim=-1)
