"""The gradient of one real update through shared contexts, held against the plain forward of every rollout by itself.

python benchmarks/gradient.py --context-tokens 256 --problems 2

Also: how near the gradient of ``slow.context_gradient: false`` comes, where contexts are constants.
"""

from __future__ import annotations

import argparse
import random

import torch
from common import policy, step_requests, write_section

from fastslow.config import SamplingConfig, SlowConfig
from fastslow.policy.logprobs import sequence_logprobs
from fastslow.policy.model import Policy
from fastslow.policy.sampler import TreeSampler
from fastslow.policy.tree import TokenSequence
from fastslow.slow.advantages import group_advantages
from fastslow.slow.losses import LOSSES

GROUP = 8


def loss_gradient(
    model: Policy, sequences: list, advantages: list[float], *, context_gradient: bool = True
) -> torch.Tensor:
    """The policy gradient -Σ A log π, flattened; through whatever forward ``model`` takes."""

    model.model.zero_grad()
    weights = torch.tensor([a for a, s in zip(advantages, sequences, strict=True) for _ in s.completion_ids])
    with sequence_logprobs(model, sequences, context_gradient=context_gradient) as (logprobs, _, _):
        (-(weights * logprobs).sum()).backward()
    return torch.cat([p.grad.flatten().double() for p in model.trainable().values() if p.grad is not None])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--context-tokens", type=int, default=256)
    parser.add_argument("--problems", type=int, default=2)
    parser.add_argument("--write", action="store_true", help="put the table into docs/performance.md")
    args = parser.parse_args()
    model = policy("float32")
    requests = step_requests(model, args.context_tokens, args.problems, GROUP, 4)
    completions = TreeSampler(model, SamplingConfig(max_new_tokens=16, batch_size=64)).sample(requests)

    sequences = [TokenSequence(c.prompt_ids, c.shared, c.completion_ids) for row in completions for c in row]
    rng = random.Random(0)
    rewards = [float(rng.random() < 0.4) for _ in sequences]
    advantages = [
        a
        for i in range(0, len(rewards), GROUP)
        for a in group_advantages(rewards[i : i + GROUP], LOSSES[SlowConfig().loss].divides_by_std).tolist()
    ]
    shared = loss_gradient(model, sequences, advantages)
    stopped = loss_gradient(model, sequences, advantages, context_gradient=False)
    model.shares_prefixes = False
    model.causal_lm.set_attn_implementation("sdpa")
    plain = loss_gradient(model, sequences, advantages)
    rows = [
        [name, f"{_cosine(g, plain):.8f}", f"{float((g - plain).norm() / plain.norm()):.2e}"]
        for name, g in (("shared contexts", shared), ("`slow.context_gradient: false`", stopped))
    ]
    write_section(
        "gradient",
        f"{len(sequences)} rollouts, contexts of {args.context_tokens} tokens, float32, all weights",
        ["gradient, against each rollout by itself", "cosine", "relative norm of the difference"],
        rows,
        write=args.write,
    )


def _cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(torch.nn.functional.cosine_similarity(a, b, dim=0))


if __name__ == "__main__":
    main()
