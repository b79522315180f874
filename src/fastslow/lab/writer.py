"""docs/results/NAME.md, NAME.csv, NAME.json and NAME.png: all of it from code, with the command at the top."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fastslow.lab.base import Experiment, Result, Table
from fastslow.lab.verdicts import Finding
from fastslow.report.text import for_markdown
from fastslow.runs.files import write_json, write_text


def write_result(experiment: Experiment, result: Result, command: str, results: Path, left: Sequence[str] = ()) -> Path:
    """Returns the page's path. ``left``: what the time did not suffice for; the page says so."""
    results.mkdir(parents=True, exist_ok=True)
    picture = results / f"{experiment.name}.png"
    if result.figure is not None:
        result.figure(picture)
    write_text(results / f"{experiment.name}.csv", csv_text(*result.csv))
    write_json(results / f"{experiment.name}.json", record_of(experiment, result, command, left))
    page = results / f"{experiment.name}.md"
    write_text(page, page_text(experiment, result, command, left))
    return page


def record_of(experiment: Experiment, result: Result, command: str, left: Sequence[str]) -> dict[str, Any]:
    """What the claims table is rebuilt from."""
    return {
        "name": experiment.name,
        "claim": experiment.claim,
        "paper": experiment.paper,
        "command": command,
        "complete": not left,
        "findings": [asdict(f) for f in result.findings],
        "data": dict(result.data),
    }


def page_text(experiment: Experiment, result: Result, command: str, left: Sequence[str]) -> str:
    parts = [f"# {experiment.name}", f"Made by `{command}`.", f"**Claim.** {experiment.claim}"]
    if experiment.paper:
        parts.append(f"**In the paper** (arXiv 2605.12484): {experiment.paper}.")
    if left:
        parts.append(f"**Not complete:** {len(left)} runs or measurements are missing; the same command goes on.")
    if result.findings:
        header = ["where", "what would have to be true", "ours", "95% interval", "seeds", "verdict", ""]
        parts += ["## Verdicts", table_text(Table("", header, [finding_cells(f) for f in result.findings]))]
    if result.figure is not None:
        parts.append(f"![{experiment.name}]({experiment.name}.png)")
    for table in result.tables:
        parts += [f"## {table.title}", table_text(table)]
    parts += ["## Reading it", *result.notes, *COMMON]
    parts.append(f"Data: [{experiment.name}.csv]({experiment.name}.csv).")
    return "\n\n".join(parts) + "\n"


COMMON = (
    "Verdicts come from the 95% interval (bootstrap over seeds, then problems): *holds* where all of it says so, "
    "*doesn't* where all of it says the opposite, else *can't tell*. With two or three seeds an interval over seeds is "
    "too narrow.",
    "All arms of a study and seed spend the same total rollouts, the fast phase's included, up to a whole step (where "
    "one gets more, its name says so). "
    "Learning rates of all arms: `fastslow lab sweep`. *RL, told* is RL from the prompt of a person who knows how "
    "answers must be given: the rule in words, and three training problems with their answers.",
)


def finding_cells(f: Finding) -> list[str]:
    return [f.where, f.claim, f.ours, f.ci95, str(f.seeds), f.verdict, f.why]


def table_text(table: Table) -> str:
    lines = [f"| {' | '.join(for_markdown(h) for h in table.header)} |", "|" + "---|" * len(table.header)]
    lines += [f"| {' | '.join(for_markdown(cell) for cell in row)} |" for row in table.rows]
    return "\n".join(lines)


def csv_text(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows([header, *rows])
    return buffer.getvalue()
