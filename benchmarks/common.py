"""What the benchmarks share: the embedded policy, synthetic contexts of a given length, timing, and a table."""

from __future__ import annotations

import random
import resource
import statistics
import time
from collections.abc import Callable

from rich.console import Console
from rich.table import Table

from fastslow.config import ModelConfig, PromptConfig
from fastslow.policy.loading import load_policy
from fastslow.policy.model import Policy
from fastslow.types import Context, Problem, Request
from fastslow.worked_examples import WorkedExample, format_examples

console = Console()


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


def seconds(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def spread(values: list[float]) -> str:
    """median [min, max]"""
    return f"{statistics.median(values):.2f} [{min(values):.2f}, {max(values):.2f}]"


def peak_gb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def show(title: str, columns: list[str], rows: list[list[str]]) -> None:
    table = Table(*columns, title=title)
    for row in rows:
        table.add_row(*(cell.replace("[", "\\[") for cell in row))
    console.print(table)
