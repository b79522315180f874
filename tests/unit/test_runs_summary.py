"""Locks: the summary counts what the run counted, names the best evaluation, and reads back equal."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from fastslow.config_io import parse_config
from fastslow.errors import RunError
from fastslow.runs.directory import RunDirectory
from fastslow.runs.summary import build_summary, read_summary


def evaluation(step: int, evolved: float) -> dict:
    return {
        "kind": "evaluation",
        "step": step,
        "rollouts": {"fast": 10 * step, "slow": 8 * step, "evaluation": 4},
        "accuracy": {
            "seed_context": 0.125,
            "evolved_context": evolved,
            "ci95": {"seed_context": [0, 0.25], "evolved_context": [0.1, 0.9]},
        },
        "majority_answer_share": step / 10,
    }


def counts() -> SimpleNamespace:
    return SimpleNamespace(
        step=4,
        problems=32,
        rollouts={"fast": 40, "slow": 32, "evaluation": 4},
        tokens={p: {"prompt": 100, "completion": 10} for p in ("fast", "slow", "evaluation")},
        seconds={"fast": 1.5, "slow": 2.0, "evaluation": 0.5},
        flat_groups=3,
        rescued_groups=2,
        scorer_errors=1,
        skipped_steps=0,
    )


LINES = [
    evaluation(0, 0.25),
    {"kind": "fast", "step": 0, "population": ["a", "b"], "reflection_tokens": 50},
    {"kind": "slow", "step": 1, "groups": 8},
    {"kind": "slow", "step": 2, "groups": 8},
    evaluation(2, 0.75),
    {"kind": "fast", "step": 2, "population": ["b", "c"]},
    evaluation(3, 0.75),
    evaluation(4, 0.5),
]


def test_the_summary_by_hand_and_back_from_its_file(tmp_path):
    config = parse_config({"task": "chain_sum", "seed": 5})
    summary = build_summary(config, counts(), LINES, drift={"seed_context": 0.01})
    assert (summary.method, summary.task, summary.model, summary.seed) == ("fst", "chain_sum", "smollm2-135m", 5)
    assert (summary.steps, summary.problems, summary.rollouts.training) == (4, 32, 72)
    assert summary.seconds.total == 4.0 and summary.tokens.reflection == 50
    assert [getattr(summary.accuracy, k).step for k in ("initial", "best", "final")] == [0, 2, 4]
    assert summary.accuracy.best.training_rollouts == 36
    assert summary.accuracy.final.ci95.evolved_context == (0.1, 0.9)
    assert (summary.contexts_used, summary.groups, summary.flat_groups, summary.rescued_groups) == (3, 16, 3, 2)
    assert summary.flat_share == 3 / 16 and summary.majority_share == 0.4 and summary.scorer_errors == 1
    assert summary.versions["python"]
    run = RunDirectory(tmp_path)
    run.write_summary(summary.model_dump(mode="json"))
    assert read_summary(run.summary_path) == summary


def test_a_run_without_evaluations_has_a_summary_too():
    summary = build_summary(parse_config({"task": "gcd"}), counts(), [])
    assert summary.accuracy is None and summary.majority_share is None and summary.contexts_used == 1


def test_a_damaged_summary_is_one_line(tmp_path):
    (tmp_path / "summary.json").write_text('{"method": "fst", "steps": "many"}')
    with pytest.raises(RunError) as caught:
        read_summary(tmp_path / "summary.json")
    assert "\n" not in str(caught.value)
