"""A stopped and resumed run equals the unbroken one, bit for bit: weights, optimizer, contexts, random streams,
counters, metrics and ledger; stopped at every step boundary, anywhere inside a step, and by a kill."""

from __future__ import annotations

import functools
import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import numpy
import pytest
import torch
from end_state import assert_equal, everything
from tiny_models import save_tiny

from fastslow.config import RunConfig
from fastslow.config_io import dump_config, parse_config
from fastslow.engines.local import train
from fastslow.errors import RunError
from fastslow.runs.checkpoint import keep_last_weights, load_latest
from fastslow.slow.learner import LocalLearner

STEPS = 3
SCORER = """
import random

def score(question, answer, completion, metadata):
    draw = random.random()  # a scorer may draw: the global streams are resumed too
    return float(len(completion) % 2), "Advice: Say %s." % answer if draw < 0.5 else ""
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("resume")
    save_tiny(folder / "model")
    rows = [{"question": f"Which word is number {i} of them all?", "answer": f"word{i}"} for i in range(16)]
    (folder / "data.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    (folder / "resume_scorer.py").write_text(SCORER)
    return folder


def config(home: Path, method: str = "fst", **changes) -> RunConfig:
    data = {
        "method": method,
        "steps": STEPS,
        "model": {"name": str(home / "model"), "threads": 1, "sampling_dtype": "float32", "train_dtype": "float32",
                  "float32_matmul": "default"},
        "task": {
            "path": str(home / "data.jsonl"), "scorer": "resume_scorer:score", "check_gold": False,
            "train_size": 12, "val_size": 4, "score_timeout": 60,  # a busy machine is no hanging scorer
        },
        "sampling": {"max_new_tokens": 5, "stop": list("etaoinshrdluABC ")},
        "fast": {"population": 2, "every": 2, "budget": 12, "proposals": 1},
        "slow": {"group_size": 4, "problems_per_step": 2, "lr": 1e-2, "warmup": 2},
        "evaluation": {"every": 1},
        "checkpoint_every": 1,
        "keep_checkpoints": 9,
    }  # fmt: skip
    return parse_config({**data, **changes})


class Stop:
    """Raises a signal at the n-th thing that the run shows (a phase's rollouts, its end, an evaluation)."""

    def __init__(self, at: int = -1, number: int = signal.SIGTERM) -> None:
        self.at, self.number, self.kinds = at, number, []

    def note(self, text) -> None:
        return

    def show(self, kind, state, values) -> None:
        self.kinds.append(kind)
        if len(self.kinds) - 1 == self.at:
            signal.raise_signal(self.number)


def stir() -> None:
    """Another process has other global streams."""
    random.seed()
    numpy.random.seed()
    torch.seed()


@pytest.fixture(scope="module")
def unbroken(home):
    """method -> (everything that its unbroken run leaves, the events that it showed)."""

    @functools.cache
    def of(method: str) -> tuple[dict, list[str]]:
        progress = Stop()
        train(config(home, method), home / f"unbroken-{method}", progress=progress)
        return everything(home / f"unbroken-{method}"), progress.kinds

    return of


every_method = pytest.mark.parametrize("method", ["fst", "rl", "gepa"])


def test_a_run_of_which_the_weights_alone_were_kept_says_so(home, tmp_path):
    settings = config(home, "rl", steps=1)
    train(settings, tmp_path / "run")
    keep_last_weights(tmp_path / "run" / "checkpoints")
    with pytest.raises(RunError, match=r"only the weights .* model\.init_from="):
        train(settings, tmp_path / "run", resume=True)
    onward = config(home, "rl", steps=1, model={**settings.model.model_dump(), "init_from": str(tmp_path / "run")})
    train(onward, tmp_path / "onward")


def stop_and_resume(settings: RunConfig, folder: Path, progress: Stop) -> None:
    stir()
    with pytest.raises(RunError, match=r"stopped at step \d+; go on with --resume --out "):
        train(settings, folder, progress=progress)
    stir()
    train(settings, folder, resume=True)


@every_method
def test_the_unbroken_run_moves_everything(unbroken, method):
    found, _ = unbroken(method)
    state = found["state"]["state"]
    if method != "gepa":
        assert found["state"]["learner"]["updates"] >= 2 and state["flat_groups"] < 2 * STEPS
    if method != "rl":
        assert len(state["population"]["archive"]) > 1 and found["ledger"]["contexts"]
    assert state["scorer_errors"] == 0
    assert len(found["ledger"]["rollouts"]) == sum(state["rollouts"].values())


@every_method
def test_stopped_anywhere_and_resumed_equals_the_unbroken_run(home, unbroken, tmp_path, method):
    """At every event of the run: inside fast phases, between sampling and update, after updates, in evaluations."""
    expected, kinds = unbroken(method)
    settings = config(home, method)
    for at in range(len(kinds)):
        number = signal.SIGTERM if at % 2 else signal.SIGINT
        stop_and_resume(settings, tmp_path / str(at), Stop(at, number))
        assert_equal(everything(tmp_path / str(at)), expected)


@pytest.mark.parametrize("every", [0, 2])
def test_sparse_checkpoints_resume_to_the_same_bits(home, tmp_path, every):
    settings = config(home, checkpoint_every=every)
    train(settings, tmp_path / "whole")
    expected = everything(tmp_path / "whole")
    folder = tmp_path / "stopped"
    with pytest.raises(RunError):
        train(settings, folder, progress=Stop(2))
    for at in (4, 7):  # stopped again and again
        stir()
        with pytest.raises(RunError):
            train(settings, folder, resume=True, progress=Stop(at))
    train(settings, folder, resume=True)
    assert_equal(everything(folder), expected)


@pytest.mark.parametrize("update", range(STEPS))
def test_a_signal_inside_an_update_waits_for_its_end(home, unbroken, tmp_path, monkeypatch, update):
    expected, _ = unbroken("fst")
    whole, calls = LocalLearner.update, []

    def interrupted(self, groups):
        metrics = whole(self, groups)  # the weights have moved, and the state doesn't know yet
        calls.append(1)
        if len(calls) == update + 1:
            signal.raise_signal(signal.SIGTERM)
        return metrics

    with monkeypatch.context() as patch:
        patch.setattr(LocalLearner, "update", interrupted)
        with pytest.raises(RunError, match=f"stopped at step {update + 1};"):
            train(config(home), tmp_path / "run")
    train(config(home), tmp_path / "run", resume=True)
    assert_equal(everything(tmp_path / "run"), expected)


def test_a_signal_inside_a_scorer_or_a_reflector_is_not_taken_for_their_failure(home, unbroken, tmp_path, monkeypatch):
    expected, _ = unbroken("fst")
    from fastslow.fast.reflect.feedback import FeedbackReflector
    from fastslow.tasks.files import FileSource

    settings = config(home)
    for owner, name, nth in ((FileSource, "score", 30), (FeedbackReflector, "propose", 1)):
        original, calls = getattr(owner, name), []

        def struck(self, *args, _original=original, _calls=calls, _nth=nth, **kwargs):
            _calls.append(1)
            if len(_calls) == _nth:
                os.kill(os.getpid(), signal.SIGTERM)  # reaches the main thread, whichever thread scores
            return _original(self, *args, **kwargs)

        folder = tmp_path / name
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, struck)
            stir()
            with pytest.raises(RunError, match="stopped at step"):
                train(settings, folder)
        train(settings, folder, resume=True)
        assert_equal(everything(folder), expected)


