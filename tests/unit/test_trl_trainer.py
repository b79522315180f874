"""FSTTrainer on one process, with a tiny random model and vLLM's call shapes faked.

Behaviours locked: G rollouts a problem, G/K under each context; the fast phase runs every T batches on the problems to
come; a flat batch moves nothing; reward and feedback functions are TRL's shape; a resumed run ends as an unbroken one;
weights reach vLLM before anything is sampled from it.
"""

from __future__ import annotations

import json
from collections import Counter

import pytest
import torch
from datasets import Dataset
from trl import GRPOConfig
from trl_fakes import (
    FakeClient,
    FakeLLM,
    FakeSamplingParams,
    Notes,
    ParityTask,
    Rules,
    settings,
    tiny_folder,
    trainer,
    weights,
)

from fastslow.errors import ConfigError, RunError
from fastslow.trl import FSTConfig, FSTTrainer
from fastslow.trl.checkpoint import STATE_FILE
from fastslow.types import Score


@pytest.fixture(autouse=True)
def _offline(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_DISABLE_TELEMETRY", "1")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_folder(tmp_path_factory.mktemp("tiny"))


def test_groups_contexts_and_phases(folder, tmp_path):
    notes = Notes()
    fst = trainer(folder, settings(tmp_path, max_steps=4), listener=notes)
    fst.train()
    assert notes.cycles == [0, 1]
    for batch in notes.slow_rollouts:
        assert list(Counter(r.problem_id for r in batch).values()) == [4, 4]
        used = [c.id for c in fst.population.in_use(2)] if batch is notes.slow_rollouts[-1] else None
        for start in (0, 4):
            contexts = [r.context_id for r in batch[start : start + 4]]
            assert contexts[0] == contexts[1] and contexts[2] == contexts[3]
            assert used is None or contexts == [used[0], used[0], used[1], used[1]]
    ahead = {p.id for p in fst.lookahead(0)}
    assert {r.problem_id for call in notes.fast_rollouts[:1] for r in call} <= ahead
    assert {r.problem_id for batch in notes.slow_rollouts[:2] for r in batch} == ahead
    assert sum(map(len, notes.fast_rollouts)) == fst.fst_state.rollouts["fast"] <= 60
    assert fst.fst_state.rollouts["slow"] == 32 and fst.fst_state.problems == 8
    assert len(fst.population.archive) > 1


def test_a_flat_batch_moves_nothing_not_even_by_momentum(folder, tmp_path):
    class Flat(ParityTask):
        flat = False

        def score(self, problem, completion) -> Score:
            return Score(1.0) if self.flat else super().score(problem, completion)

    task, seen = Flat(), []
    fst = trainer(folder, settings(tmp_path, max_steps=3, beta=0.1), task=task, reflector=None)

    class Watch(Notes):
        def slow(self, state, values, sampling, seconds) -> None:
            seen.append((values["flat_groups"], weights(fst)))
            task.flat = len(seen) >= 2

    fst.listener = Watch()
    fst.train()
    (first, after_one), (_, after_two), (flat, after_three) = seen
    assert first < 2 and flat == 2
    assert any(not torch.equal(after_one[n], after_two[n]) for n in after_one)
    assert all(torch.equal(after_two[n], after_three[n]) for n in after_two)


def test_a_grpo_users_dataset_rewards_and_feedback(folder, tmp_path):
    rows = [{"prompt": [{"role": "user", "content": f"What is {i}?"}], "answer": str(i)} for i in range(6)]
    heard = []

    def reward(completions, answer, **_):
        return [float(len(c[0]["content"]) % 2) for c in completions]

    def feedback(prompts, completions, rewards, answer, **_):
        heard.extend(zip([p[-1]["content"] for p in prompts], answer, strict=True))
        return [f"Reward {r}. The answer is {a}." for r, a in zip(rewards, answer, strict=True)]

    class Reads(Rules):
        records: list = []  # noqa: RUF012

        def propose(self, context, records, components, seed):
            self.records.extend(records)
            return super().propose(context, records, components, seed)

    reads = Reads()
    fst = FSTTrainer(
        str(folder), reward, settings(tmp_path), Dataset.from_list(rows), feedback_func=feedback, reflector=reads
    )
    assert fst.sampler.renderer.style == "chat"
    fst.train()
    assert heard and all(question == f"What is {answer}?" for question, answer in heard)
    assert reads.records and all(r.feedback == f"Reward {r.reward}. The answer is {r.problem.answer}."
                                 for r in reads.records)  # fmt: skip
    snapshot = json.loads((tmp_path / "contexts" / "cycle-0000.json").read_text())
    assert snapshot["contexts"] == [c.id for c in fst.population.contexts]


def test_an_unscored_rollout_takes_no_part(folder, tmp_path):
    notes = Notes()

    def reward(completions, **_):
        return [None if i == 0 else float(i % 2) for i in range(len(completions))]

    rows = Dataset.from_list([{"prompt": f"Say {i}"} for i in range(4)])
    fst = FSTTrainer(str(folder), reward, settings(tmp_path, max_steps=1), rows, reflector=None, listener=notes)
    fst.train()
    assert fst.batch.weights_S[0] == 0 and (fst.batch.weights_S[1:] > 0).all()
    assert fst.sampler.renderer.style == "text"


def test_a_resumed_run_ends_as_an_unbroken_one(folder, tmp_path):
    whole = trainer(folder, settings(tmp_path / "whole", max_steps=4))
    whole.train()
    saving = {"save_strategy": "steps", "save_steps": 3}
    part = trainer(folder, settings(tmp_path / "part", max_steps=3, **saving))
    part.train()
    resumed = trainer(folder, settings(tmp_path / "part", max_steps=4, **saving))
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.global_step == 4
    assert [c.id for c in resumed.population.contexts] == [c.id for c in whole.population.contexts]
    assert resumed.population.archive.keys() == whole.population.archive.keys()
    assert resumed.fst_state.rollouts == whole.fst_state.rollouts
    for name, tensor in weights(whole).items():
        assert torch.equal(tensor, weights(resumed)[name]), name


def test_a_checkpoint_without_our_state_is_refused_and_passed_over(folder, tmp_path):
    args = settings(tmp_path, max_steps=2, save_strategy="steps", save_steps=1)
    trainer(folder, args).train()
    (tmp_path / "checkpoint-2" / STATE_FILE).unlink()  # as if killed in the middle of saving
    again = trainer(folder, settings(tmp_path, max_steps=2))
    with pytest.raises(RunError, match=r"no fastslow.json in it .*resume from .*checkpoint-1"):
        again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    again.train(resume_from_checkpoint=True)
    assert again.state.global_step == 2
    with pytest.raises(RunError, match="no whole checkpoint"):
        trainer(folder, settings(tmp_path / "none")).train(resume_from_checkpoint=True)


def test_stop_strings_cut_a_reply_and_end_it(folder, tmp_path):
    fst = trainer(folder, settings(tmp_path, stop=["\n"]), reflector=None)
    ids = fst.processing_class("ab\ncd")["input_ids"]
    done = fst.sampler._completion(((1,), 1), ids, None)
    assert (done.text, done.finish_reason) == ("ab", "stop")
    assert fst.processing_class.decode(done.completion_ids).endswith("\n")
    assert fst.sampler._completion(((1,), 1), ids[:6] + ids[:1] * 6, None).finish_reason in ("stop", "length")


def test_a_failing_reward_function_ends_the_run_with_its_own_error(folder, tmp_path):
    def reward(completions, **_):
        raise ValueError("no such column")

    rows = Dataset.from_list([{"prompt": f"Say {i}"} for i in range(4)])
    fst = FSTTrainer(str(folder), reward, settings(tmp_path), rows, reflector=None)
    with pytest.raises(ValueError, match="no such column"):
        fst.train()


def _colocated(monkeypatch, folder):
    import trl.generation.vllm_generation as module

    monkeypatch.setattr(module, "LLM", FakeLLM, raising=False)
    monkeypatch.setattr(module, "SamplingParams", FakeSamplingParams, raising=False)
    return FakeLLM, "colocate"


def _served(monkeypatch, folder):
    import trl.generation.vllm_generation as module

    monkeypatch.setattr(module, "VLLMClient", FakeClient)
    monkeypatch.setattr(FakeClient, "model", str(folder))
    info = {"model_config": {"logprobs_mode": "processed_logprobs"}}
    monkeypatch.setattr(FakeClient, "get_server_info", lambda self: info, raising=False)
    return FakeClient, "server"


@pytest.mark.parametrize("install", [_colocated, _served], ids=["colocated", "server"])
def test_a_cycle_with_vllms_call_shapes(folder, tmp_path, monkeypatch, install):
    import trl.generation.vllm_generation as module

    monkeypatch.setattr(module, "is_vllm_available", lambda: True)
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "0")  # TRL sets these; put back afterwards
        monkeypatch.delenv(name)
    fake, mode = install(monkeypatch, folder)
    fake.made.clear()
    notes = Notes()
    fst = trainer(folder, settings(tmp_path, use_vllm=True, vllm_mode=mode), listener=notes)
    fst.train()
    (engine,) = fake.made
    parameters = {name for name, _ in fst.model.named_parameters()}
    assert len(engine.pushed) >= 2 * len(parameters) and set(engine.pushed) <= parameters | {"lm_head.weight"}
    rollouts = [r for batch in notes.slow_rollouts for r in batch]
    assert sum(map(len, engine.calls)) == len(rollouts) + fst.fst_state.rollouts["fast"]
    assert all(len(r.logprobs) == len(r.completion_ids) for r in rollouts)
    assert all(torch.isfinite(w).all() for w in weights(fst).values())
    assert abs(notes.lines[0]["loss"]) < 10


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_contexts": 3}, r"num_contexts \(K = 3\) must divide num_generations \(G = 4\)"),
        ({"loss_type": "grpo"}, "token_average: 'problem' needs loss_type cispo or dapo"),
        ({"token_average": "words"}, "token_average: 'words' is not one of"),
        ({"truncated": "no"}, "truncated: 'no' is not one of keep, zero, mask"),
        ({"mask_truncated_completions": True}, "use truncated='mask'"),
        ({"steps_per_generation": 3, "gradient_accumulation_steps": 2, "per_device_train_batch_size": 4},
         "must be a multiple of"),
    ],
)  # fmt: skip
def test_settings_that_clash_are_one_line(tmp_path, changes, message):
    with pytest.raises(ConfigError, match=message):
        settings(tmp_path, **changes)


