"""Locks: counts are those of the loop; costs follow from sizes by hand-derived numbers; low never exceeds high; sizes
are read from files or names without loading weights; prompts and replies that can't fit are found before compute."""

from __future__ import annotations

import dataclasses

import pytest
from tiny_models import CHATML, save_tiny, tiny_policy

from fastslow import costs, planning
from fastslow.config import EMBEDDED_MODEL, ModelConfig, RunConfig
from fastslow.config_io import parse_config
from fastslow.costs import Speed
from fastslow.errors import ModelError
from fastslow.policy import logprobs
from fastslow.policy.facts import ModelFacts, model_facts, parse_size
from fastslow.preflight import Lengths, check_prompts, measure_lengths
from fastslow.types import Context, Problem, Score

LENGTHS = Lengths(problem=20, seed_context=0, longest=30, longest_id="p", gold=(4, 6), exact=True)
SPEED = Speed({1: 1e-10, 8: 2e-10, 64: 1e-9, 512: 8e-9})
FACTS = ModelFacts("test", parameters=1000, body=800, head=200, layers=2, width=10, key_width=5, heads=2, vocabulary=20)


def config(**changes) -> RunConfig:
    data = {
        "task": {"name": "chain_sum", "val_size": 4},
        "steps": 5,
        "sampling": {"max_new_tokens": 8},
        "fast": {"every": 2, "budget": 10, "population": 2},
        "slow": {"group_size": 4, "problems_per_step": 2, "kl": 0.0},
        "evaluation": {"every": 2},
    }
    for key, value in changes.items():
        data[key] = {**data[key], **value} if isinstance(value, dict) and key in data else value
    return parse_config(data)


def plan(settings: RunConfig, facts: ModelFacts = FACTS) -> planning.Plan:
    return planning.make_plan(settings, facts, LENGTHS, (SPEED, SPEED))


def test_counts_are_the_loop_s():
    fst = plan(config())
    assert (fst.cycles, fst.fast_rollouts, fst.slow_rollouts, fst.optimizer_steps) == (3, 30, 5 * 2 * 4, 5)
    # At 0 the best context is the seed; at 2, 4 and the end (5) there are two to measure.
    assert fst.evaluation_rollouts == (1 + 3 * 2) * 4
    rl = plan(config(method="rl", steps=1000, max_rollouts=21))
    assert (rl.cycles, rl.fast_rollouts, rl.slow_rollouts, rl.optimizer_steps) == (0, 0, 16, 2)
    gepa = plan(config(method="gepa", steps=1000, max_rollouts=21))
    assert (gepa.cycles, gepa.fast_rollouts, gepa.slow_rollouts, gepa.optimizer_steps) == (3, 21, 0, 0)


def test_a_step_of_the_forest_counts_each_context_and_problem_once():
    case = planning._Case(reply=8, longest=8, context=100, contexts=2, flat=0, budget=1)
    # 2 contexts of 100; 2 problems of 20 under each; 2 problems x 4 rollouts x 8 tokens
    assert planning._step_tokens(config(), 20, case) == (200 + 80 + 64, 80 + 64, 64)
    half = dataclasses.replace(case, flat=0.5)
    assert planning._step_tokens(config(), 20, half) == (200 + 40 + 32, 40 + 32, 32)


@pytest.mark.parametrize("method", ["fst", "rl", "gepa"])
def test_the_low_end_is_below_the_high_end_in_every_phase(method):
    found = plan(config(method=method))
    assert found.low.memory <= found.high.memory
    assert found.low.seconds.keys() == found.high.seconds.keys()
    for phase, seconds in found.low.seconds.items():
        assert 0 < seconds <= found.high.seconds[phase], phase
    phases = {"fst": {"fast phases", "slow: training"}, "rl": {"slow: training"}, "gepa": {"fast phases"}}[method]
    assert phases == {"fast phases", "slow: training"} & found.high.seconds.keys()


def test_more_of_anything_takes_longer():
    base = plan(config()).high.total
    for change in ({"steps": 10}, {"sampling": {"max_new_tokens": 64}}, {"slow": {"kl": 0.1}}):
        assert plan(config(**change)).high.total > base, change


def test_speed_is_interpolated_and_grows_in_proportion_beyond_the_probe():
    assert SPEED.product(10, 64) == pytest.approx(1e-8)
    assert SPEED.product(10, 36) == pytest.approx(10 * 0.6e-9)  # halfway from 8 to 64
    assert SPEED.product(10, 1024) == pytest.approx(10 * 16e-9)
    assert SPEED.product(10, 0.5) == SPEED.product(10, 1)
    assert SPEED.product(10, 0) == 0


