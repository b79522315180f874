"""The flat example and the library are one algorithm: equal losses on the same rollouts, for two steps on the model."""

from __future__ import annotations

import importlib.util
import random
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from fastslow.config import ModelConfig, PromptConfig, SamplingConfig, SlowConfig
from fastslow.policy.embedded import embedded_model_dir
from fastslow.policy.loading import load_policy
from fastslow.policy.sampler import build_sampler
from fastslow.slow.learner import LocalLearner
from fastslow.types import Context, Problem, Request, Rollout, group_rollouts
from fastslow.worked_examples import WorkedExample, format_examples

pytestmark = pytest.mark.real
LOSS_TOLERANCE = 1e-4  # float32, summed in another order

EXAMPLE = Path(__file__).parents[2] / "examples" / "minimal_fst.py"
PROBLEMS, CONTEXTS, GROUP = 3, 2, 4


@pytest.fixture(scope="module")
def minimal():
    spec = importlib.util.spec_from_file_location("minimal_fst", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    sys.modules["minimal_fst"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def sampled(policy, minimal) -> list[Rollout]:
    """Rollouts of real prompts with rewards that make one group flat and the others not."""
    train, _ = minimal.make_problems(0)
    contexts = [
        Context(
            {
                "instructions": "Write the final answer in square brackets, like [7].",
                "examples": format_examples(WorkedExample(p.question, p.answer) for p in train[k : k + 3]),
            }
        )
        for k in (20, 30)
    ]
    problems = [Problem(str(i), p.question, p.answer) for i, p in enumerate(train[:PROBLEMS])]
    requests = [Request(c, p, GROUP // CONTEXTS, seed=i) for i, p in enumerate(problems) for c in contexts]
    sampler = build_sampler(policy, SamplingConfig(max_new_tokens=8, stop=["\n"]))
    rng, rollouts = random.Random(0), []
    for request, completions in zip(requests, sampler.sample(requests)):
        for c in completions:
            reward = 0.0 if request.problem.id == "0" else float(rng.random() < 0.5)
            rollouts.append(
                Rollout(
                    request.problem.id,
                    request.context.id,
                    0,
                    "slow",
                    request.seed,
                    c.prompt_ids,
                    c.shared,
                    c.completion_ids,
                    c.logprobs,
                    c.text,
                    c.finish_reason,
                    reward,
                )
            )
    return rollouts


def test_losses_equal_the_flat_examples_for_two_steps(minimal):
    policy = load_policy(
        ModelConfig(sampling_dtype="float32", train_dtype="float32", prompt=PromptConfig(style="text"))
    )
    rollouts = sampled(policy, minimal)
    groups = group_rollouts(rollouts, GROUP)
    assert sum(g.is_flat for g in groups) >= 1 and sum(not g.is_flat for g in groups) >= 1

    config = SlowConfig(lr=minimal.LR, warmup=minimal.WARMUP, kl=0.0, group_size=GROUP)
    learner = LocalLearner(policy, config, max_new_tokens=8)
    # Both steps on the same rollouts, so that the second has ratios away from 1 and sees the first update. The learner
    # refuses rollouts of earlier weights, so the second step's are stamped anew.
    stamped = group_rollouts([replace(r, weights_step=1) for r in rollouts], GROUP)
    library = [learner.update(g)["loss"] for g in (groups, stamped)]

    model = AutoModelForCausalLM.from_pretrained(embedded_model_dir(), dtype=torch.float32).eval()
    optimizer = torch.optim.AdamW(model.parameters(), lr=minimal.LR, weight_decay=0.0)
    by_id = {r.problem_id: minimal.Problem(r.problem_id, "") for r in rollouts}
    flat = [
        minimal.Rollout(by_id[r.problem_id], r.prompt_ids, r.completion_ids, r.logprobs, r.text, r.reward, "")
        for r in rollouts
    ]
    example = [minimal.slow_step(model, optimizer, flat, updates) for updates in range(2)]

    assert library == pytest.approx(example, abs=LOSS_TOLERANCE)
    assert abs(library[0] - library[1]) > 10 * LOSS_TOLERANCE  # the update moved something


def test_the_flat_example_prompts_like_the_library(minimal):
    policy = load_policy(ModelConfig(prompt=PromptConfig(style="text")))
    shots = (minimal.Problem("1 + 1 =", "[2]"), minimal.Problem("2 + 2 =", "[4]"))
    flat = minimal.Context("Answer in brackets.", shots).prompt(minimal.Problem("3 + 3 =", "[6]"))
    context = Context(
        {
            "instructions": "Answer in brackets.",
            "examples": format_examples(WorkedExample(s.question, s.answer) for s in shots),
        }
    )
    assert policy.renderer.full_text(context, Problem("a", "3 + 3 =")) == flat
