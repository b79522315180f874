"""One slow step, phase by phase, and beside it a step of TRL's GRPOTrainer on the same model, prompts and token counts.

python benchmarks/step.py --context-tokens 256 --rounds 3          # --no-trl leaves the peer out
"""

from __future__ import annotations

import argparse
import itertools
import random
import tempfile
import time

from common import peak_gb, policy, seconds, show, spread, step_requests

from fastslow.config import SamplingConfig, SlowConfig
from fastslow.policy.model import Policy
from fastslow.policy.sampler import TreeSampler
from fastslow.rollouts import score_rollout
from fastslow.slow.learner import LocalLearner
from fastslow.types import Problem, Request, Rollout, Score, group_rollouts

GROUP = 8


class Lottery:
    """Rewards by lot, so that no group is flat: the cost of a step where every group has a signal."""

    def __init__(self) -> None:
        self.rng = random.Random(0)

    def score(self, problem: Problem, completion: str) -> Score:
        return Score(self.rng.random())


def scored(task: Lottery, requests: list[Request], completions: list, step: int) -> list[Rollout]:
    return [
        score_rollout(task, request, i, c, phase="slow", weights_step=step, truncated="mask")
        for request, samples in zip(requests, completions, strict=True)
        for i, c in enumerate(samples)
    ]


def own_steps(model: Policy, requests: list[Request], new_tokens: int, rounds: int) -> dict[str, list[float]]:
    model.end_ids = ()
    sampler = TreeSampler(model, SamplingConfig(max_new_tokens=new_tokens, batch_size=len(requests) * GROUP))
    learner = LocalLearner(model, SlowConfig(kl=0.0, lr=1e-6), new_tokens)
    task = Lottery()
    times: dict[str, list[float]] = {"sampling": [], "update": [], "step": [], "computed tokens": []}
    for step in range(rounds + 1):
        start = time.perf_counter()
        groups = group_rollouts(scored(task, requests, sampler.sample(requests), step), GROUP)
        sampled = time.perf_counter()
        metrics = learner.update(groups)
        if step:  # the first step warms up
            times["sampling"].append(sampled - start)
            times["update"].append(time.perf_counter() - sampled)
            times["step"].append(time.perf_counter() - start)
            times["computed tokens"].append(metrics["computed_tokens"])
    return times


def trl_steps(model: Policy, requests: list[Request], new_tokens: int, rounds: int) -> list[float]:
    """Seconds of GRPOTrainer's steps with CISPO; every prompt G times, contexts as plain text in front of it."""
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    from fastslow.policy.embedded import embedded_model_dir

    contexts = len({r.context.id for r in requests})
    chosen = [requests[contexts * i + i % contexts] for i in range(len(requests) // contexts)]  # one prompt a problem
    prompts = [model.renderer.full_text(r.context, r.problem) for r in chosen]
    rng, ends = random.Random(0), []

    class Clock(TrainerCallback):
        def on_step_end(self, *_, **__):
            ends.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as folder:
        settings = GRPOConfig(
            output_dir=folder, use_cpu=True, per_device_train_batch_size=64, num_generations=GROUP,
            max_completion_length=new_tokens, generation_kwargs={"min_new_tokens": new_tokens}, loss_type="cispo",
            epsilon_high=4.0, beta=0.0, temperature=1.0, max_steps=rounds + 1, learning_rate=1e-6, bf16=False,
            report_to=[], save_strategy="no", logging_steps=10**6, disable_tqdm=True,
        )  # fmt: skip
        trainer = GRPOTrainer(
            model=AutoModelForCausalLM.from_pretrained(embedded_model_dir()),
            args=settings,
            reward_funcs=lambda completions, **_: [rng.random() for _ in completions],
            train_dataset=Dataset.from_dict({"prompt": prompts * 8}),
            processing_class=model.tokenizer,
            callbacks=[Clock()],
        )
        seconds(trainer.train)
    return [b - a for a, b in itertools.pairwise(ends)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--context-tokens", type=int, default=256)
    parser.add_argument("--new-tokens", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--no-trl", action="store_true")
    args = parser.parse_args()
    model = policy()
    requests = step_requests(model, args.context_tokens, 8, GROUP, 4)
    times = own_steps(model, requests, args.new_tokens, args.rounds)
    unshared = sum(r.n * (len(model.renderer.render(r.context, r.problem)[0]) + args.new_tokens) for r in requests)
    rows = [[f"fastslow: {name}", spread(values)] for name, values in times.items()]
    rows += [["tokens of the unshared batch", str(unshared)], ["peak memory, GB", f"{peak_gb():.2f}"]]
    if not args.no_trl:
        peer = trl_steps(model, requests, args.new_tokens, args.rounds)
        ratios = [p / s for p in peer for s in times["step"]]
        rows += [["TRL GRPOTrainer: step", spread(peer)], ["ratio TRL / fastslow", spread(ratios)]]
    show(
        f"8 problems x {GROUP} rollouts of {args.new_tokens} tokens, 4 contexts of {args.context_tokens} tokens",
        ["measure", "median [min, max]"],
        rows,
    )


if __name__ == "__main__":
    main()
