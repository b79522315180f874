"""``fastslow lab``: parse, call :mod:`fastslow.lab`, print. Heavy imports wait until an experiment needs them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from fastslow.errors import FastslowError
from fastslow.report.text import for_terminal, plain

console = Console(width=None if sys.stdout.isatty() else 160, emoji=False)  # a log has no width of its own


def lab(
    name: Annotated[str | None, typer.Argument(help="The experiment; --list shows them.")] = None,
    seeds: Annotated[int | None, typer.Option(min=1, help="Seeds 0 … N-1; default: the experiment's own.")] = None,
    arms: Annotated[
        str | None,
        typer.Option(help="Of fst, rl, rl-told, rl-long, gepa, fst-distill; comma-separated; default: as listed."),
    ] = None,
    minutes: Annotated[
        float | None, typer.Option(min=0, help="Start nothing that would not end in this time; go on later.")
    ] = None,
    jobs: Annotated[
        int, typer.Option(min=1, help="Runs at a time, each on its share of the cores; their lines go to .log files.")
    ] = 1,
    show: Annotated[bool, typer.Option("--list", help="Every experiment, its claim, its cost and its state.")] = False,
    claims: Annotated[
        bool, typer.Option("--claims", help="Only write the claims table again, from the results that exist.")
    ] = False,
    out: Annotated[Path, typer.Option(help="Folder for the runs.")] = Path("runs/lab"),
    results: Annotated[Path, typer.Option(help="Folder for pages, data and figures.")] = Path("docs/results"),
) -> None:
    """One of the paper's experiments at the size of this machine: run what is missing, write its page and verdicts."""
    if show:
        _list(out, results)
        return
    from fastslow.lab.experiments import EXPERIMENTS, find_experiment
    from fastslow.lab.lab import run_lab, write_claims

    if claims:
        console.print(f"Claims: {for_terminal(str(write_claims(EXPERIMENTS, results)))}", highlight=False)
        return
    if name is None:
        raise FastslowError(f"lab: name an experiment: {', '.join(EXPERIMENTS)}; --list tells more")
    chosen = None if arms is None else [a.strip() for a in arms.split(",") if a.strip()]
    command = _command(name, seeds, chosen)
    outcome = run_lab(find_experiment(name), out, results, _say, command, seeds, chosen, minutes, jobs=jobs)
    for label in outcome.left:
        _say(f"left for later: {label}")
    if outcome.reason:
        _say(outcome.reason)
    if outcome.page is not None:
        console.print(f"Page: {for_terminal(str(outcome.page))}", highlight=False)


def _list(out: Path, results: Path) -> None:
    from fastslow.lab.lab import overview

    table = Table()
    for header in ("experiment", "claim", "arms x seeds", "runs done", "minutes left", "state"):
        table.add_column(header, overflow="fold", justify="right" if header == "minutes left" else "left")
    for row in overview(out, results):
        table.add_row(*(for_terminal(cell) for cell in row))
    console.print(table)
    console.print("Runs are shared between experiments. Minutes: roughly, on two cores.", markup=False)


def _command(name: str, seeds: int | None, arms: list[str] | None) -> str:
    """The command that makes the page, whatever the time it was made in."""
    parts = ["fastslow lab", name]
    parts += [f"--seeds {seeds}"] if seeds is not None else []
    parts += [f"--arms {','.join(arms)}"] if arms is not None else []
    return " ".join(parts)


def _say(text: str) -> None:
    print(plain(text), file=sys.stderr, flush=True)


def register(app: typer.Typer) -> None:
    """Add the command to the main command."""
    app.command(epilog="Example: fastslow lab efficiency --seeds 3 --minutes 50")(lab)