KILLED = """
import os, signal, sys
sys.path[:0] = {path!r}
from fastslow.config_io import load_config
from fastslow.engines.local import train
from test_resume import Stop
train(load_config({config!r}), {out!r}, progress=Stop({at}, signal.SIGKILL))
"""


@pytest.mark.parametrize("share", [0.1, 0.7])
def test_killed_without_warning_and_resumed_equals_the_unbroken_run(home, unbroken, tmp_path, share):
    """Before the first checkpoint, and in the middle."""
    expected, kinds = unbroken("fst")
    path = tmp_path / "config.yaml"
    path.write_text(dump_config(config(home)))
    here = Path(__file__).parent
    program = KILLED.format(
        path=[str(here), str(here.parent / "unit")], config=str(path), out=str(tmp_path / "run"),
        at=int(share * len(kinds)),
    )  # fmt: skip
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr[-2000:]
    assert not (tmp_path / "run" / "summary.json").exists()
    stir()
    train(config(home), tmp_path / "run", resume=True)
    assert_equal(everything(tmp_path / "run"), expected)


@every_method
def test_a_finished_run_is_the_same_after_another_resume_and_can_be_extended(home, unbroken, tmp_path, method):
    expected, _ = unbroken(method)
    settings = config(home, method)
    short = config(home, method, steps=2)
    train(short, tmp_path / "run")
    stir()
    train(settings, tmp_path / "run", resume=True)
    found = everything(tmp_path / "run")
    for key in ("tensors", "ledger", "contexts"):
        assert_equal({key: found[key]}, {key: expected[key]})
    stir()
    train(settings, tmp_path / "run", resume=True)
    assert_equal(everything(tmp_path / "run"), found)


def test_adapters_start_from_the_run_s_seed(home, tmp_path):
    lora = {
        "name": str(home / "model"),
        "threads": 1,
        "sampling_dtype": "float32",
        "train_dtype": "float32",
        "float32_matmul": "default",
    }
    lora["lora"] = {"rank": 2}
    found = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        stir()
        train(config(home, "rl", model=lora, steps=1, seed=seed), tmp_path / name)
        found.append(load_latest(tmp_path / name / "checkpoints")[1]["weights"])
    assert all("lora" in name for name in found[0])
    assert all(torch.equal(found[0][n], found[1][n]) for n in found[0])
    assert not all(torch.equal(found[0][n], found[2][n]) for n in found[0])
