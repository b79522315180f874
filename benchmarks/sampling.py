"""Sampled tokens a second: shared prefixes against ``transformers.generate`` and, where there is one, vLLM.

python benchmarks/sampling.py --context-tokens 256 --rounds 3
python benchmarks/sampling.py --vllm-python ~/vllm/bin/python     # an environment of its own that has vLLM

Same model, prompts and token counts, each side in a process of its own, in turns. Every round stands for a step with
new weights, so nothing is kept from one round to the next: contexts are prefilled anew and vLLM's prefix cache is
emptied. Its weights stay as they are, while casting and packing new ones is counted here. Both give every token's
log-probability. Each turn is played twice, and the second counts.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import signal
import subprocess
import tempfile
import time
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from common import Turns, own_dtype, peak_gb, policy, ratios, spread, step_requests, write_section

from fastslow.config import SamplingConfig
from fastslow.policy import compute
from fastslow.policy.sampler import TreeSampler
from fastslow.types import Request

VLLM_SIDE = Path(__file__).with_name("vllm_side.py")


def prepared(args: argparse.Namespace, dtype: str) -> tuple[Any, list[Request], list[list[int]]]:
    """The policy, the step's requests, and every rollout's prompt tokens."""
    model = policy(dtype)
    requests = step_requests(model, args.context_tokens, args.problems, 8, 4)
    prompts = [list(model.renderer.render(r.context, r.problem)[0]) for r in requests for _ in range(r.n)]
    return model, requests, prompts


def own_side(turn: Connection, args: argparse.Namespace) -> None:
    model, requests, prompts = prepared(args, "auto")
    model.end_ids = ()  # every row samples all its tokens, on all sides
    sampler = TreeSampler(model, SamplingConfig(max_new_tokens=args.new_tokens, batch_size=4096))
    while turn.recv():
        model.weights_step += 1
        start = time.perf_counter()
        sampler.sample(requests)
        turn.send(_result(start, len(prompts) * args.new_tokens))


def generate_side(turn: Connection, args: argparse.Namespace, dtype: str = "float32") -> None:
    model, _, prompts = prepared(args, dtype)
    compute.set_matmul("default")
    lm = copy.deepcopy(model.model).to(model.sampling_dtype)
    lm.set_attn_implementation("sdpa")
    longest = max(map(len, prompts))
    ids = torch.tensor([[0] * (longest - len(p)) + p for p in prompts])
    mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts])
    while turn.recv():
        start = time.perf_counter()
        lm.generate(
            input_ids=ids, attention_mask=mask, do_sample=True, top_k=0, max_new_tokens=args.new_tokens,
            min_new_tokens=args.new_tokens, pad_token_id=0,
        )  # fmt: skip
        turn.send(_result(start, len(prompts) * args.new_tokens))


def vllm_side(turn: Connection, args: argparse.Namespace) -> None:
    """A child of another Python, which reads a line for each turn and answers with the seconds that it took."""
    from fastslow.policy.embedded import embedded_model_dir

    _, _, prompts = prepared(args, "float32")
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        job = {"model": str(embedded_model_dir()), "prompts": prompts, "new_tokens": args.new_tokens}
        json.dump({**job, "dtype": own_dtype()}, file)
        file.flush()
        command = [str(Path(args.vllm_python).expanduser()), str(VLLM_SIDE), file.name]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        with subprocess.Popen(command, start_new_session=True, **pipes) as child:
            assert child.stdin is not None and child.stdout is not None
            while turn.recv():
                os.killpg(child.pid, signal.SIGCONT)
                child.stdin.write("go\n")
                child.stdin.flush()
                line = next((x for x in child.stdout if x.startswith("seconds ")), None)
                if line is None:
                    raise SystemExit("vLLM's side ended; run benchmarks/vllm_side.py by itself to see why")
                seconds = float(line.split()[1])
                os.killpg(child.pid, signal.SIGSTOP)  # its idle workers poll, which would slow the others' turns
                turn.send({"seconds": seconds, "rate": len(prompts) * args.new_tokens / seconds, "peak": 0.0})
            os.killpg(child.pid, signal.SIGKILL)


def _result(start: float, tokens: int) -> dict[str, float]:
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "rate": tokens / seconds, "peak": peak_gb()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--context-tokens", type=int, default=256)
    parser.add_argument("--new-tokens", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--problems", type=int, default=8)
    parser.add_argument("--float32", action="store_true", help="transformers.generate in float32 too")
    parser.add_argument("--vllm-python", help="the Python of an environment with vLLM")
    parser.add_argument("--write", action="store_true", help="put the table into docs/performance.md")
    args = parser.parse_args()
    sides: dict[str, Any] = {
        f"fastslow, {own_dtype()}": own_side,
        f"transformers.generate, {own_dtype()}": partial(generate_side, dtype=own_dtype()),
    }
    if args.float32:
        sides["transformers.generate, float32"] = generate_side
    if args.vllm_python:
        sides[f"vLLM, {own_dtype()}, prefix caching"] = vllm_side
    with Turns(sides, args) as turns:
        turns.play(args.rounds, twice=True)
    own = next(iter(turns.results.values()))
    rows = [
        [name, spread([r["seconds"] for r in rs]), spread([r["rate"] for r in rs]), ratios(own, rs, "rate")]
        for name, rs in turns.results.items()
    ]
    write_section(
        f"sampling-{args.context_tokens}",
        f"{8 * args.problems} rollouts of {args.new_tokens} tokens, 4 contexts of {args.context_tokens} tokens; "
        f"{args.rounds} alternating rounds, the second of two turns each, median [min, max]",
        ["sampler", "seconds", "sampled tokens a second", "fastslow is faster by"],
        rows,
        write=args.write,
    )


if __name__ == "__main__":
    main()
