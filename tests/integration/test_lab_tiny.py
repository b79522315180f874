"""Experiments through the real engine and the real measurements, on a random model of two layers: what a measurement
returns is what an experiment reads. Runs side by side are those that run one after the other."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from tiny_models import save_tiny

from fastslow.errors import FastslowError, RunError
from fastslow.lab import studies
from fastslow.lab.experiments import find_experiment, plasticity
from fastslow.lab.lab import run_lab
from fastslow.lab.planning import Choice, plan, with_matched
from fastslow.lab.runner import Clock, run_planned, run_side_by_side
from fastslow.policy.compute import usable_cores

SMALL = (
    *("steps=2", "model.threads=1", "model.device=cpu", "model.sampling_dtype=float32", "model.train_dtype=float32"),
    "model.float32_matmul=default",
    *("task.val_size=4", "task.train_size=24", "fast.population=2", "fast.every=1", "fast.budget=6"),
    *("fast.max_context_tokens=160", "slow.group_size=2", "slow.problems_per_step=2", "slow.warmup=0"),
    *("evaluation.every=1", "sampling.max_new_tokens=6"),
)


@pytest.fixture
def home(tmp_path, monkeypatch):
    model = f"model.name={save_tiny(tmp_path / 'model')}"
    small = {name: replace(study, settings=(*study.settings, *SMALL, model)) for name, study in studies.STUDIES.items()}
    monkeypatch.setattr(studies, "STUDIES", small)
    monkeypatch.setattr(plasticity, "STEPS", 1)
    return tmp_path


def test_measurements_reach_the_pages(home):
    def go(name: str) -> str:
        said: list[str] = []
        outcome = run_lab(
            find_experiment(name), home / "runs", home / "results", said.append, f"fastslow lab {name}", seeds=1
        )
        assert outcome.page is not None and not outcome.left, outcome
        text = outcome.page.read_text(encoding="utf-8")
        assert (home / "results" / f"{name}.png").exists()
        assert text.count("| holds |") + text.count("| doesn't |") + text.count("| can't tell |") > 0
        again: list[str] = []
        run_lab(find_experiment(name), home / "runs", home / "results", again.append, "", seeds=1)
        assert said and not again  # the second time nothing is trained and nothing is measured
        return text

    assert "FST drifts less than RL at matched accuracy" in go("drift")
    assert "The context holds a part of the gain" in go("attribution")
    assert "From FST's weights RL learns better than from RL's" in go("plasticity")
    assert (home / "results" / "README.md").read_text().count("not run yet") > 3


def curves_below(root) -> dict[str, list[str]]:
    """Every run's evaluations, by folder; what differs from run to run, the seconds, left out."""
    found = {}
    for path in sorted(root.rglob("metrics.jsonl")):
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        found[str(path.parent.relative_to(root))] = [
            [line["step"], line["rollouts"], line["accuracy"]] for line in lines if line["kind"] == "evaluation"
        ]
    return found


two_cores = pytest.mark.skipif(usable_cores() < 2, reason="needs two cores")


@two_cores
def test_runs_side_by_side_end_as_they_do_one_after_the_other(home):
    planned = with_matched(plan(["sums", "sums-brackets"], Choice(1, ("fst", "rl"))))
    said: list[str] = []
    assert run_planned(planned, home / "one", Clock(), said.append) == []
    assert run_side_by_side(planned, home / "two", Clock(), said.append, 2) == []
    assert curves_below(home / "two") == curves_below(home / "one")
    assert len(curves_below(home / "one")) == 4
    assert sum("done in" in line for line in said) == 4
    begun = [line.split(":")[0] for line in said if "begun" in line]
    assert begun.index("sums fst seed 0") < begun.index("sums rl seed 0")  # rl spends what fst did
    assert run_side_by_side(planned, home / "two", Clock(0), said.append, 2) == []  # nothing is left to do
    assert run_side_by_side(planned, home / "three", Clock(0), said.append, 2) == [p.label for p in planned]


@two_cores
def test_a_run_that_fails_stops_the_others_and_says_why(home):
    planned = with_matched(plan(["sums", "sums-brackets"], Choice(1, ("fst",))))
    damaged = home / "runs" / planned[0].folder
    damaged.mkdir(parents=True)
    (damaged / "notes.txt").write_text("someone else's")
    with pytest.raises(RunError, match=r"sums fst seed 0: .*holds other files .*\.log\)"):
        run_side_by_side(planned, home / "runs", Clock(), lambda _: None, 2)
    (damaged / "notes.txt").unlink()
    assert run_side_by_side(planned, home / "runs", Clock(), lambda _: None, 2) == []  # and then they go on


def test_more_runs_than_cores_are_refused(home):
    with pytest.raises(FastslowError, match=r"--jobs: 999 runs need a core each"):
        run_side_by_side([], home, Clock(), lambda _: None, 999)
