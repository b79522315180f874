"""Locks: rows meet their contexts' keys as if each were computed alone, however lengths and numbers of rows differ;
padding stays in bounds; packed weights give the plain product, and follow the master; draws invert the CDF."""

from __future__ import annotations

import pytest
import torch
from tiny_models import save_tiny, tiny_policy
from torch import nn

from fastslow.config import LoraConfig
from fastslow.policy import sampling_copy
from fastslow.policy.context_store import ContextStore
from fastslow.policy.sampling import _pick, inverse_cdf
from fastslow.policy.sampling_copy import PackedLinear, SamplingCopy, can_pack, pack_linears
from fastslow.policy.shared_keys import SharedKeys, _group, hidden_where, spans_of
from fastslow.policy.tree_attention import AttentionOptions, attend_rows, window_allows

torch.set_num_threads(1)
J, Q, D, S = 2, 3, 4, 5


def prefix(length: int, first: int = 0) -> tuple[int, ...]:
    return tuple(range(first, first + length))


BATCHES = {
    "even": [prefix(6)] * 3 + [prefix(6, 10)] * 3,
    "one context": [prefix(7)] * 4,
    "other lengths": [prefix(3)] * 2 + [prefix(5, 10)] * 2,
    "other counts": [prefix(6)] * 5 + [prefix(6, 10)] * 1 + [prefix(6, 20)] * 2,
    "two groups": [prefix(2)] + [prefix(3, 5)] + [prefix(40, 10)] * 6,
    "some without": [()] * 2 + [prefix(4)] * 3 + [prefix(5, 9)] * 2,
    "none": [()] * 3,
}


@pytest.mark.parametrize(("window", "softcap"), [(None, None), (4, None), (None, 2.0), (4, 2.0)])
@pytest.mark.parametrize("L", [1, 3])
@pytest.mark.parametrize("batch", BATCHES)
def test_every_row_attends_as_if_its_context_were_alone(batch, L, window, softcap):
    torch.manual_seed(0)
    prefixes, store = BATCHES[batch], ContextStore()
    for context in {p for p in prefixes if p}:
        store.put(context, 0, torch.randn(J, len(context), D), torch.randn(J, len(context), D))
    R = len(prefixes)
    q, own = torch.randn(J * Q, R, L, D), (torch.randn(J, R, S, D), torch.randn(J, R, S, D))
    depth = torch.tensor([len(p) for p in prefixes])
    query = depth[:, None] + torch.arange(S - L, S)[None]
    allowed = (torch.arange(S)[None, :] <= torch.arange(S - L, S)[:, None])[None].expand(R, -1, -1)
    allowed = allowed & window_allows(query, depth[:, None] + torch.arange(S)[None], window)
    options = AttentionOptions(scaling=0.3, window=window, softcap=softcap)
    found = SharedKeys(store, prefixes, torch.device("cpu")).attend(0, q, own, hidden_where(~allowed), query, options)
    for r, context in enumerate(prefixes):
        one = slice(r, r + 1)
        shared = store.get(context, 0, (own[0][:, 0], own[1][:, 0]))
        seen = window_allows(query[one], torch.arange(len(context))[None], window)
        expected = attend_rows(q[:, one], shared, (own[0][:, one], own[1][:, one]), allowed[one], seen, options)
        torch.testing.assert_close(found[:, one], expected, msg=f"row {r}")


def test_stacks_are_kept_while_their_contexts_stay():
    store, prefixes = ContextStore(), [prefix(6)] * 2 + [prefix(6, 10)] * 2
    for context in set(prefixes):
        store.put(context, 0, torch.randn(J, 6, D), torch.randn(J, 6, D))
    own = (torch.randn(J, 4, S, D), torch.randn(J, 4, S, D))
    first = SharedKeys(store, prefixes, torch.device("cpu"))
    query, nothing = torch.full((4, 1), 9), torch.zeros(4, 1, S)
    first.attend(
        0, torch.randn(J * Q, 4, 1, D), own, nothing, query, AttentionOptions(scaling=1.0, window=None, softcap=None)
    )
    (kept,) = first.stacks.values()
    one_left = SharedKeys(store, prefixes[1:], torch.device("cpu"), first.stacks)
    assert [layers is kept for layers in one_left.stacks.values()] == [True]
    other = SharedKeys(store, prefixes[2:], torch.device("cpu"), first.stacks)
    assert other.stacks == {(prefix(6, 10),): {}}


@pytest.mark.parametrize("seed", range(20))
def test_padding_is_never_more_than_what_it_pads(seed):
    rng = torch.Generator().manual_seed(seed)
    draw = torch.randint(1, 200, (12, 2), generator=rng).tolist()
    spans = spans_of([prefix(length, 1000 * i) for i, (length, count) in enumerate(draw) for _ in range(count)])
    groups = _group(spans)
    assert sorted(s for g in groups for s in g) == sorted(spans)
    for group in groups:
        cells = sum(len(p) * (end - start) for p, start, end in group)
        assert len(group) * max(len(p) for p, _, _ in group) * max(e - s for _, s, e in group) <= 2 * cells
        assert [s for _, s, _ in group] == sorted(s for _, s, _ in group)


