"""A schedule and FST-distill through the local engine, on a tiny model: stopped at every event and killed in the second
stage, resumed runs equal the unbroken one; what the run leaves behind has every stage."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from end_state import assert_equal, everything
from test_resume import KILLED, SCORER, Stop, config, stir, stop_and_resume
from tiny_models import save_tiny

from fastslow.config import RunConfig
from fastslow.config_io import dump_config
from fastslow.engines.local import train
from fastslow.report.plots import plot_compare, plot_run
from fastslow.runs.directory import RunDirectory
from fastslow.runs.metrics import read_metrics
from fastslow.runs.summary import read_summary

FIRST, SECOND = 3, 2


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("schedule")
    save_tiny(folder / "model")
    for name in ("word", "name"):
        rows = [{"question": f"Which word is number {i} of them all?", "answer": f"{name}{i}"} for i in range(16)]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    (folder / "resume_scorer.py").write_text(SCORER)
    return folder


def scheduled(home: Path, method: str = "fst", **changes) -> RunConfig:
    def task(name: str) -> dict:
        return {
            "name": name, "path": str(home / f"{name}.jsonl"), "scorer": "resume_scorer:score", "check_gold": False,
            "train_size": 12, "val_size": 4,
        }  # fmt: skip

    stages = [{"task": task("word"), "steps": FIRST}, {"task": task("name"), "steps": SECOND}]
    data = config(home, method, task=task("word"), **changes).model_dump(mode="json")
    del data["task"], data["steps"]
    return RunConfig.model_validate({**data, "schedule": stages})


@pytest.fixture(scope="module")
def unbroken(home) -> tuple[dict, list[str]]:
    progress = Stop()
    train(scheduled(home), home / "unbroken", progress=progress)
    return everything(home / "unbroken"), progress.kinds


def second_stage(kinds: list[str]) -> int:
    """The place of the first event after the switch: what follows the last stage's third slow step and evaluation."""
    slow = [i for i, kind in enumerate(kinds) if kind == "slow"]
    return next(i for i in range(slow[FIRST - 1], len(kinds)) if kinds[i] == "evaluation") + 1


def test_the_run_has_every_stage(home, unbroken):
    found, _ = unbroken
    summary = read_summary(home / "unbroken" / "summary.json")
    assert summary.task == "word -> name" and summary.steps == FIRST + SECOND
    assert [(s.name, s.start, s.steps, s.end.step) for s in summary.stages] == [("word", 0, 3, 3), ("name", 3, 2, 5)]
    lines = [line for line in read_metrics(home / "unbroken" / "metrics.jsonl") if line["kind"] == "evaluation"]
    assert [line["step"] for line in lines] == [0, 1, 2, 3, 4, 5]
    assert all(set(line["stages"]) == {"word", "name"} for line in lines)
    assert [c for c in found["contexts"]] == [0, 1, 2]  # T = 2: steps 0, 2 and the switch at 3
    trained = [(r["step"], r["problem_id"]) for r in found["ledger"]["rollouts"] if r["phase"] == "slow"]
    assert all(i.startswith("2/") == (step >= FIRST) for step, i in trained)
    population = RunDirectory(home / "unbroken").read_population(2)
    assert {c["birth_cycle"] for c in population["archive"]} >= {0}  # the first stage's contexts are still known


def test_stopped_anywhere_in_the_second_stage_and_resumed_equals_the_unbroken_run(home, unbroken, tmp_path):
    expected, kinds = unbroken
    for at in range(second_stage(kinds) - 1, len(kinds)):
        stop_and_resume(scheduled(home), tmp_path / str(at), Stop(at))
        assert_equal(everything(tmp_path / str(at)), expected)


def test_killed_in_the_second_stage_and_resumed_equals_the_unbroken_run(home, unbroken, tmp_path):
    expected, kinds = unbroken
    path = tmp_path / "config.yaml"
    path.write_text(dump_config(scheduled(home)))
    here = Path(__file__).parent
    program = KILLED.format(
        path=[str(here), str(here.parent / "unit")], config=str(path), out=str(tmp_path / "run"),
        at=second_stage(kinds) + 2,
    )  # fmt: skip
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr[-2000:]
    stir()
    train(scheduled(home), tmp_path / "run", resume=True)
    assert_equal(everything(tmp_path / "run"), expected)


@pytest.mark.parametrize("method", ["rl", "gepa", "fst-distill"])
def test_the_other_methods_run_a_schedule_and_resume(home, tmp_path, method):
    progress = Stop()
    train(scheduled(home, method), tmp_path / "whole", progress=progress)
    expected = everything(tmp_path / "whole")
    for at in (len(progress.kinds) // 3, len(progress.kinds) - 3):
        stop_and_resume(scheduled(home, method), tmp_path / str(at), Stop(at))
        assert_equal(everything(tmp_path / str(at)), expected)


def test_distill_moves_the_weights_without_reward_and_resumes_to_the_same_bits(home, tmp_path):
    progress = Stop()
    train(scheduled(home, "fst-distill"), tmp_path / "run", progress=progress)
    lines = [line for line in read_metrics(tmp_path / "run" / "metrics.jsonl") if line["kind"] == "slow"]
    assert any(line["distilled_rollouts"] and line["loss"] > 0 for line in lines)
    assert all(line["flat_groups"] == 0 for line in lines)
    found = everything(tmp_path / "run")
    assert found["state"]["learner"]["updates"] == sum(line["distilled_rollouts"] > 0 for line in lines)
    assert found["summary"]["method"] == "fst-distill"


def test_plots_of_a_schedule_are_drawn(home, unbroken, tmp_path):
    assert plot_run(home / "unbroken", tmp_path / "run.png").stat().st_size > 10_000
    assert plot_compare([home / "unbroken"], tmp_path / "compare.png").stat().st_size > 10_000