def test_bytes_by_hand():
    full = config()
    # weights 4 and moments 8 bytes for each of 1000 parameters; the base model another 4 when KL asks for it
    assert costs.fixed_bytes(full, FACTS) == costs.PROCESS_BYTES + 12_000
    assert costs.fixed_bytes(config(slow={"kl": 0.1}), FACTS) == costs.PROCESS_BYTES + 16_000
    assert costs.fixed_bytes(full, FACTS, 2) == costs.PROCESS_BYTES + 14_000  # and a copy to sample from in bfloat16
    assert costs.fixed_bytes(config(method="gepa"), FACTS) == costs.PROCESS_BYTES + 4_000
    lora = config(model={"lora": {"rank": 1}})
    # rank 1 x 2 layers x width 10 x 18 widths of inputs and outputs
    assert costs.trained_parameters(lora, FACTS) == 360
    assert costs.checkpoint_bytes(full, FACTS) == (12_000, 12_000)  # steps 5, every 6: the last alone
    assert costs.checkpoint_bytes(config(steps=60), FACTS) == (12_000, 36_000)  # two are kept, one is being written
    # 3 tokens x vectors x 2 layers x 10 x 4 bytes; 2 of them look at 50 tokens with 2 heads in 2 layers
    vectors = 3 * costs.ACTIVATION_VECTORS_PER_LAYER * 2 * 10 * 4
    assert costs.activation_bytes(FACTS, 3, 2, 50) == vectors + 2 * 2 * 2 * 50 * 4


def test_the_head_s_chunk_is_the_one_of_the_training_forward():
    assert costs.HEAD_CHUNK_LOGITS == logprobs.CHUNK_LOGITS


def test_the_measured_peaks_of_the_embedded_model_lie_in_the_range():
    """Two cores, float32: 8 x 8 rollouts of 6 tokens under 4 contexts of 128 took 5.25 GB, the demo's FST arm 4.0."""
    facts = model_facts(ModelConfig())
    case = planning._Case(reply=6, longest=6, context=128, contexts=4, flat=0, budget=1)
    settings = config(slow={"group_size": 8, "problems_per_step": 8}, fast={"population": 4})
    lengths = dataclasses.replace(LENGTHS, problem=21)
    assert planning._memory(settings, facts, lengths, case, 4) / 1e9 == pytest.approx(5.25, rel=0.1)


@pytest.mark.parametrize(
    "text, size",
    [("8B", 8_000_000_000), ("0.6b", 600_000_000), ("135M", 135_000_000), ("7e9", 7_000_000_000), ("big", None)],
)
def test_sizes_are_read_as_people_write_them(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "name, parameters, active",
    [
        ("Qwen/Qwen3-8B", 8_000_000_000, 8_000_000_000),
        ("Qwen/Qwen3-30B-A3B", 30_000_000_000, 3_000_000_000),
        ("SmolLM2-135M-Instruct.Q4_1.gguf", 135_000_000, 135_000_000),
        ("mistral-large", None, 0),
    ],
)
def test_a_size_may_be_read_from_the_name(monkeypatch, name, parameters, active):
    monkeypatch.setattr("fastslow.policy.facts.local_folder", lambda config: None)
    facts = model_facts(ModelConfig(name=name))
    assert facts.parameters == parameters
    assert facts.body + facts.head == active
    assert ("read from the name" in facts.source) == (parameters is not None)


def test_an_unknown_size_may_be_given(monkeypatch):
    monkeypatch.setattr("fastslow.policy.facts.local_folder", lambda config: None)
    assert plan(config(), model_facts(ModelConfig(name="mistral-large"))).high is None
    facts = model_facts(ModelConfig(name="mistral-large"), "7B")
    assert facts.parameters == 7_000_000_000 and plan(config(), facts).high.memory > 16 * 7e9 - 1e9


def test_guessed_shapes_are_near_the_real_ones():
    """From 8 billion parameters alone: Qwen3-8B has 36 layers of width 4096."""
    facts = model_facts(ModelConfig(name="x"), "8.2e9")
    assert facts.layers * facts.width == pytest.approx(36 * 4096, rel=0.15)


