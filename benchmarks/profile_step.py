"""Where the time of one slow step goes: torch's own operations, summed into a few kinds.

python benchmarks/profile_step.py --context-tokens 256
"""

from __future__ import annotations

import argparse
from collections import defaultdict

from common import own_dtype, policy, step_requests, write_section
from step import GROUP, Lottery, scored
from torch.profiler import ProfilerActivity, profile

from fastslow.config import SamplingConfig, SlowConfig
from fastslow.policy.sampler import TreeSampler
from fastslow.slow.learner import LocalLearner
from fastslow.types import group_rollouts

KINDS = {
    "matrix products with weights": ("aten::mm", "aten::addmm", "aten::addmm_"),
    "attention": ("aten::bmm", "aten::baddbmm", "flash_attention", "aten::_softmax", "aten::masked_fill"),
    "copies and new memory": ("aten::copy_", "aten::cat", "aten::fill_", "aten::index", "aten::clone"),
    "optimizer and gradient norm": ("adamw", "vector_norm", "aten::_foreach"),
}


def kind_of(name: str) -> str:
    return next((kind for kind, parts in KINDS.items() if any(p in name for p in parts)), "everything else")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--context-tokens", type=int, default=256)
    parser.add_argument("--new-tokens", type=int, default=16)
    parser.add_argument("--write", action="store_true", help="put the table into docs/performance.md")
    args = parser.parse_args()
    model = policy()
    model.end_ids = ()
    requests = step_requests(model, args.context_tokens, 8, GROUP, 4)
    sampler = TreeSampler(model, SamplingConfig(max_new_tokens=args.new_tokens, batch_size=4096))
    learner = LocalLearner(model, SlowConfig(kl=0.0, lr=1e-6), args.new_tokens)
    task = Lottery()

    def sample() -> list:
        return group_rollouts(scored(task, requests, sampler.sample(requests), model.weights_step), GROUP)

    for _ in range(2):
        learner.update(sample())  # warm-up: the allocator has its memory, the optimizer its moments
    shares: dict[str, dict[str, float]] = {}
    with profile(activities=[ProfilerActivity.CPU]) as sampling:
        groups = sample()
    with profile(activities=[ProfilerActivity.CPU]) as update:
        learner.update(groups)
    for phase, profiled in (("sampling", sampling), ("update", update)):
        seconds: dict[str, float] = defaultdict(float)
        for event in profiled.key_averages():
            seconds[kind_of(event.key)] += event.self_cpu_time_total / 1e6
        shares[phase] = {"all": sum(seconds.values()), **seconds}
    rows = [
        [
            kind,
            *(
                f"{shares[p].get(kind, 0.0):.2f} ({100 * shares[p].get(kind, 0.0) / shares[p]['all']:.0f}%)"
                for p in shares
            ),
        ]
        for kind in [*KINDS, "everything else", "all"]
    ]
    write_section(
        "profile",
        f"8 problems x {GROUP} rollouts of {args.new_tokens} tokens, 4 contexts of {args.context_tokens} tokens; "
        f"{own_dtype()}, under the profiler, which slows the small operations down",
        ["seconds in", "sampling", "update"],
        rows,
        write=args.write,
    )


if __name__ == "__main__":
    main()
