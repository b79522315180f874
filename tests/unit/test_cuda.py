"""The same numbers on a GPU: sharing, sampling and one update against the CPU. Skipped where there is no GPU."""

from __future__ import annotations

import pytest
import torch
from test_tree import SEQUENCES, build, flat_gradient, plain_logits, shared_logits

from fastslow.policy.model import head_logits, packed_hidden
from fastslow.policy.tree import Tree
from fastslow.policy.tree_attention import attention_plan

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
LOGIT_TOLERANCE = 1e-3  # float32 on another device, summed in another order
COSINE = 0.99999


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "gemma3", "gpt2"])
def test_shared_logits_on_the_gpu_equal_the_cpu(family):
    model = build(family)
    expected, _ = shared_logits(model, SEQUENCES)
    model.cuda()
    tree = Tree(SEQUENCES, "cuda")
    with attention_plan(tree):
        found = head_logits(model, packed_hidden(model, tree.input_ids, tree.position_ids)[tree.predict_T])
    assert torch.allclose(found.cpu(), expected, atol=LOGIT_TOLERANCE)


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma3"])
def test_gradients_on_the_gpu_equal_the_plain_forward_on_the_cpu(family):
    model = build(family)
    tree = Tree(SEQUENCES)
    torch.manual_seed(1)
    weight_T = torch.randn(len(tree.target_T))
    expected = flat_gradient(model, plain_logits(model, SEQUENCES), tree.target_T, weight_T)
    model.cuda()
    tree = Tree(SEQUENCES, "cuda")
    with attention_plan(tree):
        logits = head_logits(model, packed_hidden(model, tree.input_ids, tree.position_ids)[tree.predict_T])
    found = flat_gradient(model, logits, tree.target_T, weight_T.cuda()).cpu()
    assert torch.nn.functional.cosine_similarity(found, expected, dim=0) > COSINE
