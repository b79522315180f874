"""Lean forwards and the head's log-probabilities give autograd's own numbers, values and gradients.

Locks: gradients of each function (finite differences, float64); whole models with and without them, family by family;
modules of other arithmetic are left alone; chunks add up; contexts taken as constants give the gradient that they
should, and leave the values as they are; under autocast and in a bfloat16 copy a lean model is no farther from float32
than the usual one.
"""

from __future__ import annotations

import copy

import pytest
import torch
from test_tree import MODELS, SEQUENCES
from tiny_models import save_tiny, tiny_policy
from torch.nn import functional as F
from transformers import DynamicCache

from fastslow.config import LoraConfig
from fastslow.policy import logprobs as logprobs_module
from fastslow.policy.lean import GatedDown, RmsNorm, make_lean
from fastslow.policy.logprobs import HeadLogprobs, sequence_logprobs, token_logprobs
from fastslow.policy.model import head_logits, packed_hidden
from fastslow.policy.tree import TokenSequence, Tree
from fastslow.policy.tree_attention import attention_plan

RELATIVE = 1e-5
BFLOAT16 = 2.0**-8  # its rounding
LEAN_MODULES = {"llama": 2 * 3 + 1, "qwen2": 2 * 3 + 1, "qwen3": 2 * 5 + 1, "gemma3": 2, "gpt2": 0}


def _double(*shape: int) -> torch.Tensor:
    return torch.randn(
        *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(sum(shape))
    ).requires_grad_()


def close(a: torch.Tensor, b: torch.Tensor) -> bool:
    return float((a - b).detach().abs().max()) <= RELATIVE * float(b.detach().abs().max())


@pytest.mark.parametrize("act", ["silu", "gelu"])
def test_gated_down_has_the_gradient_of_its_formula(act):
    assert torch.autograd.gradcheck(
        lambda g, u, w: GatedDown.apply(g, u, w, act), (_double(3, 5), _double(3, 5), _double(4, 5))
    )


def test_rms_norm_has_the_gradient_of_its_formula():
    assert torch.autograd.gradcheck(lambda x, w: RmsNorm.apply(x, w, 1e-5), (_double(3, 5), _double(5)))


@pytest.mark.parametrize("chunk", [10**6, 14])  # one chunk, kept for the backward; two rows at a time, computed anew
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_head_logprobs_have_the_gradient_of_their_formula(monkeypatch, chunk, temperature):
    monkeypatch.setattr(logprobs_module, "CHUNK_LOGITS", chunk)
    target = torch.tensor([0, 6, 2, 2, 5])
    hidden, weight = _double(5, 3), _double(7, 3)
    assert torch.autograd.gradcheck(lambda h, w: HeadLogprobs.apply(h, w, target, temperature)[0], (hidden, weight))
    chosen, entropy = HeadLogprobs.apply(hidden, weight, target, temperature)
    expected = torch.log_softmax(hidden @ weight.T / temperature, -1)
    assert close(chosen, expected.gather(-1, target[:, None])[:, 0])
    assert close(entropy, -(expected.exp() * expected).sum(-1))


def test_head_logprobs_survive_a_second_backward():
    hidden, weight, target = _double(5, 3), _double(7, 3), torch.tensor([0, 6, 2, 2, 5])
    loss = token_logprobs(hidden.float(), target, weight.float(), 1.0)[0].sum()
    first = torch.autograd.grad(loss, hidden, retain_graph=True)[0]
    assert torch.equal(first, torch.autograd.grad(loss, hidden)[0])


def _loss_and_gradients(model: torch.nn.Module) -> tuple[float, dict[str, torch.Tensor]]:
    model.zero_grad()
    tree = Tree(SEQUENCES)
    with attention_plan(tree):
        hidden = packed_hidden(model, tree.input_ids, tree.position_ids)
        loss = F.cross_entropy(head_logits(model, hidden[tree.predict_T]), tree.target_T)
        loss.backward()
    return loss.item(), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("family", MODELS)
def test_whole_models_keep_their_loss_and_gradients(family):
    torch.manual_seed(0)
    usual = MODELS[family]().eval()
    with torch.no_grad():  # norms start at one (or zero): move them, so that their weights matter
        for name, p in usual.named_parameters():
            if "norm" in name:
                p.add_(0.3 * torch.randn_like(p))
    usual.set_attn_implementation("fastslow_tree")
    lean = copy.deepcopy(usual)
    assert make_lean(lean) == LEAN_MODULES[family]
    loss, gradients = _loss_and_gradients(usual)
    lean_loss, lean_gradients = _loss_and_gradients(lean)
    assert lean_loss == pytest.approx(loss, rel=RELATIVE)
    for name, gradient in gradients.items():
        assert close(lean_gradients[name], gradient), name


