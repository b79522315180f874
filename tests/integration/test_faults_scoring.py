"""Faults of scorers and endpoints, in whole runs on a tiny model. Locks: a scorer that always fails stops the run
early; an endpoint that fails costs proposals and never the phase; docs/reliability.md quotes what is really said."""

from __future__ import annotations

import math
import random
from pathlib import Path

import pytest
import torch
from fast_fakes import Evaluator, context, problems
from faults_run import Said, config, make_home, saved_weights, slow_lines
from test_endpoint_reflector import DROP, HANG, Server, completion, failure, server  # noqa: F401 - a fixture

from fastslow.config import EndpointReflector as EndpointConfig
from fastslow.config import FastConfig
from fastslow.engines.local import train
from fastslow.errors import TaskError
from fastslow.fast.gepa_bridge import GepaOptimizer
from fastslow.fast.population import Population
from fastslow.fast.reflect.endpoint import EndpointReflector
from fastslow.runs.checkpoint import load_latest
from fastslow.runs.metrics import read_metrics
from fastslow.runs.state import RunState
from fastslow.tasks.registry import build_task
from fastslow.tasks.scoring import FAILURES_IN_A_ROW, SafeTask


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    return make_home(tmp_path_factory.mktemp("faults"))


def judged(home: Path, name: str, body: str, **changes) -> SafeTask:
    """The file task with a scorer of one's own, whose body is given."""
    (home / f"{name}.py").write_text(
        "import os, random, re, signal, sys, time\n"
        "def score(question, answer, completion, metadata):\n" + "".join(f"    {line}\n" for line in body.split("\n"))
    )
    settings = {**config(home).task.model_dump(), "scorer": f"{name}:score", **changes}
    return build_task(config(home, task=settings).task)


HANGS = {
    "sleep": "time.sleep(600)",
    "loop": "while True: pass",
    "regex": "re.match(r'(a+)+$', 'a' * 64 + 'b')",  # one C call that holds the interpreter's lock
    "power": "len(str(7 ** 7 ** 8))",
    "deaf": "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n    while True: time.sleep(1)",
}


@pytest.mark.parametrize("kind", HANGS)
def test_a_scorer_that_hangs_in_whatever_is_ended_and_the_next_call_works(home, kind):
    body = f"if completion == 'hang':\n    {HANGS[kind]}\nreturn 1.0"
    task = judged(home, f"hang_{kind}", body, score_timeout=0.5)
    problem = task.train[0]
    assert task.score(problem, "fine").reward == 1
    score = task.score(problem, "hang")
    assert score.reward == 0 and score.error == "the scorer took longer than task.score_timeout = 0.5 s"
    assert task.score(problem, "fine").reward == 1
    assert task.errors.total() == 1


FAULTS = [
    ("raise ValueError('no such\\ntable')", "the scorer failed: ValueError: no such table"),
    ("raise SystemExit(3)", "the scorer failed: SystemExit: 3"),
    ("raise KeyboardInterrupt", "the scorer failed: KeyboardInterrupt:"),
    ("os._exit(3)", "the scorer failed: its process ended by itself (exit status 3)"),
    ("os.kill(os.getpid(), 9)", "the scorer failed: its process ended by itself (exit status -9)"),
    ("return float('nan')", "the scorer gave 'nan' as reward, not a finite number"),
    ("return float('-inf')", "the scorer gave '-inf' as reward, not a finite number"),
    ("return None", "the scorer gave 'None' as reward, not a finite number"),
    ("return '1.0'", """the scorer gave "'1.0'" as reward, not a finite number"""),
    ("return [1]", "the scorer gave '[1]' as reward, not a finite number"),
    ("return 10 ** 400", "as reward, not a finite number"),
    ("return 85", "the scorer gave 85 as reward, outside task.reward_range = [0, 1]"),
    ("return -1", "the scorer gave -1 as reward, outside task.reward_range = [0, 1]"),
    ("return 0.5, 'told', 'more'", "the scorer failed: ValueError: too many values to unpack"),
    ("return ()", "the scorer failed: ValueError: not enough values to unpack"),
    ("x = []; x.append(x); return x", "the scorer failed: its result can't be read: ValueError: Circular reference"),
]


def test_whatever_a_scorer_does_costs_one_reward_and_is_told_in_one_line(home):
    branches = [
        f"if completion == '{i}':\n    " + "\n    ".join(body.split("; ")) for i, (body, _) in enumerate(FAULTS)
    ]
    task = judged(home, "faulty", "\n".join([*branches, "return 1.0"]))
    problem = task.train[0]
    for i, (body, said) in enumerate(FAULTS):
        score = task.score(problem, str(i))
        assert score.reward == 0 and score.error and said in score.error and "\n" not in score.error, body
        assert task.score(problem, "fine").reward == 1, body
    assert task.errors.total() == len(FAULTS)