def test_arguments_that_cannot_work_are_one_line(folder, tmp_path):
    rows = Dataset.from_list([{"prompt": "a"}] * 4)
    with pytest.raises(ConfigError, match="needs an FSTConfig, not GRPOConfig"):
        FSTTrainer(str(folder), args=GRPOConfig(str(tmp_path), use_cpu=True, bf16=False), task=ParityTask())
    with pytest.raises(ConfigError, match="rollout_func: FSTTrainer samples by itself"):
        trainer(folder, settings(tmp_path), rollout_func=print)
    with pytest.raises(ConfigError, match="give one of them"):
        trainer(folder, settings(tmp_path), train_dataset=rows)
    with pytest.raises(ConfigError, match="one of them is needed"):
        trainer(folder, settings(tmp_path), task=None)
    with pytest.raises(ConfigError, match="not a stream"):
        trainer(folder, settings(tmp_path), task=None, train_dataset=rows.to_iterable_dataset())
    with pytest.raises(ConfigError, match="answer_column: 'gold' is no column"):
        FSTTrainer(str(folder), len, settings(tmp_path, answer_column="gold"), rows)


def test_defaults_are_the_papers(tmp_path):
    args = FSTConfig(str(tmp_path), use_cpu=True, bf16=False)
    assert (args.loss_type, args.epsilon_high, args.beta) == ("cispo", 4.0, 0.001)
    assert (args.num_generations, args.num_contexts, args.fast_every) == (8, 4, 6)
    assert not args.use_bias_correction_kl and not args.vllm_importance_sampling_correction
