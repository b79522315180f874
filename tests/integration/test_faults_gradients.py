"""Faults of gradients and weights, in whole runs on a tiny model. Locks: a bad gradient costs its own update and
nothing else; several in a row stop the run with a checkpoint to go on from; weights that hold NaN are neither
saved nor sampled from."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from faults_run import Said, config, make_home, saved_weights, slow_lines

from fastslow.engines.local import train
from fastslow.errors import ModelError, RunError
from fastslow.runs.checkpoint import load_latest
from fastslow.slow.guard import ENOUGH, EXPLOSION, HISTORY, GradientGuard
from fastslow.slow.learner import LocalLearner


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    return make_home(tmp_path_factory.mktemp("faults"))


def poison(monkeypatch, at, how) -> list[int]:
    """Let ``how(learner, totals)`` spoil the backward pass of the updates (by number of the call) in ``at``."""
    whole, calls = LocalLearner._backward, []

    def spoiled(self, samples):
        calls.append(len(calls))
        totals = whole(self, samples)
        if calls[-1] in at:
            how(self, totals)
        return totals

    monkeypatch.setattr(LocalLearner, "_backward", spoiled)
    return calls


def nan_gradient(learner, totals) -> None:
    next(iter(learner.policy.trainable().values())).grad.view(-1)[0] = math.nan


def nan_loss(learner, totals) -> None:
    totals["loss"] = math.nan


def huge_gradient(learner, totals) -> None:
    for parameter in learner.policy.trainable().values():
        parameter.grad.mul_(1e4)


@pytest.mark.parametrize("how", [nan_gradient, nan_loss])
def test_a_bad_gradient_costs_its_update_and_nothing_else(home, tmp_path, monkeypatch, how):
    poison(monkeypatch, {1}, how)
    said = Said()
    summary = train(config(home, slow={"warmup": 5}), tmp_path / "run", progress=said)
    lines = slow_lines(tmp_path / "run")
    assert [line["skipped_steps"] for line in lines] == [0, 1, 0, 0]
    assert summary.skipped_steps == 1 and summary.steps == 4
    assert sum("update skipped (gradient norm" in line for line in said.lines) == 1
    assert "1 updates were skipped for a NaN or exploding gradient" in str(said)
    # The skipped update left weights, optimizer and warm-up as they were: the next one has the same learning rate.
    assert [line["lr"] for line in lines] == pytest.approx([0.002, 0.004, 0.004, 0.006])
    assert all(torch.isfinite(t).all() for t in saved_weights(tmp_path / "run").values())
    with_skip, state = load_latest(tmp_path / "run" / "checkpoints")[1:]
    assert state["learner"]["updates"] == 3 and all(torch.isfinite(t).all() for t in with_skip["optimizer"].values())


def test_a_skipped_update_moves_neither_weights_nor_optimizer(home, tmp_path, monkeypatch):
    poison(monkeypatch, {2}, nan_gradient)
    train(config(home, steps=3), tmp_path / "run")
    folders = sorted((tmp_path / "run" / "checkpoints").iterdir())
    before, after = [_tensors(f) for f in folders[-2:]]
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before if not name.startswith("rng"))


def _tensors(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return {f"{p.stem}/{n}": t for p in folder.glob("*.safetensors") for n, t in load_file(p).items()}


def test_an_exploding_gradient_is_skipped_and_a_run_resumed_before_it_skips_it_too(home, tmp_path, monkeypatch):
    settings = config(home, steps=ENOUGH + 3)
    with monkeypatch.context() as patch:
        poison(patch, {ENOUGH}, huge_gradient)
        train(settings, tmp_path / "whole")
    skipped = [line["skipped_steps"] for line in slow_lines(tmp_path / "whole")]
    assert skipped == [0] * ENOUGH + [1, 0, 0]
    with monkeypatch.context() as patch:
        poison(patch, {ENOUGH}, huge_gradient)
        train(config(home, steps=ENOUGH - 1), tmp_path / "parts")
    with monkeypatch.context() as patch:
        poison(patch, {1}, huge_gradient)
        train(settings, tmp_path / "parts", resume=True)
    assert [line["skipped_steps"] for line in slow_lines(tmp_path / "parts")] == skipped
    whole, parts = saved_weights(tmp_path / "whole"), saved_weights(tmp_path / "parts")
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_several_in_a_row_stop_the_run_with_the_last_good_checkpoint(home, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        poison(patch, range(2, 99), nan_gradient)
        with pytest.raises(RunError) as caught:
            train(config(home, steps=8, checkpoint_every=0, slow={"max_skipped_steps": 3}), tmp_path / "run")
    message = str(caught.value)
    assert message == (
        "3 updates in a row were skipped (gradient norm nan), and the weights are still those of weights step 2; raise "
        "slow.max_skipped_steps to go past them, or start anew with a lower slow.lr; saved up to step 4: "
        f"go on with --resume --out {tmp_path / 'run'}"
    )
    assert all(torch.isfinite(t).all() for t in saved_weights(tmp_path / "run").values())
    # Mended (here the poison is gone), and more patient: nothing of the steps before is lost.
    summary = train(
        config(home, steps=8, checkpoint_every=0, slow={"max_skipped_steps": 9}), tmp_path / "run", resume=True
    )
    lines = slow_lines(tmp_path / "run")
    assert [line["skipped_steps"] for line in lines] == [0, 0, 1, 1, 0, 0, 0, 0]
    assert summary.skipped_steps == 2 and [line["step"] for line in lines] == list(range(1, 9))


def test_a_good_update_between_starts_the_count_anew(home, tmp_path, monkeypatch):
    poison(monkeypatch, {0, 1, 3, 4}, nan_gradient)
    summary = train(config(home, steps=6, slow={"max_skipped_steps": 3}), tmp_path / "run")
    assert summary.skipped_steps == 4 and summary.steps == 6


def test_weights_that_hold_nan_are_told_and_never_saved(home, tmp_path, monkeypatch):
    whole = LocalLearner.update

    def struck(self, groups):
        metrics = whole(self, groups)
        if self.updates == 3:
            with torch.no_grad():
                next(iter(self.policy.trainable().values())).view(-1)[:] = math.nan
        return metrics

    with monkeypatch.context() as patch:
        patch.setattr(LocalLearner, "update", struck)
        with pytest.raises(ModelError) as caught:
            train(config(home), tmp_path / "run")
    message = str(caught.value)
    assert message.startswith("weights step 3: ") and "holds NaN or infinite weights, which are never saved" in message
    assert message.endswith(f"saved up to step 2: go on with --resume --out {tmp_path / 'run'}")
    assert all(torch.isfinite(t).all() for t in saved_weights(tmp_path / "run").values())
    assert train(config(home), tmp_path / "run", resume=True).steps == 4


@pytest.mark.parametrize("shares", [True, False])
@pytest.mark.parametrize("temperature", [1.0, 0.0])
def test_nan_logits_are_an_error_that_names_the_weights_step(home, shares, temperature):
    from tiny_models import tiny_policy

    from fastslow.config import SamplingConfig
    from fastslow.policy.plain_sampler import PlainSampler
    from fastslow.policy.sampler import TreeSampler
    from fastslow.types import Context, Problem, Request

    policy = tiny_policy(home / "model")
    with torch.no_grad():
        policy.causal_lm.get_output_embeddings().weight[7] = math.nan
    policy.weights_step = 12
    if not shares:
        policy.causal_lm.set_attn_implementation("sdpa")
    sampler = (TreeSampler if shares else PlainSampler)(policy, SamplingConfig(temperature=temperature))
    with pytest.raises(ModelError, match=r"weights step 12: the model's logits are NaN or infinite"):
        sampler.sample([Request(Context({"instructions": "a"}), Problem("p", "What is two?"), 1, 0)])


def test_what_counts_as_exploding() -> None:
    guard = GradientGuard()
    assert [guard.skips(0.0, n) for n in (1.0, 1e9, 2.0, 3.0, 4.0)] == [False] * ENOUGH  # too few to say
    # The median of 1, 1e9, 2, 3, 4 is 3.
    assert guard.skips(0.0, 3 * EXPLOSION * 1.01) and not guard.skips(0.0, 3 * EXPLOSION * 0.99)
    for loss, norm in ((math.nan, 1.0), (math.inf, 1.0), (0.0, math.nan), (0.0, math.inf)):
        assert guard.skips(loss, norm)
    assert len(guard.norms) == 6
    for _ in range(2 * HISTORY):
        guard.skips(0.0, 1.0)
    assert guard.norms == [1.0] * HISTORY
