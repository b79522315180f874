"""How a slow step grows with the context's length, K, G and the reply's length, in time and in memory.

python benchmarks/scaling.py --rounds 2
"""

from __future__ import annotations

import argparse
from typing import Any

from common import Turns, median, own_dtype, spread, write_section
from step import own_side

CASES: dict[str, dict[str, int]] = {
    "context of 64 tokens": {"context_tokens": 64},
    "context of 256": {"context_tokens": 256},
    "context of 1,024": {"context_tokens": 1024},
    "K = 1": {"contexts": 1},
    "K = 8": {"contexts": 8},
    "G = 16": {"group": 16},
    "replies of 64": {"new_tokens": 64},
}
USUAL = {"context_tokens": 128, "contexts": 4, "group": 8, "new_tokens": 16, "problems": 8}
CONTEXT_CASES = list(CASES)[:3]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--write", action="store_true", help="put the table into docs/performance.md")
    args = parser.parse_args()
    rows: list[list[str]] = []
    for stopped in (False, True):
        steps: dict[str, list[float]] = {}
        for name in CONTEXT_CASES if stopped else CASES:
            results = _run(argparse.Namespace(**USUAL | CASES[name]), args.rounds, context_gradient=not stopped)
            steps[name] = [r["step"] for r in results]
            label = f"{name}, `slow.context_gradient: false`" if stopped else name
            columns = (spread([r[k] for r in results]) for k in ("sampling", "update", "step"))
            rows.append([label, *columns, f"{max(r['peak'] for r in results):.1f}"])
        longest, shortest = (median(steps[name]) for name in (CONTEXT_CASES[-1], CONTEXT_CASES[0]))
        rows.append(
            [
                f"1,024 over 64 tokens{', constant contexts' if stopped else ''}",
                "",
                "",
                f"{longest / shortest:.2f}x",
                "",
            ]
        )
    write_section(
        "scaling",
        "8 problems, otherwise K = 4 contexts of 128 tokens, G = 8 rollouts of 16 tokens, all weights trained, "
        f"{own_dtype()}; {args.rounds} rounds, median [min, max]",
        ["case", "sampling, s", "update, s", "step, s", "peak memory, GB"],
        rows,
        write=args.write,
    )


def _run(case: argparse.Namespace, rounds: int, **slow: Any) -> list[dict[str, float]]:
    side = own_side if slow["context_gradient"] else stopped_side
    with Turns({"fastslow": side}, case) as turns:
        turns.play(rounds)
    return turns.results["fastslow"]


def stopped_side(turn: Any, args: argparse.Namespace) -> None:
    own_side(turn, args, context_gradient=False)


if __name__ == "__main__":
    main()
