"""What the benchmarks share: the embedded policy, synthetic contexts of a given length, timing, and a table."""

from __future__ import annotations

import contextlib
import multiprocessing
import random
import resource
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from page import markdown_table, rewrite_section
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fastslow.config import ModelConfig, PromptConfig
from fastslow.policy import compute
from fastslow.policy.loading import load_policy
from fastslow.policy.model import Policy
from fastslow.types import Context, Problem, Request
from fastslow.worked_examples import WorkedExample, format_examples

console = Console(width=120)
PAGE = Path(__file__).resolve().parents[1] / "docs" / "performance.md"


def own_dtype() -> str:
    """What ``auto`` comes to here."""
    return str(compute.pick_dtype("auto", compute.pick_device("auto"))).removeprefix("torch.")


def policy(dtype: str = "auto") -> Policy:
    prompt = PromptConfig(style="text")
    return load_policy(ModelConfig(sampling_dtype=dtype, train_dtype=dtype, prompt=prompt))


def problem(rng: random.Random, index: int) -> Problem:
    a, b = rng.randint(100, 999), rng.randint(100, 999)
    return Problem(str(index), f"State the final answer to the following arithmetic problem: {a} + {b} =", str(a + b))


def context(model: Policy, tokens: int, seed: int) -> Context:
    """Worked examples up to ``tokens`` tokens."""
    rng, examples = random.Random(f"context/{seed}"), []
    while True:
        p = problem(rng, 0)
        text = format_examples([*examples, WorkedExample(p.text, p.answer)])
        longer = Context({"instructions": "", "examples": text})
        if examples and model.renderer.context_tokens(longer) > tokens:
            return Context({"instructions": "", "examples": format_examples(examples)})
        examples.append(WorkedExample(p.text, p.answer))


def step_requests(model: Policy, tokens: int, problems: int, group: int, contexts: int) -> list[Request]:
    """The requests of one slow step: G rollouts per problem, split evenly over K contexts."""
    rng = random.Random("problems")
    chosen = [context(model, tokens, k) for k in range(contexts)]
    return [
        Request(c, p, group // contexts, seed=1000 * i + k)
        for i, p in enumerate(problem(rng, i) for i in range(problems))
        for k, c in enumerate(chosen)
    ]


def median(values: list[float]) -> float:
    return statistics.median(values)


def spread(values: list[float]) -> str:
    """median [min, max]"""
    return f"{statistics.median(values):.2f} [{min(values):.2f}, {max(values):.2f}]"


def ratios(results: list[dict[str, float]], base: list[dict[str, float]], key: str, *, invert: bool = False) -> str:
    """Round by round, ``key`` of the one over that of the other: median [min, max]."""
    found = [a[key] / b[key] for a, b in zip(results, base, strict=True)]
    return spread([1 / x for x in found] if invert else found)


def peak_gb() -> float:
    """Peak memory of this process so far, GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


class Turns:
    """Two or more sides, each in a process of its own, that take turns, one round at a time.

    A side is ``side(turn, args)``: it does one round whenever ``turn.recv()`` is true, answers with a dict of
    numbers, and ends on a false one.
    """

    def __init__(self, sides: dict[str, Callable[..., None]], args: Any) -> None:
        spawn = multiprocessing.get_context("spawn")
        self.results: dict[str, list[dict[str, float]]] = {name: [] for name in sides}
        self._turns, self._processes = {}, []
        for name, side in sides.items():
            self._turns[name], theirs = spawn.Pipe()
            self._processes.append(spawn.Process(target=side, args=(theirs, args), daemon=True))
            self._processes[-1].start()
            theirs.close()

    def __enter__(self) -> Turns:
        return self

    def play(self, rounds: int, *, cold: bool = False, twice: bool = False) -> None:
        """One uncounted round to warm up, then ``rounds`` that count; ``cold``: without the first. ``twice``: every
        turn is played twice and the second counts, where one side's long turns leave the memory of a short one cold."""
        for number in range(1 if cold else 0, rounds + 1):
            for name, turn in self._turns.items():
                for _ in range(2 if twice else 1):
                    turn.send(True)
                    result = turn.recv()
                console.print(f"[dim]round {number}, {name}: {result}[/dim]")
                if number:
                    self.results[name].append(result)

    def __exit__(self, *_: object) -> None:
        for turn in self._turns.values():
            with contextlib.suppress(OSError):
                turn.send(False)
        for process in self._processes:
            process.join(timeout=20)
            process.kill()


def show(title: str, columns: list[str], rows: list[list[str]]) -> None:
    table = Table(*columns, title=title)
    for row in rows:
        table.add_row(*(escape(cell) for cell in row))
    console.print(table)


def write_section(
    name: str, title: str, columns: list[str], rows: list[list[str]], text: str = "", *, write: bool
) -> None:
    """Print a table and, if asked, put it between its markers in docs/performance.md."""
    show(title, columns, rows)
    if text:
        console.print(text, markup=False)
    if not write:
        return
    command = " ".join(["python", "benchmarks/" + Path(sys.argv[0]).name, *sys.argv[1:]])
    table = markdown_table(columns, rows)
    rewrite_section(PAGE, name, "\n\n".join([f"{title} (`{command}`):", table, *([text] if text else [])]))
