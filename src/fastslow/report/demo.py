"""What the demo shows: a table, a plot, the best context in words, and on request the same as Markdown."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from rich.console import Console

from fastslow.report.plots import plot_compare
from fastslow.report.tables import compare_markdown, compare_table
from fastslow.report.text import for_markdown, for_terminal
from fastslow.runs.directory import RunDirectory
from fastslow.tasks import build_task, majority_share

EXPECTED: dict[str, float] = {}
"""Final accuracy under the evolved context by method, as measured with three seeds (docs/results/demo.md)."""


class FinishedRun(Protocol):
    """One arm's run; :class:`fastslow.demo.ArmRun` is one."""

    @property
    def arm(self) -> str: ...
    @property
    def seed(self) -> int: ...
    @property
    def path(self) -> Path: ...


def present(runs: Sequence[FinishedRun], out: Path, console: Console, report: Path | None, expected: bool) -> None:
    """Print the table, write ``out/demo.png``, and ``report`` with its figure beside it where asked for."""
    folders = [r.path for r in runs]
    config = RunDirectory(folders[0]).load_config()
    figure = plot_compare(folders, out / "demo.png", _title(config.task.name, config.task.convention))
    known = EXPECTED if expected else None
    console.print(compare_table(folders, known))
    share = majority_share(build_task(config.task, check=False).val)
    console.print(f"The best constant reply would solve {share:.0%} of the validation problems.", markup=False)
    best = _best_context(runs)
    if best:
        console.print("\nThe best context that FST found (seed 0):")
        console.print(for_terminal(best), markup=False)
    console.print(f"\nPlot: {figure}", markup=False)
    if report is not None:
        _write_report(report, figure, folders, config.task.name, share, best)
        console.print(f"Report: {report}", markup=False)


def _title(task: str, convention: object) -> str:
    hidden = f" under a hidden convention ({getattr(convention, 'kind', '')})" if convention is not None else ""
    return f"{task}{hidden}"


def _best_context(runs: Sequence[FinishedRun]) -> str:
    for run in runs:
        directory = RunDirectory(run.path)
        if run.arm == "fst" and directory.population_cycles():
            population = directory.read_population()
            by_id = {c["id"]: c["components"] for c in population["archive"]}
            return "\n\n".join(text for text in by_id[population["contexts"][0]].values() if text.strip())
    return ""


def _write_report(report: Path, figure: Path, folders: Sequence[Path], task: str, share: float, best: str) -> None:
    report.parent.mkdir(parents=True, exist_ok=True)
    picture = report.with_suffix(".png")
    shutil.copyfile(figure, picture)
    quoted = "\n".join(f"    {line}" for line in best.splitlines())
    text = [
        f"### {for_markdown(_title(task, RunDirectory(folders[0]).load_config().task.convention))}",
        compare_markdown(folders),
        f"The best constant reply would solve {share:.0%} of the validation problems.",
        f"![Validation accuracy over training rollouts]({picture.name})",
        "The best context that FST found (seed 0):",
        quoted,
    ]
    report.write_text("\n\n".join(t for t in text if t) + "\n", encoding="utf-8")