def test_what_a_scorer_may_return_and_do(home):
    task = judged(
        home, "free",
        "print('not an answer', flush=True)\nos.write(1, b'nor this')\n"
        "import numpy\n"
        "if completion == 'numpy': return numpy.float32(0.5), 'half'\n"
        "if completion == 'bool': return True\n"
        "if completion == 'draw': return random.random(), str(numpy.random.rand())\n"
        "if completion == 'alarm':\n"
        "    signal.signal(signal.SIGALRM, lambda *_: None)\n    signal.alarm(1)\n    signal.alarm(0)\n    return 1\n"
        "return float(completion == answer), 'Say it.'",
    )  # fmt: skip
    problem, other = task.train[:2]
    assert task.score(problem, "numpy").reward == 0.5 and task.score(problem, "bool").reward == 1
    assert task.score(problem, "alarm").reward == 1  # signals work: it has a main thread of its own
    draws = [task.score(p, "draw") for p in (problem, other, problem)]
    assert draws[0] == draws[2] != draws[1]  # its draws depend on what is asked, so a resumed run repeats them
    assert task.score(problem, problem.answer).reward == 1 and not task.errors


def test_a_range_of_one_s_own_takes_penalties(home):
    task = judged(home, "penalty", "return -0.5 if completion == 'x' else 1.0", reward_range=(-1, 1))
    assert task.score(task.train[0], "x").reward == -0.5 and not task.errors


def test_a_run_with_a_scorer_that_fails_now_and_then_finishes_and_tells_so(home, tmp_path):
    (home / "moody.py").write_text(
        "def score(question, answer, completion, metadata):\n"
        "    kind = len(completion) % 6\n"
        "    if kind == 0: raise OSError('gone')\n"
        "    return {1: float('nan'), 2: None, 3: 1.0, 4: 0.0, 5: 7}[kind]\n"
    )
    said = Said()
    settings = config(home, "fst", task={"scorer": "moody:score"}, slow={"group_size": 4})
    summary = train(settings, tmp_path / "run", progress=said)
    assert summary.steps == 4 and 0 < summary.scorer_errors < sum(summary.rollouts.model_dump().values())
    assert f"the scorer failed on {summary.scorer_errors} rollouts, which got reward 0" in str(said)
    assert all(math.isfinite(line["reward"]) and 0 <= line["reward"] <= 1 for line in slow_lines(tmp_path / "run"))


class Breaker(Said):
    """Breaks the scorer at the end of a step, by a file that the scorer looks for."""

    def __init__(self, flag: Path, step: int) -> None:
        super().__init__()
        self.flag, self.step = flag, step

    def show(self, kind, state, values) -> None:
        super().show(kind, state, values)
        if kind == "slow" and state.step == self.step:
            self.flag.touch()


def test_a_scorer_that_breaks_for_good_stops_the_run_early_and_nothing_is_lost(home, tmp_path):
    flag = tmp_path / "broken"
    (home / "service.py").write_text(
        "import os\ndef score(question, answer, completion, metadata):\n"
        f"    if os.path.exists({str(flag)!r}): raise ConnectionError('the judge is down')\n"
        "    return float(len(completion) % 2)\n"
    )
    # More than 20 rollouts a step, so that it stops in the step in which the scorer broke.
    settings = config(home, task={"scorer": "service:score"}, checkpoint_every=0, slow={"problems_per_step": 6})
    train(settings, tmp_path / "whole")
    with pytest.raises(TaskError) as caught:
        train(settings, tmp_path / "run", progress=Breaker(flag, 2))
    assert str(caught.value) == (
        f"task data: the scorer failed on {FAILURES_IN_A_ROW} replies in a row, most often: the scorer failed: "
        "ConnectionError: the judge is down; mend it (a reply that it can't read earns 0, not an error); saved up to "
        f"step 2: go on with --resume --out {tmp_path / 'run'}"
    )
    flag.unlink()
    train(settings, tmp_path / "run", resume=True)
    whole, run = saved_weights(tmp_path / "whole"), saved_weights(tmp_path / "run")
    assert all(torch.equal(whole[name], run[name]) for name in whole)


def test_a_scorer_that_never_works_stops_the_run_before_the_first_step(home, tmp_path):
    (home / "never.py").write_text("def score(q, a, c, m): raise RuntimeError('no')\n")
    with pytest.raises(TaskError, match=r"20 replies in a row.*; nothing to save yet: start again with --resume --out"):
        train(config(home, task={"scorer": "never:score"}, evaluation={"every": 0, "n": 8}), tmp_path / "run")
    assert not slow_lines(tmp_path / "run")


# Endpoints

