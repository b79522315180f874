"""Locks, on tiny random models: the sharing sampler says what the plain one says, with the log-probabilities of
a plain forward; draws depend on a request's own seed alone; where a reply ends; nothing outlives its weights."""

from __future__ import annotations

from contextlib import contextmanager

import pytest
import torch
from tiny_models import save_tiny, tiny_policy

from fastslow.config import SamplingConfig
from fastslow.errors import ModelError
from fastslow.policy.plain_sampler import PlainSampler
from fastslow.policy.sampler import TreeSampler, build_sampler
from fastslow.policy.tree_attention import ATTENTION_NAME
from fastslow.types import Context, Problem, Request

FAMILIES = ["llama", "qwen3", "gemma3", "gpt2"]
LOGPROB_TOLERANCE = 1e-4  # float32, another order of sums

LONG = Context({"instructions": "Say the word alone, please, and reply in capitals at all times.", "examples": ""})
SHORT = Context({"instructions": "Be brief.", "examples": "### Question\nTwo?\n### Answer\nTWO"})
NONE = Context({"instructions": "", "examples": ""})
PROBLEMS = [Problem(f"p{i}", text) for i, text in enumerate(["What is two?", "And three, please?", "x", "Why? " * 6])]


def requests(n: int = 2) -> list[Request]:
    """Contexts interleaved, so that rows of one context don't arrive together."""
    pairs = [(c, p) for p in PROBLEMS for c in (LONG, NONE, SHORT)]
    return [Request(c, p, n, seed=100 + i) for i, (c, p) in enumerate(pairs)]


@pytest.fixture(scope="module")
def policies(tmp_path_factory):
    cache = {}

    def of(family: str):
        if family not in cache:
            cache[family] = tiny_policy(save_tiny(tmp_path_factory.mktemp(family), family))
        return cache[family]

    return of


def config(**changes) -> SamplingConfig:
    return SamplingConfig(**{"max_new_tokens": 8, "batch_size": 64, **changes})


def assert_same(found, expected) -> None:
    for left, right in zip(found, expected, strict=True):
        assert [c.completion_ids for c in left] == [c.completion_ids for c in right]
        for a, b in zip(left, right, strict=True):
            assert (a.text, a.finish_reason, a.prompt_ids, a.shared) == (
                b.text,
                b.finish_reason,
                b.prompt_ids,
                b.shared,
            )
            assert torch.tensor(a.logprobs) == pytest.approx(torch.tensor(b.logprobs), abs=LOGPROB_TOLERANCE)


@contextmanager
def usual_attention(policy):
    """The model as anybody else would run it."""
    lm = policy.causal_lm
    if policy.shares_prefixes:
        lm.set_attn_implementation("sdpa")
    try:
        with torch.inference_mode():
            yield lm
    finally:
        if policy.shares_prefixes:
            lm.set_attn_implementation(ATTENTION_NAME)


def plain_logprobs(policy, completion, temperature: float = 1.0) -> torch.Tensor:
    ids = torch.tensor([[*completion.prompt_ids, *completion.completion_ids]])
    with usual_attention(policy) as lm:
        logits = lm(input_ids=ids, use_cache=False).logits[0, len(completion.prompt_ids) - 1 : -1]
    return torch.log_softmax(logits.float() / temperature, -1).gather(-1, ids[0, -len(logits) :, None])[:, 0]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_sharing_sampler_says_what_the_plain_one_says(policies, family):
    policy = policies(family)
    assert policy.shares_prefixes and isinstance(build_sampler(policy, config()), TreeSampler)
    shared = TreeSampler(policy, config()).sample(requests())
    assert_same(shared, PlainSampler(policy, config()).sample(requests()))
    assert len({c.completion_ids for row in shared for c in row}) > 12  # replies differ: the comparison means something


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_logprobs_are_those_of_the_plain_forward_at_the_sampling_temperature(policies, family, temperature):
    policy = policies(family)
    for row in TreeSampler(policy, config(temperature=temperature)).sample(requests(1)):
        for completion in row:
            expected = plain_logprobs(policy, completion, temperature)
            assert torch.allclose(torch.tensor(completion.logprobs), expected, atol=LOGPROB_TOLERANCE)


@pytest.mark.parametrize("kind", [TreeSampler, PlainSampler])
@pytest.mark.parametrize("batch_size", [1, 3, 7])
def test_small_batches_give_what_one_large_batch_gives(policies, kind, batch_size):
    policy = policies("llama")
    whole = kind(policy, config()).sample(requests(3))
    assert_same(kind(policy, config(batch_size=batch_size)).sample(requests(3)), whole)


