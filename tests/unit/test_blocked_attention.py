"""Blocked causal attention is attention: values and gradients, over one block, several, and a broken last one."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from fastslow.policy import blocked_attention
from fastslow.policy.blocked_attention import BlockedCausalAttention
from fastslow.policy.tree_attention import AttentionOptions, attend_context

H, J, D, SCALING = 6, 2, 4, 0.3


def heads(tokens: int, dtype: torch.dtype = torch.float64) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(tokens)
    return [torch.randn(n, tokens, D, dtype=dtype, generator=generator).requires_grad_() for n in (H, J, J)]


def usual(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    return F.scaled_dot_product_attention(q[None], k[None], v[None], is_causal=True, scale=SCALING, enable_gqa=True)[0]


@pytest.mark.parametrize("tokens", [1, 3, 4, 11])
def test_values_are_those_of_torch(monkeypatch, tokens):
    monkeypatch.setattr(blocked_attention, "BLOCK", 4)
    q, k, v = heads(tokens)
    assert torch.allclose(BlockedCausalAttention.apply(q, k, v, SCALING), usual(q, k, v), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("tokens", [3, 11])
def test_gradients_are_those_of_the_formula(monkeypatch, tokens):
    """Gradients of keys and values are summed in float32, hence float32's tolerance; torch's own are exact."""
    monkeypatch.setattr(blocked_attention, "BLOCK", 4)
    q, k, v = heads(tokens)
    weights = torch.randn(H, tokens, D, dtype=torch.float64, generator=torch.Generator().manual_seed(9))
    got = torch.autograd.grad((BlockedCausalAttention.apply(q, k, v, SCALING) * weights).sum(), (q, k, v))
    expected = torch.autograd.grad((usual(q, k, v) * weights).sum(), (q, k, v))
    for a, b in zip(got, expected, strict=True):
        assert float((a - b).abs().max()) < 1e-6 * float(b.abs().max())


def test_a_bfloat16_context_takes_it_and_is_as_near_as_torch():
    exact = usual(*heads(300, torch.float32))
    q, k, v = (x.detach().bfloat16() for x in heads(300, torch.float32))
    got = attend_context(q, k, v, AttentionOptions(SCALING, None, None))
    assert got.dtype == torch.bfloat16
    assert torch.equal(got, BlockedCausalAttention.apply(q, k, v, SCALING))
    assert float((got - exact).abs().mean()) < 2 * float((usual(q, k, v) - exact).abs().mean())
