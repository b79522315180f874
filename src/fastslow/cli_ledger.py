"""``fastslow rollouts`` and ``fastslow contexts``: what a run's ledger holds, also while the run goes on."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from fastslow.errors import FastslowError

NEWEST = 20
"""Rollouts that a table shows where nothing else is asked for."""

console = Console(width=None if sys.stdout.isatty() else 160, emoji=False)  # a log has no width of its own

Source = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, or its ledger.sqlite.")]


def rollouts(
    run: Source,
    where: Annotated[
        str | None, typer.Option(metavar="SQL", help="A condition over the columns, e.g. \"phase = 'slow'\".")
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help=f"Only the newest so many; default: {NEWEST} in a table, else all.")
    ] = None,
    format: Annotated[str, typer.Option(help="table, jsonl (to standard output or --out) or parquet.")] = "table",
    out: Annotated[Path | None, typer.Option(help="File to write jsonl or parquet to.")] = None,
) -> None:
    """Every rollout of a run with its stamps, text, reward and feedback; any SQL condition that only reads."""
    _choose("--format", format, ("table", "jsonl", "parquet"))
    if format == "table" and out is not None:
        raise FastslowError("--out: only for --format jsonl or parquet; leave it out for a table")
    if format == "parquet" and out is None:
        raise FastslowError("--format parquet: needs a file to write to; add --out rollouts.parquet")
    from fastslow.report.rollouts import rollouts_table, write_jsonl, write_parquet
    from fastslow.runs.files import disk_errors
    from fastslow.runs.ledger_query import ledger_path, query_rollouts, rollout_columns

    source = ledger_path(run)
    if out is not None and out.exists() and out.samefile(source):
        raise FastslowError(f"--out {out}: is the ledger itself; choose another file")
    rows = query_rollouts(source, where, limit or (NEWEST if format == "table" else None))
    if format == "table":
        console.print(rollouts_table(rows))
    elif format == "parquet":
        assert out is not None
        _say(f"{write_parquet(rows, rollout_columns(source), out)} rollouts: {out}")
    elif out is None:
        write_jsonl(rows, sys.stdout)
    else:
        with disk_errors(out), out.open("w", encoding="utf-8") as file:
            count = write_jsonl(rows, file)
        _say(f"{count} rollouts: {out}")


def contexts(
    run: Source,
    diff: Annotated[
        list[str] | None, typer.Option(metavar="ID", help="What sets this context apart from its parents; repeatable.")
    ] = None,
    diffs: Annotated[bool, typer.Option("--diffs", help="The same for every context that was ever accepted.")] = False,
    accepted: Annotated[
        bool, typer.Option("--accepted", help="Only contexts that were ever accepted or had a place.")
    ] = False,
    format: Annotated[str, typer.Option(help="tree, or json: all contexts with texts, fates and rewards.")] = "tree",
) -> None:
    """The lineage of a run's contexts: who came from whom and why, what became of each, and how it scored."""
    _choose("--format", format, ("tree", "json"))
    if format == "json" and (diff or diffs):
        raise FastslowError("--diff: only for --format tree; json holds the texts of parent and child")
    from fastslow.report.contexts import difference, find_context, lineage_json, lineage_tree, was_accepted
    from fastslow.runs.ledger_query import read_contexts

    found = read_contexts(run)
    if accepted:
        found = [c for c in found if was_accepted(c)]
    if format == "json":
        print(lineage_json(found))
        return
    by_id = {c.id: c for c in found}
    chosen = [find_context(found, prefix) for prefix in diff or []]
    if diffs:
        chosen += [c for c in found if was_accepted(c)]
    if not chosen:
        console.print(lineage_tree(found, str(run)))
    for context in dict.fromkeys(c.id for c in chosen):
        console.print(difference(by_id[context], by_id), soft_wrap=True)


def register(app: typer.Typer) -> None:
    """Add the commands to the main command."""
    conditions = "\"phase = 'slow' AND reward = 1\""
    app.command(epilog=f"Example: fastslow rollouts runs/demo/fst-seed0 --where {conditions} --format jsonl")(rollouts)
    app.command(epilog="Example: fastslow contexts runs/demo/fst-seed0 --diffs")(contexts)


def _choose(option: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise FastslowError(f"{option} {value}: not known; choose from {', '.join(known)}")


def _say(text: str) -> None:
    console.print(text, markup=False, highlight=False)
