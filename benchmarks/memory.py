"""Activation memory of the training forward: the constant that `fastslow plan` reckons with, measured again.

python benchmarks/memory.py        # prints ACTIVATION_VECTORS_PER_LAYER for src/fastslow/costs.py
"""

from __future__ import annotations

import argparse
import itertools

from common import peak_gb, policy, show, step_requests
from step import GROUP, Lottery, scored

from fastslow import costs
from fastslow.config import EMBEDDED_MODEL, ModelConfig, SamplingConfig, SlowConfig
from fastslow.policy.facts import model_facts
from fastslow.policy.sampler import TreeSampler
from fastslow.slow.learner import LocalLearner
from fastslow.types import group_rollouts

NEW_TOKENS = 8
SIZES = ((2, 16), (4, 32), (8, 64), (16, 64))  # problems, context tokens: ever more tokens, as peaks only grow


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--budget", type=int, default=8192, help="slow.token_budget: more than any size has")
    budget = parser.parse_args().budget
    model = policy("float32")
    model.end_ids = ()
    facts = model_facts(ModelConfig(name=EMBEDDED_MODEL))
    learner = LocalLearner(model, SlowConfig(kl=0.0, lr=1e-6, token_budget=budget), NEW_TOKENS)
    points = []
    for step, (problems, context) in enumerate(SIZES):
        requests = step_requests(model, context, problems, GROUP, 4)
        sampler = TreeSampler(model, SamplingConfig(max_new_tokens=NEW_TOKENS))
        groups = group_rollouts(scored(Lottery(), requests, sampler.sample(requests), step), GROUP)
        tokens = learner.update(groups)["computed_tokens"]
        replies = problems * GROUP * NEW_TOKENS
        scores = costs.activation_bytes(facts, tokens, tokens - 4 * context, context)
        scores -= costs.activation_bytes(facts, tokens, 0, 0)
        points.append((tokens, 1e9 * peak_gb() - costs.head_bytes(facts, replies) - scores))
    per_layer_vector = 4 * facts.layers * facts.width
    rows = []
    for (low, before), (high, after) in itertools.pairwise(points):
        bytes_per_token = (after - before) / (high - low)
        vectors = bytes_per_token / per_layer_vector
        rows.append([f"{low:,.0f} to {high:,.0f}", f"{bytes_per_token / 1e6:.2f}", f"{vectors:.1f}"])
    show("Kept for backward, the head and attention scores apart", ["tokens", "MB a token", "vectors a layer"], rows)
    first, last = points[0], points[-1]
    slope = (last[1] - first[1]) / (last[0] - first[0]) / per_layer_vector
    print(f"ACTIVATION_VECTORS_PER_LAYER = {slope:.1f}   (now {costs.ACTIVATION_VECTORS_PER_LAYER})")


if __name__ == "__main__":
    main()