def _cosine(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    flat = [torch.cat([g[n].flatten() for n in sorted(a)]) for g in (a, b)]
    return float(F.cosine_similarity(*flat, dim=0))


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
def test_under_autocast_a_lean_model_is_no_farther_from_float32(family):
    torch.manual_seed(0)
    usual = MODELS[family]().eval()
    usual.set_attn_implementation("fastslow_tree")
    lean = copy.deepcopy(usual)
    make_lean(lean)
    loss, exact = _loss_and_gradients(usual)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        _, usual_gradients = _loss_and_gradients(usual)
        lean_loss, lean_gradients = _loss_and_gradients(lean)
    assert all(g.dtype == torch.float32 for g in lean_gradients.values())
    assert lean_loss == pytest.approx(loss, rel=BFLOAT16)
    assert 1 - _cosine(lean_gradients, exact) < 2 * (1 - _cosine(usual_gradients, exact))


def test_a_bfloat16_copy_takes_the_mean_square_in_float32():
    torch.manual_seed(0)
    norm = MODELS["llama"]().model.norm
    copied = copy.deepcopy(norm).bfloat16()
    make_lean(holder := torch.nn.ModuleList([copied.float()]))
    x = (3 * torch.randn(7, copied.weight.shape[0])).bfloat16()
    assert torch.equal(holder.bfloat16()[0](x), norm.bfloat16()(x))


def test_a_copy_of_a_lean_model_uses_its_own_weights():
    torch.manual_seed(0)
    model = MODELS["llama"]().eval()
    make_lean(model)
    twin = copy.deepcopy(model)
    ids = torch.tensor([[1, 2, 3]])
    before = twin(ids).logits
    with torch.no_grad():
        for p in model.parameters():
            p.zero_()
    assert torch.equal(twin(ids).logits, before)


def test_adapters_work_over_lean_modules(tmp_path):
    policy = tiny_policy(save_tiny(tmp_path, "llama"), lora=LoraConfig(rank=2))
    with sequence_logprobs(policy, SEQUENCES) as (values, _, _):
        values.sum().backward()
    assert all(p.grad is not None for p in policy.trainable().values())


def test_constant_contexts_keep_the_values_and_stop_the_gradient_there(tmp_path):
    policy = tiny_policy(save_tiny(tmp_path, "llama"))
    one = TokenSequence(tuple(range(20, 32)), 8, (5, 6, 7))
    with sequence_logprobs(policy, [one]) as (exact, _, exact_tokens):
        pass
    with sequence_logprobs(policy, [one], context_gradient=False) as (values, _, tokens):
        assert close(values.detach(), exact.detach())
        assert exact_tokens - tokens == one.shared
        values.sum().backward()
    got = {n: p.grad.clone() for n, p in policy.trainable().items()}

    policy.model.zero_grad()
    lm, cache = policy.causal_lm, DynamicCache()
    with torch.no_grad():
        lm(input_ids=torch.tensor([one.prompt_ids[: one.shared]]), past_key_values=cache, use_cache=True)
    rest = torch.tensor([[*one.prompt_ids[one.shared :], *one.completion_ids]])
    logits = lm(input_ids=rest, past_key_values=cache, use_cache=True).logits[0]
    problem = len(one.prompt_ids) - one.shared
    expected = torch.log_softmax(logits[problem - 1 : -1], -1).gather(-1, rest[0, problem:, None]).sum()
    expected.backward()
    for name, p in policy.trainable().items():
        assert close(got[name], p.grad), name


def test_stored_contexts_are_forgotten_with_the_weights(tmp_path):
    policy = tiny_policy(save_tiny(tmp_path, "llama"))
    one = TokenSequence(tuple(range(20, 32)), 8, (5, 6, 7))

    def value() -> torch.Tensor:
        with sequence_logprobs(policy, [one], context_gradient=False) as (values, _, _):
            return values.detach()

    before = value()
    with torch.no_grad():
        for p in policy.trainable().values():
            p.mul_(1.1)
    policy.weights_step = policy.weights_step  # the same number, yet other weights
    after = value()
    with sequence_logprobs(policy, [one]) as (exact, _, _):
        assert close(after, exact.detach())
    assert not close(after, before)