KINDS = ("503", "429", "drop", "hang", "broken JSON", "no choices", "cut off", "empty")


def bad_reply(kind: str):
    return {
        "503": failure(503, "overloaded"),
        "429": failure(429, "slow down", Retry_After="0"),
        "drop": DROP,
        "hang": HANG,
        "broken JSON": (200, {"Content-Type": "application/json"}, '{"choices": ['),
        "no choices": (200, {"Content-Type": "application/json"}, '{"id": "c", "choices": [], "object": "x"}'),
        "cut off": completion("```\nhalf a", "length"),
        "empty": completion(""),
    }[kind]


def flaky(rng: random.Random, share: float, count: int) -> list:
    """Replies of a server that fails ``share`` of the calls; the others add a word that helps."""
    words = ["amber", "birch", "cedar", "dune", "elm"]
    replies = []
    for i in range(count):
        good = completion(f"Because.\n```\nRule {i}: {' '.join(rng.sample(words, 2))}\n```")
        replies.append(bad_reply(rng.choice(KINDS)) if rng.random() < share else good)
    return replies


def reflector(server: Server, **settings) -> EndpointReflector:  # noqa: F811
    options = {"model": "m", "base_url": server.url, "api_key_env": "NO_SUCH_KEY", "timeout": 0.5, **settings}
    return EndpointReflector(EndpointConfig(**options), sleep=lambda seconds: None)


@pytest.mark.parametrize("retries", [0, 2])
def test_an_endpoint_that_fails_30_percent_of_calls_costs_proposals_and_never_the_phase(server, retries):  # noqa: F811
    server.script = flaky(random.Random(5), 0.3, 400)
    optimizer = GepaOptimizer(FastConfig(), reflector(server, retries=retries), lambda c: 1)
    population, failures = Population((context(),)), 0
    for cycle in range(3):
        population, report = optimizer.evolve(
            population, problems(), Evaluator(), 200, cycle=cycle, weights_step=0, seed=1
        )
        failures += sum(r.outcome in ("failed", "retried") for r in report.reflections)
        failed = sum(r.outcome == "failed" for r in report.reflections)
        assert report.proposals == report.accepted + report.rejected == report.accepted + sum(report.reasons.values())
        assert failed <= report.rejected
    assert population.mean_score(population.best) >= 0.5 and len(population.contexts) > 1
    served = len(server.requests)
    assert 0.1 * served < failures < 0.6 * served


def test_an_endpoint_that_is_down_leaves_the_run_going_and_says_so_in_every_cycle(
    home,
    tmp_path,
    server,  # noqa: F811
    monkeypatch,
):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr("fastslow.fast.reflect.endpoint.FIRST_WAIT", 0.0)
    server.script = [completion("OK"), failure(503, "maintenance")]
    said = Said()
    settings = config(
        home, "fst", fast={"budget": 40, "reflector": {
            "type": "endpoint", "model": "m", "base_url": server.url, "api_key_env": "NO_SUCH_KEY", "retries": 1,
        }},
    )  # fmt: skip
    summary = train(settings, tmp_path / "run", progress=said)
    assert summary.steps == 4
    told = [line for line in said.lines if line.startswith("fast phase")]
    assert len(told) == 2 and all("reflections failed, most often: endpoint error 503" in line for line in told)
    assert all(" 0 of " in line for line in told)
    fast = [line for line in read_metrics(tmp_path / "run" / "metrics.jsonl") if line["kind"] == "fast"]
    assert all(line["failures"]["endpoint error 503"] == line["proposals"] for line in fast)


# What a checkpoint holds of the past


def test_stale_scores_planted_into_a_resumed_run_change_nothing(home, tmp_path, monkeypatch):
    train(config(home, "fst"), tmp_path / "whole")
    train(config(home, "fst", steps=2), tmp_path / "run")
    honest = RunState.from_dict.__func__

    def planted(cls, data):
        state = honest(cls, data)
        rows = {c: dict.fromkeys(row, 99.0) for c, row in state.population.scores.items()}
        object.__setattr__(state.population, "scores", rows)
        lie = {k: {**v, "mean": 0.999} for k, v in state.measured.items()}
        state.measured, state.measured_step = lie, state.measured_step - 1
        return state

    monkeypatch.setattr(RunState, "from_dict", classmethod(planted))
    train(config(home, "fst"), tmp_path / "run", resume=True)
    whole, run = (load_latest(tmp_path / name / "checkpoints") for name in ("whole", "run"))
    assert all(torch.equal(whole[1]["weights"][n], t) for n, t in run[1]["weights"].items())
    states = [found[2]["state"] for found in (whole, run)]
    assert states[0]["population"] == states[1]["population"]
    assert states[0]["evaluations"][-1]["accuracy"] == states[1]["evaluations"][-1]["accuracy"]
