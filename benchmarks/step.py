"""One slow step, phase by phase, and beside it a step of TRL's GRPOTrainer on the same model, prompts and token counts.

python benchmarks/step.py --context-tokens 256 --rounds 3          # --no-trl leaves the peer out

Each side lives in a process of its own (so each has its own peak memory and allocator) and they take turns, so that a
slow minute of the machine meets both. The first step of each warms up and isn't counted.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from multiprocessing.connection import Connection
from typing import Any

from common import Turns, median, own_dtype, peak_gb, policy, ratios, spread, step_requests, write_section

from fastslow.config import SamplingConfig, SlowConfig
from fastslow.policy import compute
from fastslow.policy.model import Policy
from fastslow.policy.sampler import TreeSampler
from fastslow.rollouts import score_rollout
from fastslow.slow.learner import LocalLearner
from fastslow.types import Problem, Request, Rollout, Score, group_rollouts

TOKEN_BUDGET = 1536
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


class OwnStep:
    """Sampling, scoring and one optimizer step of the local engine; replies take all their tokens, as the peer's do."""

    def __init__(self, model: Policy, requests: list[Request], new_tokens: int, group: int, **slow: Any) -> None:
        model.end_ids = ()
        self.requests, self.group = requests, group
        self.sampler = TreeSampler(model, SamplingConfig(max_new_tokens=new_tokens, batch_size=4096))
        settings = {"kl": 0.0, "lr": 1e-6, "token_budget": TOKEN_BUDGET, **slow}
        self.learner = LocalLearner(model, SlowConfig(**settings), new_tokens)
        self.task = Lottery()

    def __call__(self) -> dict[str, float]:
        start = time.perf_counter()
        completions = self.sampler.sample(self.requests)
        sampled = time.perf_counter()
        rollouts = scored(self.task, self.requests, completions, self.learner.policy.weights_step)
        metrics = self.learner.update(group_rollouts(rollouts, self.group))
        end = time.perf_counter()
        return {
            "sampling": sampled - start,
            "update": end - sampled,
            "step": end - start,
            "trained tokens": metrics["computed_tokens"],
            "peak": peak_gb(),
        }


def own_side(turn: Connection, args: argparse.Namespace, **slow: Any) -> None:
    model = policy()
    requests = step_requests(model, args.context_tokens, args.problems, args.group, args.contexts)
    step = OwnStep(model, requests, args.new_tokens, args.group, **slow)
    while turn.recv():
        turn.send(step())


def trl_side(turn: Connection, args: argparse.Namespace) -> None:
    """GRPOTrainer with CISPO; every prompt G times, contexts as plain text in front of it.

    In bfloat16 autocast, its default, or in float32, whichever is asked for, and in micro-batches that keep it within
    memory.
    """
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    from fastslow.policy.embedded import embedded_model_dir

    model = policy()
    requests = step_requests(model, args.context_tokens, args.problems, args.group, args.contexts)
    chosen = [requests[args.contexts * i + i % args.contexts] for i in range(args.problems)]
    prompts = [model.renderer.full_text(r.context, r.problem) for r in chosen]
    tokenizer, rng = model.tokenizer, random.Random(0)
    bf16 = trl_dtype(args) == "bfloat16"
    del model
    compute.set_matmul("default")  # a stock trainer knows no switch
    began = [0.0]

    class InTurn(TrainerCallback):
        def on_step_begin(self, _args: Any, _state: Any, control: Any, **_: Any) -> None:
            control.should_training_stop = not turn.recv()
            began[0] = time.perf_counter()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            turn.send({"step": time.perf_counter() - began[0], "peak": peak_gb()})

    rollouts = args.problems * args.group
    with tempfile.TemporaryDirectory() as folder:
        settings = GRPOConfig(
            output_dir=folder, use_cpu=True, per_device_train_batch_size=args.trl_micro_batch,
            gradient_accumulation_steps=rollouts // args.trl_micro_batch, num_generations=args.group,
            max_completion_length=args.new_tokens, generation_kwargs={"min_new_tokens": args.new_tokens},
            loss_type="cispo", epsilon_high=4.0, beta=0.0, temperature=1.0, max_steps=args.rounds + 1,
            learning_rate=1e-6, bf16=bf16, gradient_checkpointing=False, report_to=[], save_strategy="no",
            logging_steps=10**6, disable_tqdm=True,
        )  # fmt: skip
        GRPOTrainer(
            model=AutoModelForCausalLM.from_pretrained(embedded_model_dir()),
            args=settings,
            reward_funcs=lambda completions, **_: [rng.random() for _ in completions],
            train_dataset=Dataset.from_dict({"prompt": prompts * (args.rounds + 2)}),
            processing_class=tokenizer,
            callbacks=[InTurn()],
        ).train()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--context-tokens", type=int, default=256)
    parser.add_argument("--new-tokens", type=int, default=16)
    parser.add_argument("--problems", type=int, default=8)
    parser.add_argument("--group", type=int, default=GROUP, help="G rollouts per problem")
    parser.add_argument("--contexts", type=int, default=4, help="K contexts")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--trl-micro-batch", type=int, default=16, help="rollouts of one forward of the peer")
    parser.add_argument(
        "--trl-dtype",
        choices=("auto", "float32", "bfloat16"),
        default="auto",
        help="auto: as fastslow picks for itself",
    )
    parser.add_argument("--no-trl", action="store_true")
    parser.add_argument("--cold", action="store_true", help="count the first round: for steps of many minutes")
    parser.add_argument("--write", action="store_true", help="put the table into docs/performance.md")
    args = parser.parse_args()
    sides: dict[str, Any] = {"fastslow": own_side}
    if not args.no_trl:
        sides[f"TRL GRPOTrainer, {trl_dtype(args)}"] = trl_side
    with Turns(sides, args) as turns:
        turns.play(args.rounds, cold=args.cold)
    own = turns.results["fastslow"]
    share = [100 * r["sampling"] / r["step"] for r in own]
    rows = [
        [name, spread([r["step"] for r in rs]), f"{max(r['peak'] for r in rs):.1f}", ratios(rs, own, "step")]
        for name, rs in turns.results.items()
    ]
    first = ", the first one" if args.cold else ""
    write_section(
        f"step-{args.context_tokens}",
        f"{args.problems} problems x {args.group} rollouts of {args.new_tokens} tokens, {args.contexts} contexts of "
        f"{args.context_tokens} tokens, {own_dtype()}; alternating rounds: {args.rounds}{first}, median [min, max]",
        ["one step", "seconds", "peak memory, GB", "x fastslow"],
        rows,
        f"Of fastslow's step {median(share):.0f}% is sampling and {100 - median(share):.0f}% the update; it trains on "
        f"{own[-1]['trained tokens']:.0f} tokens, where an unshared batch of the same rollouts has {unshared(args)}.",
        write=args.write,
    )


def trl_dtype(args: argparse.Namespace) -> str:
    return own_dtype() if args.trl_dtype == "auto" else args.trl_dtype


def unshared(args: argparse.Namespace) -> int:
    """Tokens of the same step's rollouts, each with its whole prompt."""
    model = policy()
    requests = step_requests(model, args.context_tokens, args.problems, args.group, args.contexts)
    return sum(r.n * (len(model.renderer.render(r.context, r.problem)[0]) + args.new_tokens) for r in requests)


if __name__ == "__main__":
    main()
