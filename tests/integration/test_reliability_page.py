"""docs/reliability.md quotes, for every fault of scorers, endpoints, gradients and contexts, what is really said: each
row's fault is provoked here, and the line that comes out must match the row's. No row without its fault, nor a fault
without its row."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from fast_fakes import context, problems
from loop_fakes import FakeLearner, FakeTask, NotedRecorder, ScriptedSampler
from test_endpoint_reflector import CONTEXT, RECORDS, completion, failure, reflector, server  # noqa: F401 - a fixture
from test_fast_rescoring import Phase
from test_learner import groups_of, learner_of
from tiny_models import save_tiny, tiny_policy

from fastslow.config_io import parse_config
from fastslow.errors import FastslowError
from fastslow.fast.guards import ContextGuard, refuse_leaks
from fastslow.fast.population import Population
from fastslow.fst import FastSlowTraining
from fastslow.progress import describe
from fastslow.runs.state import RunState
from fastslow.tasks.scoring import MAX_HANGS, SafeTask, ScorerOvertime, ScorerRaised
from fastslow.types import Context, Problem, Score

PAGE = Path(__file__).resolve().parents[2] / "docs" / "reliability.md"


def rows() -> dict[str, str]:
    """Fault -> the line that the page quotes."""
    section = PAGE.read_text(encoding="utf-8").partition("<!-- scoring:start -->")[2].partition("### Nothing stale")[0]
    cells = [line.strip("|").split(" | ") for line in section.splitlines() if line.startswith("| ")]
    return {fault.strip(): said.strip().strip("`") for fault, _, said, _ in cells[1:]}


def judge(act: Callable[[], float], calls: int = 1) -> str:
    class Judged(FakeTask):
        def score(self, problem, completion):
            return Score(act())

    task = SafeTask(Judged())
    return [task.score(task.train[0], "x") for _ in range(calls)][-1].error


def raises(error: Exception) -> Callable[[], float]:
    def act() -> float:
        raise error

    return act


def hangs() -> None:
    task = SafeTask(FakeTask())
    task._hangs = MAX_HANGS
    task.inner.score = lambda *_: (_ for _ in ()).throw(ScorerOvertime(10))
    task.score(task.train[0], "x")


def loop() -> FastSlowTraining:
    class Skipping(FakeLearner):
        def update(self, groups):
            return {**super().update(groups), "skipped_steps": 1.0, "grad_norm": math.nan}

    config = parse_config({"task": "chain_sum", "method": "rl", "slow": {"problems_per_step": 4}})
    learner = Skipping()
    return FastSlowTraining(config, FakeTask(), ScriptedSampler(learner), learner, None, NotedRecorder())


def slow_line() -> str:
    values = {
        "reward": 0.5,
        "flat_groups": 1.0,
        "groups": 8.0,
        "skipped_steps": 1.0,
        "grad_norm": math.inf,
        "seconds": 2,
    }
    return describe("slow", RunState(Population((context(),)), step=3), {**values, "seconds": 2.0})


def fast_line() -> str:
    values = {"cycle": 1, "metric_calls": 40, "accepted": 0, "proposals": 6, "best_score": 0.2}
    values["failures"] = Counter({"endpoint error 503": 4, "empty reply": 2})
    return describe("fast", RunState(Population((context(),))), values)


def refused(proposal: Context, tokens: int = 1) -> str:
    guard = ContextGuard(lambda c: tokens, 10, problems(), 2, held_out=[Problem("v", "How many are twelve and one?")])
    return guard.reject(proposal, None, ())


def lucky() -> str:
    phase = Phase({"nothing at all": 1.0})
    phase.confirm()
    return phase.events[-1]["reason"]


def seed_leaks() -> None:
    refuse_leaks(context("How many are twelve and one? 13"), [Problem("v", "How many are twelve and one?")])


def stop() -> None:
    training = loop()
    for _ in range(training.config.slow.max_skipped_steps):
        training.slow_step()


PROVOKED: dict[str, Callable[[], str | None]] = {
    "your scorer hangs": lambda: judge(raises(ScorerOvertime(10))),
    "your scorer raises, exits or crashes": lambda: judge(raises(ScorerRaised("OSError: gone"))),
    "your scorer gives NaN, infinity, None or text": lambda: judge(lambda: math.nan),
    "your scorer gives a number out of range": lambda: judge(lambda: 85),
    "your scorer fails 20 times in a row": lambda: judge(raises(OSError("gone")), 20),
    "a built-in scorer hangs": hangs,
    "a gradient is NaN or explodes": slow_line,
    "several such gradients in a row": stop,
    "the endpoint is down": fast_line,
    "a context is too long": lambda: refused(context("add"), 11),
    "a context copies training problems": lambda: refused(context(" ".join(p.text for p in problems(3)))),
    "a context shows a validation problem": lambda: refused(context("HOW many are twelve and one")),
    "the seed context shows validation problems": seed_leaks,
    "a context was only lucky": lucky,
}


def said_by(act: Callable[[], str | None]) -> str:
    try:
        return act() or "nothing"
    except FastslowError as error:
        return str(error)


def matches(quoted: str, said: str) -> bool:
    return re.fullmatch(".+".join(map(re.escape, quoted.split("…"))), said) is not None


@pytest.mark.parametrize("fault", PROVOKED)
def test_the_page_quotes_what_is_said(fault: str) -> None:
    said = said_by(PROVOKED[fault])
    assert "\n" not in said
    assert matches(rows()[fault], said), said


def test_the_page_quotes_what_the_endpoint_reflector_says(server) -> None:  # noqa: F811
    for fault, reply in (
        ("the endpoint fails a call", failure(503, "overloaded")),
        ("the endpoint sends nonsense", completion("```\nhalf a", "length")),
    ):
        server.script = [reply]
        proposal = reflector(server).propose(CONTEXT, RECORDS, ["instructions"], 0)
        assert proposal.components is None and matches(rows()[fault], proposal.reason)


def test_the_page_quotes_what_is_said_of_nan_weights(tmp_path) -> None:
    policy = tiny_policy(save_tiny(tmp_path / "model"))
    learner = learner_of(policy)
    with torch.no_grad():
        next(iter(policy.trainable().values()))[0] = math.nan
    assert matches(rows()["weights become NaN"], said_by(lambda: str(learner.state())))
    with torch.no_grad():
        policy.causal_lm.get_output_embeddings().weight[:] = math.nan
    assert matches(rows()["logits become NaN"], said_by(lambda: str(groups_of(policy))))


def test_no_row_without_its_fault() -> None:
    elsewhere = {"the endpoint fails a call", "the endpoint sends nonsense", "weights become NaN", "logits become NaN"}
    assert rows().keys() == PROVOKED.keys() | elsewhere