def test_sizes_of_a_folder_are_counted_from_its_files(tmp_path):
    folder = save_tiny(tmp_path / "model")
    facts = model_facts(ModelConfig(name=str(folder)))
    real = sum(p.numel() for p in tiny_policy(folder).model.parameters())
    assert facts.parameters == real
    assert (facts.layers, facts.width, facts.key_width, facts.heads, facts.window) == (2, 32, 16, 4, 512)


def test_the_embedded_model_is_known_before_it_is_fetched(monkeypatch, tmp_path):
    monkeypatch.setenv("FASTSLOW_CACHE", str(tmp_path))
    facts = model_facts(ModelConfig(name=EMBEDDED_MODEL))
    # body and head: 49,152 x 576 in one table, which is tied
    assert (facts.body, facts.head) == (134_515_008 - 49_152 * 576, 49_152 * 576) and facts.folder is None


class Words:
    """A task whose problems have as many words as asked for, and answers likewise."""

    name = "words"
    seed_context = Context({"instructions": "", "examples": ""})

    def __init__(self, sizes, answer="yes") -> None:
        self.train = [Problem(f"p{n}", "word " * n, answer) for n in sizes]
        self.val = [Problem("v", "word", answer)]

    def score(self, problem: Problem, completion: str) -> Score:
        return Score(float(completion == problem.answer))


@pytest.fixture(scope="module")
def renderer(tmp_path_factory):
    return tiny_policy(save_tiny(tmp_path_factory.mktemp("lengths") / "model")).renderer


def test_the_longest_prompt_is_the_one_the_sampler_would_see(renderer):
    task = Words([3, 40, 7])
    lengths = measure_lengths(task, renderer)
    assert lengths.longest_id == "p40" and lengths.exact
    assert lengths.longest == len(renderer.render(task.seed_context, task.train[1])[0])
    assert set(lengths.gold) == {len(renderer.tokenizer(" yes")["input_ids"]) + 1}
    guessed = measure_lengths(task, None)
    assert guessed.longest_id == "p40" and not guessed.exact


def test_a_chat_model_s_reply_has_no_leading_space(tmp_path):
    renderer = tiny_policy(save_tiny(tmp_path / "chat", chat_template=CHATML)).renderer
    assert renderer.reply_tokens("yes") == len(renderer.tokenizer("yes")["input_ids"])


def test_a_problem_too_long_for_the_model_is_refused_by_name(renderer):
    lengths = measure_lengths(Words([3, 40]), renderer)
    window = lengths.longest + 8  # with sampling.max_new_tokens = 8 it just fits
    rl = config(method="rl")
    assert check_prompts(rl, lengths, window).max_context_tokens == 512
    with pytest.raises(ModelError, match=r"sampling\.max_new_tokens: problem 'p40' takes .* lower"):
        check_prompts(rl, lengths, window - 1)
    with pytest.raises(ModelError, match="no room is left for a context"):
        check_prompts(config(), lengths, window)


def test_contexts_are_held_to_what_fits_beside_the_longest_problem():
    found = check_prompts(config(), LENGTHS, 100)
    assert found.max_context_tokens == 100 - 8 - 30
    assert "fast.max_context_tokens = 512: contexts are held to 62 tokens" in found.notes[0]
    with_seed = dataclasses.replace(LENGTHS, seed_context=10)  # of the 30, 10 are the seed's own
    assert check_prompts(config(), with_seed, 100).max_context_tokens == 72
    assert check_prompts(config(), LENGTHS, 30 + 8 + 512) == check_prompts(config(), LENGTHS, None)
    assert not check_prompts(config(), LENGTHS, None).notes


def test_replies_too_short_for_their_answers_are_told():
    short = config(sampling={"max_new_tokens": 5})
    (note,) = check_prompts(short, LENGTHS, None).notes
    assert note.startswith("sampling.max_new_tokens = 5 cuts off 1 of 2 gold answers") and "raise it to 6" in note
    (note,) = check_prompts(config(sampling={"max_new_tokens": 3}), LENGTHS, None).notes
    assert "every gold answer" in note


@pytest.mark.parametrize(
    "low, high, text",
    [
        (4, 4, "4.0 s"),
        (20, 40, "20 to 40 s"),
        (90, 360, "1.5 to 6.0 min"),
        (3600, 36000, "1.0 to 10 h"),
        (1e9, 1e10, "32 to 317 years"),
    ],
)
def test_a_span_has_one_unit(low, high, text):
    assert planning.span(low, high) == text
