"""What the demo shows: a table, a plot, the best context in words, and on request the same as Markdown."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from rich.console import Console

from fastslow.report.plots import plot_compare
from fastslow.report.tables import compare_markdown, compare_table
from fastslow.report.text import for_markdown, for_terminal, plain
from fastslow.runs.directory import RunDirectory
from fastslow.tasks import build_task, majority_share

EXPECTED = {"fst": 0.48, "rl": 0.00, "gepa": 0.10}
"""Final accuracy under the evolved context by method: the means of three seeds in docs/results/demo.md."""


class FinishedRun(Protocol):
    """One arm's run; :class:`fastslow.demo.ArmRun` is one."""

    @property
    def arm(self) -> str: ...
    @property
    def path(self) -> Path: ...


class Showing:
    """The runs of one task, ready to be shown: several arms and seeds, in the folder ``out``."""

    def __init__(self, runs: Sequence[FinishedRun], out: Path) -> None:
        self.folders = [r.path for r in runs]
        config = RunDirectory(self.folders[0]).load_config()
        convention = config.task.convention
        hidden = f" under a hidden convention ({convention.kind})" if convention is not None else ""
        self.title = f"{config.task.name}{hidden}"
        self.figure = plot_compare(self.folders, out / "demo.png", self.title)
        self.share = majority_share(build_task(config.task, check=False).val)
        self.context = _best_context(runs)

    @property
    def constant_reply(self) -> str:
        return f"The best constant reply would solve {self.share:.0%} of the validation problems."


def show(showing: Showing, console: Console, expected: bool) -> None:
    """Print table, majority share and best context; ``expected`` puts the documented figures beside the measured."""
    console.print(compare_table(showing.folders, EXPECTED if expected else None))
    console.print(showing.constant_reply, markup=False)
    if showing.context:
        console.print("\nThe best context that FST found in its first run:")
        for line in showing.context.splitlines():
            console.print(f"    {for_terminal(line)}", highlight=False)
    console.print(f"\nPlot: {for_terminal(str(showing.figure))}")


def write_report(report: Path, showings: Sequence[Showing], command: str) -> None:
    """Write the showings as Markdown, each with its figure beside the report; ``command`` made them."""
    report.parent.mkdir(parents=True, exist_ok=True)
    text = ["# The demo, measured", f"Made by `{command}`."]
    for i, showing in enumerate(showings):
        picture = report.with_name(f"{report.stem}{f'-{i + 1}' if i else ''}.png")
        shutil.copyfile(showing.figure, picture)
        text += [
            f"## {for_markdown(showing.title)}",
            compare_markdown(showing.folders).strip(),
            showing.constant_reply,
            f"![Validation accuracy over training rollouts]({picture.name})",
        ]
        if showing.context:
            quoted = "\n".join(f"    {plain(line)}".rstrip() for line in showing.context.splitlines())
            text += ["The best context that FST found in its first run:", quoted]
    report.write_text("\n\n".join(text) + "\n", encoding="utf-8")


def _best_context(runs: Sequence[FinishedRun]) -> str:
    for run in runs:
        directory = RunDirectory(run.path)
        if run.arm == "fst" and directory.population_cycles():
            population = directory.read_population()
            by_id = {c["id"]: c["components"] for c in population["archive"]}
            return "\n\n".join(text for text in by_id[population["contexts"][0]].values() if text.strip())
    return ""
