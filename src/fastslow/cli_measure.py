"""``fastslow measure``: parse, call :mod:`fastslow.measure`, print. Heavy imports wait until a command needs them."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from fastslow.report.text import for_terminal, plain

if TYPE_CHECKING:
    from fastslow.measure.result import Measured

app = typer.Typer(
    help="What training did to a policy: drift, retention, plasticity, attribution, fits, sample efficiency.",
    epilog="Example: fastslow measure attribution runs/demo/fst-seed0",
    no_args_is_help=True,
    rich_markup_mode="rich",
)
console = Console(width=None if sys.stdout.isatty() else 140, emoji=False)  # a log has no width of its own
errors = Console(stderr=True, highlight=False, emoji=False)

Runs = Annotated[list[Path], typer.Argument(help="Run folders; runs that differ in their seed alone are one arm.")]
Json = Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write all numbers here too.")]
Samples = Annotated[int, typer.Option("-n", min=1, help="Samples per problem.")]
Problems = Annotated[int | None, typer.Option(min=1, help="Validation problems; default: all.")]
Sets = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a config key, e.g. task.val_size=200.")
]
Base = Annotated[
    bool, typer.Option("--released", help="Compare with the released model, not with the run's own start.")
]


class By(StrEnum):
    """What a curve is drawn over."""

    rollouts = "rollouts"
    problems = "problems"


@app.command(epilog="Example: fastslow measure drift runs/demo/fst-seed0 runs/demo/rl-seed0")
def drift(
    runs: Runs, n: Samples = 4, problems: Problems = None, released: Base = False, sets: Sets = None, json: Json = None
) -> None:
    """KL to the base weights on held-out prompts, exact at every token, with and without the evolved context."""
    from fastslow.measure.weights import drift_of_runs

    _show(drift_of_runs(_folders(runs), n, problems, released, sets or [], _say), json)


@app.command(epilog="Example: fastslow measure retention runs/demo/fst-seed0 --tasks gcd,letter_counting")
def retention(
    runs: Runs,
    tasks: Annotated[str | None, typer.Option(help="Datasets never trained, comma-separated; default: five.")] = None,
    n: Samples = 4,
    problems: Annotated[int, typer.Option(min=1, help="Problems of each task.")] = 32,
    released: Base = False,
    sets: Sets = None,
    json: Json = None,
) -> None:
    """Accuracy and likelihoods on tasks never trained, before and after, without the evolved context."""
    from fastslow.measure.weights import retention_of_runs

    names = [t.strip() for t in tasks.split(",") if t.strip()] if tasks else None
    _show(retention_of_runs(_folders(runs), names, n, problems, released, sets or [], _say), json)


@app.command(epilog="Example: fastslow measure plasticity runs/demo/fst-seed0 runs/demo/rl-seed0 --task products")
def plasticity(
    runs: Runs,
    task: Annotated[str, typer.Option(help="The second task: a Reasoning Gym dataset, or a config's YAML file.")],
    steps: Annotated[int | None, typer.Option(min=1, help="Slow steps of each probe; default: as the run.")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Probes of each run; base gets as many as an arm.")] = 1,
    out: Annotated[Path, typer.Option(help="Folder for the probes, which are runs.")] = Path("runs/plasticity"),
    sets: Sets = None,
    json: Json = None,
) -> None:
    """Fresh RL on a second task from base and from each run: final accuracy and area under the curve."""
    from fastslow.measure.plasticity import plasticity_of_runs

    _show(plasticity_of_runs(_folders(runs), task, out, steps, seeds, sets or [], _say), json)


@app.command(epilog="Example: fastslow measure attribution runs/demo/fst-seed*")
def attribution(runs: Runs, n: Samples = 4, problems: Problems = None, sets: Sets = None, json: Json = None) -> None:
    """Was it the weights or the context: four cells, effects, and reward variance inside groups."""
    from fastslow.measure.weights import attribution_of_runs

    _show(attribution_of_runs(_folders(runs), n, problems, sets or [], _say), json)


@app.command(epilog="Example: fastslow measure fit runs/long/fst-seed* runs/long/rl-seed*")
def fit(
    runs: Runs,
    by: Annotated[By, typer.Option(help="What the curve is drawn over.")] = By.rollouts,
    json: Json = None,
) -> None:
    """The 4-parameter sigmoid of each arm's curve: the asymptote A with its interval, or why there is none."""
    from fastslow.measure.curves import fit_of_runs

    _show(fit_of_runs(_folders(runs), by.value), json)


@app.command(epilog="Example: fastslow measure efficiency runs/demo/fst-seed* runs/demo/rl-seed*")
def efficiency(runs: Runs, json: Json = None) -> None:
    """Problems and total rollouts that each arm needs to reach the best of the other."""
    from fastslow.measure.curves import efficiency_of_runs

    _show(efficiency_of_runs(_folders(runs)), json)


@app.command(epilog="Example: fastslow measure collapse runs/demo/*-seed0")
def collapse(runs: Runs, json: Json = None) -> None:
    """Entropy and the share of the most common reply, with a warning where a policy gives one answer to all."""
    from fastslow.measure.curves import collapse_of_runs

    _show(collapse_of_runs(_folders(runs)), json)


def _show(found: Measured, json: Path | None) -> None:
    table = Table(title=for_terminal(found.title), title_justify="left")
    for i, name in enumerate(found.header):
        table.add_column(for_terminal(name), justify="left" if i < 2 else "right", overflow="fold")
    for row in found.rows:
        table.add_row(*(for_terminal(cell) for cell in row))
    console.print(table)
    for note in found.notes:
        console.print(for_terminal(note), highlight=False)
    if json is not None:
        found.write(json)
        console.print(f"Numbers: {for_terminal(str(json))}")


def _folders(paths: list[Path]) -> list[Path]:
    """``runs/demo/*`` also finds plots and tables."""
    return [p for p in paths if not p.is_file()] or paths


def _say(text: str) -> None:
    errors.print(plain(text), markup=False)
