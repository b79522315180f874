"""Attribution and drift of a short run on the embedded model, from the command line."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from fastslow.cli import main

pytestmark = pytest.mark.real
ROOT = Path(__file__).parents[2]
TINY = [
    "steps=2", "task.val_size=4", "task.train_size=16", "slow.problems_per_step=2", "slow.group_size=4",
    "fast.population=2", "fast.every=2", "fast.budget=12", "slow.lr=1e-4", "slow.warmup=0", "task.convention=null",
    "sampling.max_new_tokens=6", "model.threads=2",
]  # fmt: skip


@pytest.fixture
def fastslow(monkeypatch, capsys):
    """Run a command in this process (libraries load once); returns what it printed."""

    def call(*args: str) -> str:
        monkeypatch.setattr(sys, "argv", ["fastslow", *args])
        with pytest.raises(SystemExit) as ended:
            main()
        assert not ended.value.code, capsys.readouterr().err
        return capsys.readouterr().out

    return call


@pytest.mark.timeout(600)
def test_a_short_run_is_measured(tmp_path, fastslow):
    sets = [part for override in TINY for part in ("--set", override)]
    run, cells, moved = (str(tmp_path / name) for name in ("run", "cells.json", "drift.json"))
    fastslow("train", str(ROOT / "configs" / "demo.yaml"), "--out", run, *sets)
    table = fastslow("measure", "attribution", run, "-n", "1", "--json", cells)
    assert "trained weights" in table and "rescued groups" in table
    (arm,) = json.loads(Path(cells).read_text())["attribution"]
    assert arm["problems"] == 4 and arm["variance"]["groups"] == 4
    fastslow("measure", "drift", run, "-n", "1", "--json", moved)
    rows = json.loads(Path(moved).read_text())["drift"]
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert [r["context"] for r in rows] == ["seed", "evolved"]
    for row in rows:
        known = summary["drift"][f"{row['context']}_context"]
        assert 0 < row["kl"] < 20 * known  # other samples of the same policy
