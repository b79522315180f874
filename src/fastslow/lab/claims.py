"""docs/results/README.md: one row a claim and study, rebuilt from the results that exist."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastslow.lab.base import Experiment, Table
from fastslow.lab.writer import table_text
from fastslow.runs.files import read_json, write_text

HEADER = ("experiment", "claim", "where", "the paper's figure", "ours", "seeds", "95% interval", "verdict", "command")
_INTRO = """# Results

Every claim of Fast-Slow Training (arXiv 2605.12484), tried at the size of a small machine: a model of 135M parameters
on two CPU cores, about a thousand rollouts a run. Written by `fastslow lab`, one row a claim and study; each
experiment's page has its figure, tables and data.

Verdicts come from 95% intervals over seeds and problems, never from a mean alone: **holds** where the whole interval
says so, **doesn't** where the whole interval says the opposite, else **can't tell**. All arms of a study spend the same
total rollouts, the fast phase's counted (where RL gets more, its name says so), and have their learning rates chosen by
one rule (`fastslow lab sweep`). The demo's figures stand in [demo.md](demo.md)."""
_WHY = "why.md"


def write_claims(experiments: Mapping[str, Experiment], results: Path) -> Path:
    page = results / "README.md"
    results.mkdir(parents=True, exist_ok=True)
    rows = [row for e in experiments.values() for row in claim_rows(e, results)]
    pages = [f"[{name}]({name}.md)" for name in experiments if read_record(name, results) is not None]
    intro = [_INTRO]
    if (results / _WHY).exists():  # written by hand, so not everywhere
        intro.append(f"Where a claim does not hold, [{_WHY}]({_WHY}) has what was tried to find out why.")
    parts = [*intro, table_text(Table("", HEADER, rows)), *([f"Pages: {', '.join(pages)}."] if pages else [])]
    write_text(page, "\n\n".join(parts) + "\n")
    return page


def claim_rows(experiment: Experiment, results: Path) -> list[list[str]]:
    """One row for each finding; a row "not run yet" where there is no result."""
    record = read_record(experiment.name, results)
    name = experiment.name
    if record is None or not record["findings"]:
        verdict = "not run yet" if record is None else "done" if record["data"] else "no finding yet"
        command = f"fastslow lab {experiment.name}" if record is None else record["command"]
        return [[name, experiment.claim, "", experiment.paper, "", "", "", verdict, command]]
    part = "" if record["complete"] else " (not complete)"
    return [
        [name, f["claim"], f["where"], record["paper"], f["ours"], str(f["seeds"]), f["ci95"], f"{f['verdict']}{part}",
         record["command"]]
        for f in record["findings"]
    ]  # fmt: skip


def read_record(name: str, results: Path) -> dict[str, Any] | None:
    """What :func:`fastslow.lab.writer.record_of` wrote; None before the experiment was run."""
    path = results / f"{name}.json"
    return read_json(path) if path.exists() else None