@pytest.mark.parametrize("kind", [TreeSampler, PlainSampler])
def test_the_same_requests_in_the_same_order_give_the_same_bits(policies, kind):
    policy = policies("llama")
    sampler = kind(policy, config(batch_size=5))
    first = sampler.sample(requests())
    assert sampler.sample(requests()) == first == kind(policy, config(batch_size=5)).sample(requests())


@pytest.mark.parametrize("kind", [TreeSampler, PlainSampler])
def test_draws_do_not_depend_on_neighbours(policies, kind):
    policy = policies("llama")
    sampler = kind(policy, config())
    together = sampler.sample(requests())
    alone = [sampler.sample([r])[0] for r in requests()]
    assert_same(alone, together)
    assert_same(list(reversed(sampler.sample(list(reversed(requests()))))), together)


def test_samples_of_a_request_and_seeds_have_streams_of_their_own(policies):
    sampler = TreeSampler(policies("llama"), config())
    (many,) = sampler.sample([Request(LONG, PROBLEMS[0], 6, seed=1)])
    (fewer,) = sampler.sample([Request(LONG, PROBLEMS[0], 3, seed=1)])
    (other,) = sampler.sample([Request(LONG, PROBLEMS[0], 6, seed=2)])
    assert len({c.completion_ids for c in many}) > 1
    assert [c.completion_ids for c in many[:3]] == [c.completion_ids for c in fewer]
    assert [c.completion_ids for c in many] != [c.completion_ids for c in other]


def test_draws_follow_the_model_s_distribution(policies):
    """4000 first tokens against the probabilities of the model: a chi-squared far below chance's 1e-6 quantile."""
    policy = policies("llama")
    (drawn,) = TreeSampler(policy, config(max_new_tokens=1, batch_size=4000)).sample([Request(LONG, PROBLEMS[0], 4000)])
    with usual_attention(policy) as lm:
        logits = lm(input_ids=torch.tensor([drawn[0].prompt_ids])).logits[0, -1]
    expected = torch.softmax(logits.double(), -1) * 4000
    found = torch.bincount(torch.tensor([c.completion_ids[0] for c in drawn]), minlength=len(expected)).double()
    often = expected >= 5
    assert int(often.sum()) >= 10
    found = torch.cat([found[often], found[~often].sum()[None]])
    expected = torch.cat([expected[often], expected[~often].sum()[None]])
    degrees = len(expected) - 1
    chi_squared = float(((found - expected) ** 2 / expected.clamp_min(1)).sum())
    assert chi_squared < degrees + 7 * (2 * degrees) ** 0.5


@pytest.mark.parametrize("kind", [TreeSampler, PlainSampler])
def test_temperature_zero_is_greedy(policies, kind):
    policy = policies("llama")
    for row in kind(policy, config(temperature=0)).sample(requests(2)):
        assert row[0].completion_ids == row[1].completion_ids
        for i, token in enumerate(row[0].completion_ids):
            before = [*row[0].prompt_ids, *row[0].completion_ids[:i]]
            with usual_attention(policy) as lm:
                logits = lm(input_ids=torch.tensor([before])).logits[0, -1]
            assert int(logits.argmax()) == token
            assert row[0].logprobs[i] == pytest.approx(float(torch.log_softmax(logits, -1)[token]), abs=1e-4)


@pytest.mark.parametrize("kind", [TreeSampler, PlainSampler])
def test_a_reply_ends_at_a_stop_string_the_end_token_or_the_last_token(policies, kind):
    policy = policies("llama")
    stop = ["e", "an"]
    rows = kind(policy, config(max_new_tokens=24, stop=stop)).sample(requests(6))
    free = kind(policy, config(max_new_tokens=24)).sample(requests(6))
    end = policy.tokenizer.eos_token_id
    seen = set()
    for completion, unstopped in zip([c for r in rows for c in r], [c for r in free for c in r], strict=True):
        length = len(completion.completion_ids)
        assert completion.completion_ids == unstopped.completion_ids[:length]  # stopping changes no draw
        assert not any(s in completion.text for s in stop) and "<|" not in completion.text
        raw = policy.tokenizer.decode(completion.completion_ids)
        before = policy.tokenizer.decode(completion.completion_ids[:-1])
        assert not any(s in before for s in stop) and end not in completion.completion_ids[:-1]
        if completion.completion_ids[-1] == end:
            why = "end"
        elif any(s in raw for s in stop):
            why = "stop"
        else:
            why = "length"
        seen.add(why)
        assert completion.finish_reason == ("length" if why == "length" else "stop")
        assert why != "length" or length == 24
        assert len(completion.logprobs) == length
    assert seen == {"end", "stop", "length"}


