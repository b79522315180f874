"""Shared prefixes give the plain forward's numbers, values and gradients, for several families of models.

Locks: logits and gradients equal to padded rows; windows; empty contexts; micro-batches add up; N is what it should be.
"""

from __future__ import annotations

import pytest
import torch
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from fastslow.policy.model import head_logits, packed_hidden
from fastslow.policy.probe import can_share_prefixes
from fastslow.policy.tree import TokenSequence, Tree
from fastslow.policy.tree_attention import ATTENTION_NAME, attention_plan
from fastslow.slow.microbatch import split_by_context

COSINE = 0.99999
RELATIVE_NORM = 1e-4
LOGIT_TOLERANCE = 1e-4

_SMALL = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
MODELS = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**_SMALL)),
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**_SMALL)),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**_SMALL, head_dim=8)),
    "gemma3": lambda: Gemma3ForCausalLM(
        Gemma3TextConfig(
            **_SMALL, head_dim=8, sliding_window=4, layer_types=["sliding_attention", "full_attention"], pad_token_id=0
        )
    ),
    "gpt2": lambda: GPT2LMHeadModel(
        GPT2Config(vocab_size=64, n_embd=32, n_layer=2, n_head=4, n_positions=64, bos_token_id=0, eos_token_id=0)
    ),
}

# Two contexts and none at all; a problem shared by two contexts; several completions a problem, one of a single token.
A, B = tuple(range(10, 19)), tuple(range(20, 25))
SEQUENCES = [
    TokenSequence((*A, 1, 2, 3), len(A), (30, 31, 32)),
    TokenSequence((*A, 1, 2, 3), len(A), (33,)),
    TokenSequence((*B, 1, 2, 3), len(B), (34, 35)),
    TokenSequence((*A, 4, 5), len(A), (36, 37, 38, 39)),
    TokenSequence((6, 7), 0, (40, 41)),
    TokenSequence((*B, 8), len(B), (42, 43, 44)),
]


def build(family: str):
    torch.manual_seed(0)
    model = MODELS[family]().eval()
    model.set_attn_implementation(ATTENTION_NAME)
    return model


def shared_logits(model, sequences):
    tree = Tree(sequences)
    with attention_plan(tree):
        return head_logits(model, packed_hidden(model, tree.input_ids, tree.position_ids)[tree.predict_T]), tree


def plain_logits(model, sequences):
    rows = []
    for s in sequences:
        logits = model(input_ids=torch.tensor([[*s.prompt_ids, *s.completion_ids]]), use_cache=False).logits[0]
        rows.append(logits[len(s.prompt_ids) - 1 : -1])
    return torch.cat(rows)


def flat_gradient(model, logits, target_T, weight_T):
    model.zero_grad()
    (torch.log_softmax(logits, -1).gather(-1, target_T[:, None])[:, 0] * weight_T).sum().backward()
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


@pytest.mark.parametrize("family", MODELS)
def test_logits_equal_the_plain_forward(family):
    model = build(family)
    shared, _ = shared_logits(model, SEQUENCES)
    assert torch.allclose(shared, plain_logits(model, SEQUENCES), atol=LOGIT_TOLERANCE)


@pytest.mark.parametrize("family", MODELS)
def test_gradients_equal_the_plain_forward(family):
    model = build(family)
    torch.manual_seed(1)
    shared, tree = shared_logits(model, SEQUENCES)
    weight_T = torch.randn(len(tree.target_T))
    found = flat_gradient(model, shared, tree.target_T, weight_T)
    expected = flat_gradient(model, plain_logits(model, SEQUENCES), tree.target_T, weight_T)
    assert torch.nn.functional.cosine_similarity(found, expected, dim=0) > COSINE
    assert (found - expected).norm() / expected.norm() < RELATIVE_NORM


@pytest.mark.parametrize("family", MODELS)
def test_the_probe_sees_that_sharing_works(family):
    assert can_share_prefixes(build(family))


def test_the_probe_sees_a_model_that_cannot_share():
    torch.manual_seed(0)
    mamba = MambaForCausalLM(MambaConfig(vocab_size=64, hidden_size=32, num_hidden_layers=2, state_size=4)).eval()
    assert not can_share_prefixes(mamba)


def test_a_changed_context_token_changes_every_rollout_below_it_and_no_other():
    model = build("llama")
    before, _ = shared_logits(model, SEQUENCES)
    changed = [
        TokenSequence((63, *s.prompt_ids[1:]), s.shared, s.completion_ids) if s.shared == len(A) else s
        for s in SEQUENCES
    ]
    after, _ = shared_logits(model, changed)
    row = torch.tensor([i for i, s in enumerate(SEQUENCES) for _ in s.completion_ids])
    moved = (before - after).abs().amax(-1) > LOGIT_TOLERANCE
    below = torch.tensor([SEQUENCES[i].shared == len(A) for i in row])
    assert torch.equal(moved, below)


def test_shared_parts_are_computed_once():
    tree = Tree(SEQUENCES)
    problems = 3 + 2 + 3 + 1 + 2
    tails = 2 + 0 + 1 + 3 + 1 + 2  # the last token of a completion predicts nothing
    assert tree.tokens == len(A) + len(B) + problems + tails
    assert tree.target_T.tolist() == [t for s in SEQUENCES for t in s.completion_ids]


@pytest.mark.parametrize("budget", [12, 20, 30, 1000])
def test_microbatches_hold_every_sequence_once_and_stay_within_the_budget(budget):
    parts = split_by_context(SEQUENCES, budget)
    assert sorted(i for part in parts for i in part) == list(range(len(SEQUENCES)))
    for part in parts:
        assert len(part) == 1 or Tree([SEQUENCES[i] for i in part]).tokens <= budget


def test_a_rollout_without_a_problem_is_refused():
    with pytest.raises(ValueError, match="problem of at least one token"):
        Tree([TokenSequence((1, 2), 2, (3,))])
