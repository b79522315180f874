"""Sampled tokens a second: shared prefixes against ``transformers.generate``, same model, prompts and token counts.

python benchmarks/sampling.py --context-tokens 256 --rounds 3
"""

from __future__ import annotations

import argparse

import torch
from common import policy, seconds, show, spread, step_requests

from fastslow.config import SamplingConfig
from fastslow.policy.sampler import TreeSampler
from fastslow.policy.tree_attention import ATTENTION_NAME


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--context-tokens", type=int, default=256)
    parser.add_argument("--new-tokens", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--problems", type=int, default=8)
    args = parser.parse_args()
    model = policy()
    model.end_ids = ()  # every row samples all its tokens, on both sides
    requests = step_requests(model, args.context_tokens, args.problems, 8, 4)
    config = SamplingConfig(max_new_tokens=args.new_tokens, batch_size=8 * args.problems)
    prompts = [model.renderer.render(r.context, r.problem)[0] for r in requests for _ in range(r.n)]
    longest = max(map(len, prompts))
    ids = torch.tensor([[0] * (longest - len(p)) + list(p) for p in prompts], device=model.device)
    mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts], device=model.device)

    def shared() -> None:
        TreeSampler(model, config).sample(requests)

    def generate() -> None:
        lm = model.causal_lm
        lm.set_attn_implementation("sdpa")
        lm.generate(
            input_ids=ids,
            attention_mask=mask,
            do_sample=True,
            top_k=0,
            max_new_tokens=args.new_tokens,
            min_new_tokens=args.new_tokens,
            pad_token_id=0,
        )
        lm.set_attn_implementation(ATTENTION_NAME)

    times: dict[str, list[float]] = {"fastslow": [], "transformers.generate": []}
    for _ in range(args.rounds):  # alternating, so that a slow minute of the machine meets both
        times["fastslow"].append(seconds(shared))
        times["transformers.generate"].append(seconds(generate))
    tokens = len(prompts) * args.new_tokens
    rows = [[name, spread(t), spread([tokens / x for x in t])] for name, t in times.items()]
    ratio = [b / a for a, b in zip(times["fastslow"], times["transformers.generate"], strict=True)]
    show(
        f"{len(prompts)} rollouts of {args.new_tokens} tokens, 4 contexts of {args.context_tokens} tokens, "
        f"{str(model.sampling_dtype).removeprefix('torch.')}",
        ["sampler", "seconds", "tokens a second"],
        [*rows, ["ratio", spread(ratio), ""]],
    )


if __name__ == "__main__":
    main()
