"""What the ledger costs: its share of a real run's time, and rows per second for synthetic rollouts.

python benchmarks/ledger.py
python benchmarks/ledger.py --set steps=6       # more of the demo
python benchmarks/ledger.py --no-run            # synthetic rows alone
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from pathlib import Path

from common import show

from fastslow.config import config_dir
from fastslow.config_io import load_config
from fastslow.runs.ledger import Ledger
from fastslow.runs.ledger_query import open_ledger, query_rollouts
from fastslow.types import Rollout

CALLS = ("add_rollouts", "add_contexts", "add_reflections", "add_slow_step", "position", "__init__", "close")
SIZES = {"short replies (30 characters)": (30, 8, 60), "long replies (4,000 characters)": (4_000, 1_000, 1_000)}
BATCH, ROWS = 64, 6_400


class Clock:
    """Adds up the seconds spent inside the ledger's methods, and the number of calls."""

    def __init__(self) -> None:
        self.seconds, self.calls = 0.0, 0
        for name in CALLS:
            setattr(Ledger, name, self._timed(getattr(Ledger, name)))

    def _timed(self, method):
        def timed(*args, **kwargs):
            started = time.perf_counter()
            try:
                return method(*args, **kwargs)
            finally:
                self.seconds += time.perf_counter() - started
                self.calls += 1

        return timed


def share_of_a_run(overrides: list[str]) -> list[list[str]]:
    from fastslow.engines.local import train

    settings = load_config(config_dir() / "demo.yaml", ["steps=2", "fast.every=2", "evaluation.every=2", *overrides])
    with tempfile.TemporaryDirectory() as folder:
        clock, started = Clock(), time.perf_counter()
        train(settings, Path(folder) / "run")
        total = time.perf_counter() - started
        with open_ledger(Path(folder) / "run") as db:
            counts = {t: db.execute(f"SELECT count(*) FROM {t}").fetchone()[0] for t in ("rollouts", "contexts")}
    return [
        [f"{settings.steps} steps of the demo", f"{total:.1f} s, model and task loading included"],
        ["rows", f"{counts['rollouts']:,} rollouts, {counts['contexts']:,} fates of contexts"],
        ["inside the ledger", f"{clock.seconds:.3f} s in {clock.calls} calls"],
        ["share of the run", f"{clock.seconds / total:.3%}"],
    ]


def rollouts(characters: int, tokens: int, prompt: int) -> list[Rollout]:
    rng = random.Random("ledger")
    return [
        Rollout(
            problem_id=f"chain_sum-{i // 8:012x}", context_id=f"{i % 4:012x}", weights_step=3, phase="slow",
            seed=rng.getrandbits(63), prompt_ids=(1,) * prompt, shared=prompt // 2, completion_ids=(2,) * tokens,
            logprobs=tuple(-rng.random() for _ in range(tokens)),
            text="".join(rng.choices("abcdefgh 0123456789\n", k=characters)), finish_reason="stop",
            reward=float(rng.random() < 0.3), feedback="The form is right, but the value is not: you answered '7'.",
        )
        for i in range(BATCH)
    ]  # fmt: skip


def rows_per_second(sizes: tuple[int, int, int]) -> list[str]:
    """Written in steps of BATCH rollouts, each on disk before the next; then read."""
    batch = rollouts(*sizes)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ledger.sqlite"
        with Ledger(path) as ledger:
            started = time.perf_counter()
            for step in range(ROWS // BATCH):
                ledger.add_rollouts("slow", step, batch, cycle=0)
            written = time.perf_counter() - started
        started = time.perf_counter()
        assert sum(1 for _ in query_rollouts(path, "reward >= 0")) == ROWS
        read = time.perf_counter() - started
        size = path.stat().st_size
    per_step = 1000 * written / (ROWS / BATCH)
    return [f"{ROWS / written:,.0f}", f"{per_step:.1f} ms", f"{ROWS / read:,.0f}", f"{size / ROWS:,.0f} bytes"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="of configs/demo.yaml")
    parser.add_argument("--no-run", action="store_true", help="synthetic rows alone")
    args = parser.parse_args()
    rows = [[name, *rows_per_second(sizes)] for name, sizes in SIZES.items()]
    columns = ["rollouts", "written a second", f"a step of {BATCH}", "read a second", "size a row"]
    show(f"Synthetic rollouts, {BATCH} a transaction", columns, rows)
    if not args.no_run:
        show("The ledger's share of a run", ["measure", ""], share_of_a_run(args.set))


if __name__ == "__main__":
    main()
