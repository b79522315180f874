"""The ``fastslow`` command: parse, load the config, call, print. Heavy imports wait until a command needs them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from fastslow.cli_lab import register as register_lab
from fastslow.cli_ledger import register as register_ledger
from fastslow.cli_measure import app as measure_app
from fastslow.errors import FastslowError
from fastslow.report.text import for_terminal, plain
from fastslow.runs.signals import last_word

app = typer.Typer(
    name="fastslow",
    help="Fast-Slow Training: RL moves the weights, reflective evolution moves a population of contexts.",
    epilog="Example: fastslow demo",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
app.add_typer(measure_app, name="measure")
# A log has no width of its own; a context that says :smile: means just that.
console = Console(width=None if sys.stdout.isatty() else 120, emoji=False)

SetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a config key, e.g. slow.lr=2e-5.")
]


@app.command(epilog="Example: fastslow demo --seeds 3 --plain --report docs/results/demo.md")
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the runs, the table and demo.png.")] = Path("runs/demo"),
    seeds: Annotated[int, typer.Option(min=1, help="Seeds 0 … N-1 of every arm.")] = 1,
    arms: Annotated[str, typer.Option(help="Which of fst, rl, gepa; comma-separated.")] = "fst,rl,gepa",
    plain: Annotated[bool, typer.Option("--plain", help="Then the same task without its hidden convention.")] = False,
    config: Annotated[Path | None, typer.Option(help="Another config than configs/demo.yaml.")] = None,
    report: Annotated[
        Path | None, typer.Option(help="Write the results as Markdown here, with figures beside it.")
    ] = None,
    overrides: SetOption = None,
) -> None:
    """The main job on the embedded model: FST beside RL and GEPA, a table and a plot."""
    from fastslow.config import config_dir
    from fastslow.demo import run_demo
    from fastslow.report.demo import Showing, show, write_report

    chosen, settings, sets = _arms(arms), config or config_dir() / "demo.yaml", overrides or []
    shipped = config is None and not sets
    showings = [Showing(run_demo(settings, out, range(seeds), chosen, sets), out)]
    show(showings[0], console, expected=shipped)
    if plain:
        beside = out.with_name(f"{out.name}-plain")
        runs = run_demo(settings, beside, range(seeds), chosen, [*sets, "task.convention=null"])
        showings.append(Showing(runs, beside))
        show(showings[1], console, expected=False)
    if report is not None:
        command = " ".join(["fastslow", *sys.argv[1:]])
        write_report(report, showings, command)
        console.print(f"Report: {report}", markup=False)


@app.command(epilog="Example: fastslow train configs/demo.yaml --set method=rl --set task.name=gcd --out runs/gcd-rl")
def train(
    config: Annotated[Path, typer.Argument(help="A YAML config; configs/demo.yaml is a good start.")],
    out: Annotated[Path | None, typer.Option(help="Run folder; default runs/NAME of the config.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint in --out.")] = False,
    overrides: SetOption = None,
) -> None:
    """Train from a config; --resume goes on after any stop, to the same bits on CPU."""
    from fastslow.config_io import load_config

    settings = load_config(config, overrides or [])
    folder = out or Path("runs") / settings.name
    from fastslow.engines import is_main_process, pick_engine
    from fastslow.progress import make_progress
    from fastslow.report.plots import plot_run

    run = pick_engine(settings)
    if not is_main_process():
        run(settings, folder, resume=resume)
        return
    with make_progress(settings) as progress:
        run(settings, folder, resume=resume, progress=progress)
    plot_run(folder, folder / "plots" / "run.png")
    _print_runs([folder])
    console.print(f"Run folder: {for_terminal(str(folder))}")


@app.command("eval", epilog="Example: fastslow eval runs/demo/fst-seed0 --context evolved -n 4")
def evaluate(
    source: Annotated[str, typer.Argument(help="A run folder, or a model (embedded name, folder, .gguf or hub id).")],
    task: Annotated[str | None, typer.Option(help="A Reasoning Gym dataset; default: the run's own task.")] = None,
    context: Annotated[
        str, typer.Option(help="seed, evolved, population (a mixture), none, or a file with a context's JSON.")
    ] = "evolved",
    n: Annotated[int, typer.Option("-n", min=1, help="Samples per problem.")] = 4,
    problems: Annotated[int | None, typer.Option(min=1, help="Validation problems; default: all.")] = None,
    drift: Annotated[bool, typer.Option("--drift", help="Also KL to the weights before training.")] = False,
    overrides: SetOption = None,
) -> None:
    """Accuracy (mean@n, 95% interval) of a run's newest weights, or of a model, on a task's validation problems."""
    from fastslow.evaluate import evaluate_source

    result = evaluate_source(source, task, context, n, problems, overrides or [], drift)
    mean = f"accuracy (mean@{result.n})"
    table = Table("task", "context", "problems", "n", mean, "95% interval", "most common reply")
    low, high = result.accuracy.ci95
    cells = [
        for_terminal(result.task), for_terminal(result.context), str(len(result.accuracy.per_problem)), str(result.n),
        f"{result.accuracy.mean:.3f}", f"[{low:.3f}, {high:.3f}]".replace("[", "\\["),
        f"{result.accuracy.majority_answer_share:.2f}",
    ]  # fmt: skip
    if result.drift is not None:
        table.add_column("drift, nats a token")
        cells.append(f"{result.drift.mean:.4f}")
    table.add_row(*cells)
    console.print(table)


@app.command(epilog="Example: fastslow compare runs/demo/* --out runs/demo")
def compare(
    runs: Annotated[list[Path], typer.Argument(help="Run folders: several methods and seeds.")],
    out: Annotated[Path, typer.Option(help="Where compare.png goes.")] = Path("."),
    title: Annotated[str, typer.Option(help="Title of the plot.")] = "Validation accuracy at equal rollouts",
) -> None:
    """Table and plot of several runs, grouped by method, with 95% intervals over seeds."""
    from fastslow.report.plots import plot_compare

    folders = [r for r in runs if (r / "config.yaml").is_file()]
    if not folders:
        raise FastslowError(f"no run among {', '.join(map(str, runs))}; give folders that hold a config.yaml")
    _print_runs(folders)
    out.mkdir(parents=True, exist_ok=True)
    plot_compare(folders, out / "compare.png", title)
    console.print(f"Plot: {for_terminal(str(out / 'compare.png'))}")


@app.command(epilog="Example: fastslow plan configs/demo.yaml --set steps=48")
def plan(
    config: Annotated[Path, typer.Argument(help="A YAML config.")],
    overrides: SetOption = None,
    parameters: Annotated[
        str | None, typer.Option(help="The model's size, such as 8B, if it isn't here and its name doesn't say.")
    ] = None,
) -> None:
    """Rollouts, reflections, memory and time that a run will take, before it starts."""
    from fastslow.config_io import load_config
    from fastslow.costs import measure_speed
    from fastslow.planning import make_plan, task_lengths
    from fastslow.policy.facts import model_facts, parse_size
    from fastslow.report.plan import plan_table

    settings = load_config(config, overrides or [])
    if parameters is not None and parse_size(parameters) is None:
        raise FastslowError(f"--parameters {parameters}: no size; give one such as 8B, 600M or 7e9")
    facts = model_facts(settings.model, parameters)
    lengths = task_lengths(settings, facts)
    speeds = measure_speed(settings) if facts.parameters else None
    console.print(plan_table(settings, make_plan(settings, facts, lengths, speeds)))


@app.command(epilog="Example: fastslow doctor configs/demo.yaml")
def doctor(
    config: Annotated[Path | None, typer.Argument(help="A YAML config to check against this machine.")] = None,
    overrides: SetOption = None,
    out: Annotated[Path, typer.Option(help="Folder that the run would go to.")] = Path("runs"),
    format: Annotated[str, typer.Option(help="table, or json for programs.")] = "table",
) -> None:
    """What this machine has, what a config would need, what is wrong and how to mend it; exit 1 with a problem."""
    if format not in ("table", "json"):
        raise FastslowError(f"--format {format}: not known; choose table or json")
    from fastslow.doctor import examine, problems
    from fastslow.report.doctor import doctor_json, doctor_table

    findings = examine(config, overrides or [], out)
    if format == "json":
        print(doctor_json(findings))
    else:
        console.print(doctor_table(findings))
    if problems(findings):
        raise typer.Exit(1)


@app.command(epilog="Example: fastslow tasks chain")
def tasks(
    search: Annotated[str, typer.Argument(help="Only names that contain this.")] = "",
) -> None:
    """Every task by name, with one example question and answer."""
    from fastslow.tasks.registry import list_tasks

    table = Table("task", "small preset", "example question", "answer")
    for info in [i for i in list_tasks() if search in i.name]:
        small = "yes" if info.has_small else ""
        example = [for_terminal(_short(text)) for text in (info.question, info.answer)]
        table.add_row(for_terminal(info.name), small, *example)
    console.print(table)
    console.print(
        "Your own: task: {path: my.jsonl, scorer: my_scorer:score}; see examples/own_task.yaml.", markup=False
    )


@app.command(epilog="Example: fastslow models")
def models() -> None:
    """What `model.name` may be, with one example each."""
    from fastslow.config import EMBEDDED_MODEL

    table = Table("kind", "example", "notes")
    table.add_row(
        "embedded", EMBEDDED_MODEL, "SmolLM2-135M-Instruct from the package index; works offline after the first use"
    )
    table.add_row("local folder", "./my-model", "as written by save_pretrained; safetensors only")
    table.add_row("local GGUF", "./my-model.Q4_1.gguf", "dequantized once, cached as safetensors")
    table.add_row("hub id", "Qwen/Qwen3-8B", "downloaded by transformers; safetensors only")
    console.print(table)


register_ledger(app)
register_lab(app)


def _arms(text: str) -> list[str]:
    from fastslow.demo import ARMS

    arms = [a.strip() for a in text.split(",") if a.strip()]
    unknown = [a for a in arms if a not in ARMS]
    if unknown or not arms:
        raise FastslowError(f"--arms: {text!r} is not known; choose from {', '.join(ARMS)}")
    return arms


def _print_runs(folders: list[Path]) -> None:
    from fastslow.report.tables import compare_table

    console.print(compare_table(folders))


def _short(text: str | None, length: int = 100) -> str:
    text = " ".join((text or "").split())
    return text if len(text) <= length else text[: length - 1] + "…"


def main() -> None:
    """Entry point: a user's mistake is one line on standard error and exit code 2."""
    with last_word():
        try:
            app(prog_name="fastslow")
        except FastslowError as error:
            print(f"fastslow: {plain(str(error))}", file=sys.stderr)
            sys.exit(2)
