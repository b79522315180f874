"""Both engines on the same fixed rollouts: same advantages, same loss, same gradient.

The rollouts hold ratios on both sides of 1 and beyond the cap, a flat group, a reply masked for being cut off, and
prompts of different lengths; the weights have moved from the base, so the KL has a gradient.
"""

from __future__ import annotations

import pytest
import torch
from tiny_models import tiny_policy
from transformers import TrainerCallback
from trl_fakes import Notes, ParityTask, settings, tiny_folder, trainer

from fastslow.config import PromptConfig, SlowConfig
from fastslow.fast.population import Population
from fastslow.slow.learner import LocalLearner
from fastslow.trl import private
from fastslow.types import Context, Score, group_rollouts

LOSS_TOLERANCE = 1e-5
GRADIENT_TOLERANCE = 1e-4
"""Norm of the difference over the norm of the gradient: two attentions and two orders of summation, in float32."""

CONTEXTS = (Context({"instructions": "Be brief.", "examples": ""}), Context({"instructions": "", "examples": ""}))
LENGTHS = (3, 6, 1, 6, 2, 2, 5, 4, 6, 1, 3, 2)
REWARDS = (1.0, 0.0, 0.25, 0.0, 0.5, 0.5, 0.5, 0.5, 0.0, 1.0, 1.0, 0.0)  # the second problem's group is flat
NUDGES = (2.0, -1.0, 0.1, -2.5, 0.7, 0.0)  # log π_old = log π_θ + nudge; exp(2.5) is beyond the cap of 4
TEMPERATURE = 0.8


class GivenRewards(ParityTask):
    """The rewards above, in the order of the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.given = iter(REWARDS)

    def score(self, problem, completion) -> Score:
        return Score(next(self.given))


class Gradients(TrainerCallback):
    def __init__(self) -> None:
        self.found: dict[str, torch.Tensor] = {}

    def on_pre_optimizer_step(self, args, state, control, model=None, **_) -> None:
        self.found = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def move(model: torch.nn.Module) -> None:
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for _, parameter in sorted(model.named_parameters()):
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))


def fixed_rollouts(model: torch.nn.Module):
    """``private.generate`` with replies of the lengths above and their shifted log-probabilities."""
    generator = torch.Generator().manual_seed(1)

    @torch.no_grad()
    def generate(_, prompts):
        replies, logprobs = [], []
        for prompt, length in zip(prompts, LENGTHS, strict=True):
            reply = torch.randint(10, 200, (length,), generator=generator)
            if length < 6:
                reply[-1] = 0  # the end token; the others are cut off
            ids = torch.cat([torch.tensor(prompt), reply])[None]
            scores = torch.log_softmax(model(ids).logits[0, len(prompt) - 1 : -1] / TEMPERATURE, -1)
            own = scores.gather(-1, reply[:, None])[:, 0]
            replies.append(reply.tolist())
            logprobs.append([float(p) + NUDGES[t] for t, p in enumerate(own)])
        return replies, logprobs

    return generate


@pytest.mark.parametrize(("loss", "trl_loss", "average"), [("cispo", "cispo", "problem"), ("grpo", "dapo", "sequence"),
                                                           ("dapo", "dapo", "token")])  # fmt: skip
@pytest.mark.parametrize("accumulation", [1, 3])
def test_both_engines_agree(tmp_path, monkeypatch, loss, trl_loss, average, accumulation):
    folder, notes, gradients = tiny_folder(tmp_path / "model"), Notes(), Gradients()
    args = settings(
        tmp_path / "out", max_steps=1, per_device_train_batch_size=12 // accumulation, loss_type=trl_loss,
        gradient_accumulation_steps=accumulation, token_average=average, beta=0.1, temperature=TEMPERATURE,
        epsilon_high=4.0 if loss == "cispo" else 0.2, truncated="mask", max_grad_norm=1e9,
    )  # fmt: skip
    fst = trainer(folder, args, task=GivenRewards(), reflector=None, listener=notes)
    fst.fst_state.population = Population(CONTEXTS)
    fst.add_callback(gradients)
    move(fst.model)
    monkeypatch.setattr(private, "generate", fixed_rollouts(fst.model))
    fst.train()
    (rollouts,) = notes.slow_rollouts

    policy = tiny_policy(folder, prompt=PromptConfig())
    slow = SlowConfig(loss=loss, kl=0.1, truncated="mask", max_grad_norm=1e9, group_size=4, lr=1e-3, warmup=0)
    learner = LocalLearner(policy, slow, max_new_tokens=6, temperature=TEMPERATURE)
    move(policy.model)
    expected: dict[str, torch.Tensor] = {}
    learner.optimizer.register_step_pre_hook(
        lambda *_: expected.update({n: p.grad.clone() for n, p in policy.trainable().items()})
    )
    metrics = learner.update(group_rollouts(rollouts, 4))

    line = notes.lines[0]
    assert len({len(r.prompt_ids) for r in rollouts}) > 1
    assert line["flat_groups"] == metrics["flat_groups"] == 1
    assert line["loss"] == pytest.approx(metrics["loss"], abs=LOSS_TOLERANCE)
    assert gradients.found.keys() == expected.keys()
    ours = torch.cat([expected[n].flatten() for n in sorted(expected)])
    theirs = torch.cat([gradients.found[n].flatten() for n in sorted(expected)])
    assert ours.norm() > 0.01
    assert (ours - theirs).norm() / ours.norm() < GRADIENT_TOLERANCE
    assert (ours + theirs).norm() / ours.norm() > 1  # a flipped sign would be seen
    if accumulation == 1:
        assert line["kl"] == pytest.approx(metrics["kl"], abs=LOSS_TOLERANCE)