needs_packing = pytest.mark.skipif(not can_pack(torch.bfloat16), reason="no packed bfloat16 products on this processor")


@needs_packing
@pytest.mark.parametrize("rows", [1, 64, 300])
@pytest.mark.parametrize("bias", [True, False])
def test_a_packed_layer_gives_the_plain_product(rows, bias):
    torch.manual_seed(0)
    linear = nn.Linear(96, 128, bias=bias).to(torch.bfloat16).requires_grad_(False)
    packed, x = PackedLinear(linear), torch.randn(1, rows, 96, dtype=torch.bfloat16)
    packed.load(linear.weight.float())
    torch.testing.assert_close(packed(x), linear(x), rtol=0.02, atol=0.02)


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this build of torch has no oneDNN")
def test_torch_still_has_the_operations_that_pack():
    """They are no public interface: where they are renamed or changed, this fails, and sampling only becomes slower."""
    linear = nn.Linear(96, 128).requires_grad_(False)  # float32: any processor can
    packed, x = PackedLinear(linear), torch.randn(5, 96)
    packed.load(linear.weight)
    torch.testing.assert_close(packed(x), linear(x))


def test_without_those_operations_nothing_is_packed(monkeypatch):
    monkeypatch.setattr(sampling_copy, "_ops", lambda: object())
    assert not can_pack.__wrapped__(torch.bfloat16)


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.inner = nn.Embedding(80, 64), nn.Linear(64, 64)
        self.adapter, self.head = nn.Linear(64, 4), nn.Linear(64, 80, bias=False)
        self.head.weight = self.embedding.weight

    def get_output_embeddings(self) -> nn.Module:
        return self.head


def test_the_head_and_narrow_layers_stay_as_they_are():
    model = Two()
    assert set(pack_linears(model)) == {"inner"}
    assert type(model.inner) is PackedLinear and type(model.head) is type(model.adapter) is nn.Linear


@needs_packing
def test_a_copy_follows_its_master():
    torch.manual_seed(0)
    master = Two()
    copied, x = SamplingCopy(master, torch.bfloat16), torch.randn(3, 64, dtype=torch.bfloat16)
    for _ in range(2):
        with torch.no_grad():
            for p in master.parameters():
                p.add_(torch.randn_like(p))
        copied.refresh(master)
        inner = nn.functional.linear(x, master.inner.weight.bfloat16(), master.inner.bias.bfloat16())
        torch.testing.assert_close(copied.model.inner(x), inner, rtol=0.02, atol=0.05)
        assert torch.equal(copied.model.head.weight, master.head.weight.bfloat16())
        assert torch.equal(copied.model.adapter.weight, master.adapter.weight.bfloat16())


@needs_packing
@pytest.mark.parametrize("lora", [None, LoraConfig(rank=2)])
def test_a_packed_copy_samples_as_a_plain_one_does(tmp_path, monkeypatch, lora):
    folder, ids = save_tiny(tmp_path), torch.arange(5, 30)
    monkeypatch.setattr(sampling_copy, "_LEAST", 16)

    def hidden(packs: bool):
        monkeypatch.setattr(sampling_copy, "can_pack", lambda dtype: packs)
        policy = tiny_policy(folder, lora=lora)
        policy.sampling_dtype = torch.bfloat16
        layers = [m for m in policy.sampling_model().modules() if type(m) is PackedLinear]
        assert bool(layers) is packs
        return policy.sampling_hidden(ids, torch.arange(len(ids)))

    torch.testing.assert_close(hidden(True), hidden(False), rtol=0.05, atol=0.05)


@pytest.mark.parametrize("V", [7, 256, 1000])
def test_draws_are_those_of_the_running_sum(V):
    rng = torch.Generator().manual_seed(V)
    p = torch.softmax(4 * torch.randn(500, V, generator=rng), dim=-1)
    uniform = torch.rand(500, generator=rng, dtype=torch.float64)
    sums = p.cumsum(-1, dtype=torch.float64)
    expected = torch.searchsorted(sums, uniform[:, None] * sums[:, -1:], right=True)[:, 0]
    assert torch.equal(inverse_cdf(p, uniform), expected)


@pytest.mark.parametrize("uniform", [0.0, 0.4999, 0.5, 1 - 2**-53])
def test_what_has_no_probability_is_never_drawn(uniform):
    p = torch.zeros(1, 600)
    p[0, 300], p[0, 599] = 0.5, 0.5
    token = inverse_cdf(p, torch.tensor([uniform], dtype=torch.float64)).item()
    assert token == (300 if uniform < 0.5 else 599)
    p[0, 599] = 0.0
    assert inverse_cdf(p, torch.tensor([uniform], dtype=torch.float64)).item() == 300


def test_a_point_that_rounding_puts_behind_the_end_falls_on_the_last_that_can_be_drawn():
    index, _ = _pick(
        torch.tensor([[0.5, 0.5, 0.0, 0.0]], dtype=torch.float64), torch.tensor([1.0], dtype=torch.float64)
    )
    assert index.tolist() == [[1]]
