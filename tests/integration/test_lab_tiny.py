"""Experiments through the real engine and the real measurements, on a random model of two layers: what a measurement
returns is what an experiment reads."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tiny_models import save_tiny

from fastslow.lab import studies
from fastslow.lab.experiments import find_experiment, plasticity
from fastslow.lab.lab import run_lab

SMALL = (
    *("steps=2", "model.threads=1", "model.device=cpu", "model.sampling_dtype=float32", "model.train_dtype=float32"),
    *("task.val_size=4", "task.train_size=24", "fast.population=2", "fast.every=1", "fast.budget=6"),
    *("fast.max_context_tokens=160", "slow.group_size=2", "slow.problems_per_step=2", "slow.warmup=0"),
    *("evaluation.every=1", "sampling.max_new_tokens=6"),
)


@pytest.fixture
def home(tmp_path, monkeypatch):
    model = f"model.name={save_tiny(tmp_path / 'model')}"
    small = {
        name: replace(study, settings=(*study.settings, *SMALL, model))
        for name, study in studies.STUDIES.items()
        if name in ("sums", "sums-brackets")
    }
    monkeypatch.setattr(studies, "STUDIES", {**studies.STUDIES, **small})
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
