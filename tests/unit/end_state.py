"""All that a run leaves behind, in a form that two runs can be compared by: a resumed one equals the unbroken one."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import torch

from fastslow.runs.checkpoint import load_latest
from fastslow.runs.directory import RunDirectory
from fastslow.runs.ledger_schema import TABLES
from fastslow.runs.metrics import read_metrics

_STEPS = "checkpoints/step-"  # which of them there are depends on where a run was stopped


def without_seconds(value):
    """The value without what no two runs share: seconds and memory."""
    if isinstance(value, dict):
        return {k: without_seconds(v) for k, v in value.items() if "seconds" not in k and k != "peak_memory_gb"}
    return [without_seconds(v) for v in value] if isinstance(value, list) else value


def ledger_rows(folder: Path, table: str) -> list[dict]:
    """Every row of a table of the ledger, by column, in the order stored."""
    with closing(sqlite3.connect(folder / "ledger.sqlite")) as db:
        db.row_factory = sqlite3.Row
        return [dict(row) for row in db.execute(f"SELECT * FROM {table} ORDER BY {TABLES[table]}")]


def everything(folder: Path) -> dict:
    """All that a run leaves behind, apart from seconds, memory and byte positions (which count digits of seconds)."""
    _, tensors, state = load_latest(folder / "checkpoints")
    state.pop("metrics_position")
    run = RunDirectory(folder)
    rows = {table: ledger_rows(folder, table) for table in TABLES}
    for row in rows["slow_steps"]:
        row["metrics"] = without_seconds(json.loads(row["metrics"]))
    return {
        "tensors": {f"{group}/{name}": t for group, named in tensors.items() for name, t in named.items()},
        "state": without_seconds(state),
        "metrics": without_seconds(read_metrics(folder / "metrics.jsonl")),
        "ledger": {table: without_seconds(found) for table, found in rows.items()},
        "contexts": {c: run.read_population(c) for c in run.population_cycles()},
        "summary": without_seconds(run.read_summary()),
        "files": sorted(f for p in folder.rglob("*") if not (f := str(p.relative_to(folder))).startswith(_STEPS)),
    }


def differences(found: dict, expected: dict) -> list[str]:
    """The parts that differ; a tensor is named. Empty where the two are equal bit for bit."""
    a, b = found.get("tensors", {}), expected.get("tensors", {})
    unlike = [f"tensors: {name}" for name in sorted(a.keys() | b.keys()) if not _same(a.get(name), b.get(name))]
    return unlike + [part for part in expected if part != "tensors" and found[part] != expected[part]]


def _same(a: torch.Tensor | None, b: torch.Tensor | None) -> bool:
    return a is not None and b is not None and a.dtype == b.dtype and torch.equal(a, b)


def assert_equal(found: dict, expected: dict) -> None:
    assert not differences(found, expected)
