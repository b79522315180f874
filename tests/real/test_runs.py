"""Whole runs on the embedded model: killed in two phases and resumed to the same bits; every task of the README."""

from __future__ import annotations

import json
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

from fastslow.runs.checkpoint import latest_checkpoint
from fastslow.runs.metrics import read_metrics

pytestmark = pytest.mark.real
ROOT = Path(__file__).parents[2]
TINY = [
    "steps=2", "task.val_size=4", "task.train_size=16", "slow.problems_per_step=2", "slow.group_size=4",
    "fast.population=2", "fast.every=1", "fast.budget=10", "checkpoint_every=1", "evaluation.every=1",
    "slow.lr=1e-4", "slow.warmup=0", "sampling.max_new_tokens=6", "model.threads=2",
]  # fmt: skip


def command(config: Path, out: Path, *more: str, overrides: list[str] = TINY) -> list[str]:
    sets = [part for override in overrides for part in ("--set", override)]
    return [sys.executable, "-m", "fastslow", "train", str(config), "--out", str(out), *sets, *more]


def run(*arguments, **options) -> subprocess.CompletedProcess:
    return subprocess.run(command(*arguments, **options), capture_output=True, text=True, timeout=540, check=False)


def without_seconds(lines):
    return [{k: v for k, v in line.items() if "seconds" not in k} for line in lines]


def ledger_rows(out: Path):
    with sqlite3.connect(f"file:{out / 'ledger.sqlite'}?mode=ro", uri=True) as db:
        return db.execute(
            "SELECT phase, step, idx, cycle, weights_step, context_id, problem_id, seed, text, logprob_sum, reward "
            "FROM rollouts ORDER BY 1, 2, 3"
        ).fetchall()


def kill_when(out: Path, process: subprocess.Popen, phase: str, rows: int, number: int) -> None:
    """Kill once the ledger holds ``rows`` rollouts of ``phase``: the phase is then under way or just done."""
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with sqlite3.connect(f"file:{out / 'ledger.sqlite'}?mode=ro", uri=True) as db:
                if db.execute("SELECT count(*) FROM rollouts WHERE phase = ?", (phase,)).fetchone()[0] >= rows:
                    process.send_signal(number)
                    process.wait(60)
                    return
        except sqlite3.OperationalError:
            pass
        time.sleep(0.05)
    process.kill()
    raise AssertionError(f"{phase} never reached {rows} rollouts (exit {process.poll()})")


@pytest.mark.timeout(1200)
def test_a_run_killed_in_two_phases_and_resumed_ends_with_the_same_bits(tmp_path):
    config = ROOT / "configs" / "demo.yaml"
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    done = run(config, whole)
    assert done.returncode == 0, done.stderr

    with subprocess.Popen(command(config, broken), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        kill_when(broken, process, "fast", 2, signal.SIGKILL)  # inside the first fast phase: no checkpoint yet
    with subprocess.Popen(
        command(config, broken, "--resume"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        kill_when(broken, process, "slow", 9, signal.SIGKILL)  # inside the second slow step: a checkpoint behind it
    assert latest_checkpoint(broken / "checkpoints").name == "step-000001"
    resumed = run(config, broken, "--resume")
    assert resumed.returncode == 0, resumed.stderr

    a, b = latest_checkpoint(whole / "checkpoints"), latest_checkpoint(broken / "checkpoints")
    assert a.name == b.name == "step-000002"
    for file in ("weights.safetensors", "optimizer.safetensors", "rng.safetensors"):
        left, right = load_file(a / file), load_file(b / file)
        assert left.keys() == right.keys() and left
        assert all(left[k].equal(right[k]) for k in left), file
    states = [json.loads((c / "state.json").read_text())["state"] for c in (a, b)]
    assert {k: v for k, v in states[0].items() if k != "seconds"} == {
        k: v for k, v in states[1].items() if k != "seconds"
    }
    assert without_seconds(read_metrics(whole / "metrics.jsonl")) == without_seconds(
        read_metrics(broken / "metrics.jsonl")
    )
    assert ledger_rows(whole) == ledger_rows(broken)
    assert states[0]["step"] == 2 and any(r[4] > 0 for r in ledger_rows(whole)), "the weights never moved"


@pytest.mark.parametrize("task", ["ransom_note", "gcd", "products", "isomorphic_strings", "chain_sum"])
@pytest.mark.timeout(600)
def test_the_demo_config_takes_other_tasks_without_any_other_change(tmp_path, task):
    done = run(ROOT / "configs" / "demo.yaml", tmp_path / "run", overrides=[*TINY, f"task.name={task}", "steps=1"])
    assert done.returncode == 0, done.stderr
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["rollouts"]["slow"] == 8 and 0 < summary["rollouts"]["fast"] <= 10


@pytest.mark.timeout(600)
def test_your_own_task_works_as_printed(tmp_path):
    done = run(ROOT / "examples" / "own_task.yaml", tmp_path / "run", overrides=[])
    assert done.returncode == 0, done.stderr
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["accuracy"]["final"] is not None and summary["scorer_errors"] == 0
