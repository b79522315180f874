"""How a slow step grows with the context's length, K, G and the reply's length.

python benchmarks/scaling.py --rounds 2
"""

from __future__ import annotations

import argparse

from common import peak_gb, policy, show, spread, step_requests
from step import GROUP, own_steps

CASES = [
    ("context 64", {"tokens": 64}),
    ("context 256", {"tokens": 256}),
    ("context 1024", {"tokens": 1024}),
    ("K = 1", {"contexts": 1}),
    ("K = 8", {"contexts": 8}),
    ("replies of 64", {"new_tokens": 64}),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=2)
    args = parser.parse_args()
    rows = []
    for name, change in CASES:
        settings = {"tokens": 128, "contexts": 4, "new_tokens": 16} | change
        model = policy()
        requests = step_requests(model, settings["tokens"], 8, GROUP, settings["contexts"])
        times = own_steps(model, requests, settings["new_tokens"], args.rounds)
        rows.append([name, *(spread(times[k]) for k in ("sampling", "update", "step")), f"{peak_gb():.1f}"])
    show(
        "8 problems x 8 rollouts; otherwise 4 contexts of 128 tokens, replies of 16",
        ["case", "sampling, s", "update, s", "step, s", "peak so far, GB"],
        rows,
    )


if __name__ == "__main__":
    main()