def test_changed_weights_are_sampled_from_at_once(tmp_path):
    """Nothing computed under the old weights survives a weights step."""
    policy = tiny_policy(save_tiny(tmp_path))
    sampler = TreeSampler(policy, config())
    before = sampler.sample(requests(1))
    with torch.no_grad():
        for parameter in policy.trainable().values():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)), alpha=0.05)
    policy.weights_step += 1
    after = sampler.sample(requests(1))
    assert sampler.weights_step == 1
    assert_same(after, TreeSampler(policy, config()).sample(requests(1)))
    moved = [abs(a.logprobs[0] - b.logprobs[0]) for (a,), (b,) in zip(before, after, strict=True)]
    assert max(moved) > 100 * LOGPROB_TOLERANCE


def test_each_context_is_computed_once_per_weights_step(tmp_path, monkeypatch):
    policy = tiny_policy(save_tiny(tmp_path))
    sampler = TreeSampler(policy, config(batch_size=4))
    lengths = []
    whole = policy.sampling_hidden
    monkeypatch.setattr(policy, "sampling_hidden", lambda ids, at: (lengths.append(len(ids)), whole(ids, at))[1])
    asked = [Request(LONG, p, 2, 7) for p in PROBLEMS]
    prompts = [policy.renderer.render(LONG, p) for p in PROBLEMS]
    shared = prompts[0][1]
    assert shared > 20
    results = sampler.sample(asked)
    # A context once, each problem once, and every token of a reply but its last.
    tails = sum(len(c.completion_ids) - 1 for row in results for c in row)
    assert sum(lengths) == shared + sum(len(ids) - s for ids, s in prompts) + tails
    lengths.clear()
    sampler.sample(asked)
    assert sum(lengths) == sum(len(ids) - s for ids, s in prompts) + tails
    policy.weights_step += 1
    lengths.clear()
    sampler.sample(asked)
    assert sum(lengths) == shared + sum(len(ids) - s for ids, s in prompts) + tails


def test_a_context_is_computed_in_a_forward_of_its_own_whatever_its_company(tmp_path, monkeypatch):
    """Packed together, contexts would round differently than alone, and a resumed run would not repeat to the bit."""
    policy = tiny_policy(save_tiny(tmp_path))
    forwards = []
    whole = policy.sampling_hidden
    monkeypatch.setattr(
        policy, "sampling_hidden", lambda ids, at: (forwards.append(tuple(ids.tolist())), whole(ids, at))[1]
    )
    TreeSampler(policy, config()).sample([Request(c, PROBLEMS[0], 1, 7) for c in (LONG, SHORT)])
    for context in (LONG, SHORT):
        ids, shared = policy.renderer.render(context, PROBLEMS[0])
        assert forwards.count(ids[:shared]) == 1


def test_a_model_that_cannot_share_gets_the_plain_sampler(policies):
    policy = policies("gemma2")
    sampler = build_sampler(policy, config(batch_size=5))
    assert not policy.shares_prefixes and isinstance(sampler, PlainSampler)
    for row in sampler.sample(requests()):
        for completion in row:
            expected = plain_logprobs(policy, completion)
            assert torch.allclose(torch.tensor(completion.logprobs), expected, atol=LOGPROB_TOLERANCE)


def test_a_model_without_keys_and_values_is_refused_in_one_line(tmp_path):
    with pytest.raises(ModelError, match=r"^model\.name: .* keeps no key-value cache; choose a model with attention$"):
        tiny_policy(save_tiny(tmp_path, "mamba"))


@pytest.mark.parametrize("kind", [TreeSampler, PlainSampler])
def test_a_prompt_that_is_too_long_is_told_before_any_compute(policies, kind):
    policy = policies("llama")
    long = Problem("too-long", "word " * 600)
    with pytest.raises(
        ModelError, match=r"problem 'too-long' .* model holds 512; lower fast\.max_context_tokens"
    ) as told:
        kind(policy, config()).sample([Request(NONE, long)])
    assert "\n" not in str(told.value)


def test_no_requests_give_nothing(policies):
    for kind in (TreeSampler, PlainSampler):
        assert kind(policies("llama"), config()).sample([]) == []
