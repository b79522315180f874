"""Locks: what a run writes comes back, one line a record; nothing raw reaches a terminal; plots take any name."""

from __future__ import annotations

import io
import json
import re
import sqlite3
import types
from xml.etree import ElementTree

import pytest
from hostile import hostile, hostile_text
from hypothesis import example, given
from hypothesis import strategies as st
from report_fakes import make_run
from rich.console import Console

from fastslow import cli
from fastslow.config_io import parse_config
from fastslow.errors import FastslowError
from fastslow.progress import LiveProgress, PlainProgress
from fastslow.report import arms, plots, tables
from fastslow.report import demo as demo_page
from fastslow.report.plots import plot_compare, plot_run
from fastslow.report.text import for_markdown, for_terminal, plain
from fastslow.runs.fates import Fate
from fastslow.runs.ledger import Ledger
from fastslow.runs.ledger_file import storable
from fastslow.runs.ledger_query import query_rollouts
from fastslow.runs.metrics import MetricsWriter, read_metrics
from fastslow.types import Context, Rollout

texts = hostile_text()


def terminal(width: int = 200) -> Console:
    return Console(file=io.StringIO(), width=width, force_terminal=True, emoji=False)


def said(console: Console) -> str:
    """What a terminal got, rich's own colours apart."""
    return re.sub(r"\x1b\[[\d;]*m", "", console.file.getvalue())


def is_clean(shown: str) -> bool:
    return all(c.isprintable() or c == "\n" for c in shown)


def as_json(data: dict) -> dict:
    """What JSON makes of it: the two halves of one character are put together."""
    return json.loads(json.dumps(data))


@hostile(1500)
@given(text=texts)
@example(text="[bold]a[/] \\[red] :smile: [link=http://x]y[/link]\\")
@example(text=":smile:")  # was shown as an emoji
@example(text="\\[ x \\]")  # lost a backslash
@example(text="\x1b]52;c;aGk=\x07\x9b31m\u202e\u2066")
def test_a_terminal_shows_text_and_obeys_none(text):
    console = terminal(10_000)
    console.print(for_terminal(text), highlight=False, soft_wrap=True)
    assert said(console) == plain(text) + "\n" and is_clean(said(console))


@hostile(1500)
@given(text=texts)
@example(text="<script>alert(1)</script>")
@example(text="a | b\n\n# c `d` <b> [x](javascript:1)")
def test_markdown_cells_hold_text_alone(text):
    cell = for_markdown(text)
    assert cell.isprintable() and not re.search(r"(?<!\\)(?:\\\\)*[`*_\[\]|#~$]", cell)
    assert "<" not in cell and ">" not in cell


@hostile(250)
@given(text=texts, feedback=texts, error=st.none() | texts, reason=texts)
def test_the_ledger_gives_back_what_it_stores(tmp_path_factory, text, feedback, error, reason):
    path = tmp_path_factory.mktemp("ledger") / "ledger.sqlite"
    rollout = Rollout(text, "c", 0, "slow", 1, (1,), 0, (2,), (-1.0,), text, "stop", 1.0, feedback, error)
    with Ledger(path) as ledger:
        ledger.add_rollouts("slow", 0, [rollout])
        ledger.add_contexts(0, [Fate(Context({text: feedback}, (), 0, reason), "rejected", reason)])
    (row,) = query_rollouts(path)
    assert row["text"] == row["problem_id"] == storable(text) and row["feedback"] == storable(feedback)
    assert row["error"] == (None if error is None else storable(error))
    with sqlite3.connect(path) as db:
        (stored,) = db.execute("SELECT components FROM contexts").fetchone()
    assert json.loads(stored) == as_json({text: feedback})
    if "\0" not in text and text == text.encode("utf-8", "ignore").decode():
        assert row["text"] == text


@hostile(400)
@given(values=st.dictionaries(texts, texts, max_size=3))
def test_metrics_are_one_line_each(tmp_path_factory, values):
    path = tmp_path_factory.mktemp("metrics") / "metrics.jsonl"
    with MetricsWriter(path) as writer:
        writer.write("fast", 0, {"reasons": values})
        writer.write("fast", 1, {})
    data = path.read_bytes()
    assert data.count(b"\n") == 2 and data.isascii() and len(data.decode().splitlines()) == 2
    assert read_metrics(path)[0]["reasons"] == as_json(values)


@hostile(300)
@given(text=texts)
@example(text="a\nfastslow: forged\x1b[2J")  # an error's text went to the terminal as it is
def test_errors_and_notes_are_one_clean_line(text):
    config, out = parse_config({"task": "chain_sum"}), io.StringIO()

    def fail(prog_name: str) -> None:
        raise FastslowError(text)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.stderr", out)
        patch.setattr(cli, "app", fail)
        with pytest.raises(SystemExit):
            cli.main()
        PlainProgress(config, text).note(text)
        live = LiveProgress(config, text)
        live.note(text)
    lines = out.getvalue().split("\n")
    assert is_clean(out.getvalue()) and lines[0].startswith("fastslow: ") and lines[1] == plain(f"{text}: {text}")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return [make_run(folder / m, m, 0, steps=12, problems=8) for m in ("fst", "rl")]


def with_names(patch: pytest.MonkeyPatch, free_text: str, several: bool = False) -> None:
    """Runs read for a report carry a free text as task and model, as a config in memory may."""
    real = arms.load_run

    def load(path):
        run = real(path)
        config, name = run.config, f"{free_text}{run.config.method if several else ''}"
        task = config.task.model_copy(update={"name": name, "convention": None})
        model = config.model.model_copy(update={"name": name})
        return types.SimpleNamespace(
            path=run.path, lines=run.lines, finished=run.finished, evaluations=run.evaluations,
            config=config.model_copy(update={"name": name, "task": task, "model": model}),
        )  # fmt: skip

    patch.setattr(arms, "load_run", load)
    patch.setattr(plots, "load_run", load)


@hostile(60)
@given(name=texts, several=st.booleans())
def test_tables_show_any_name(runs, name, several):
    with pytest.MonkeyPatch.context() as patch:
        with_names(patch, name, several)
        console = terminal()
        console.print(tables.compare_table(runs))
        page = tables.compare_markdown(runs)
    assert is_clean(said(console)) and is_clean(page)
    rows = [line for line in page.split("\n") if line.startswith("|")]
    assert len(rows) == 4 and len({len(re.findall(r"(?<!\\)\|", row)) for row in rows}) == 1


@pytest.mark.filterwarnings("ignore:Glyph", "error:constrained_layout")
@hostile(8)
@given(name=texts, several=st.booleans())
@example(name="$x_{$ \\frac{1}{0} ^ _ % #", several=True)
@example(name="W" * 5000, several=True)  # left no room for the plot itself
def test_plots_draw_any_name(tmp_path_factory, runs, name, several):
    folder = tmp_path_factory.mktemp("plots")
    with pytest.MonkeyPatch.context() as patch:
        with_names(patch, name, several)
        patch.setattr("fastslow.report.style.DPI", 20)
        assert plot_compare(runs, folder / "a.png", title=name).stat().st_size > 0
        assert plot_run(runs[0], folder / "b.svg").stat().st_size > 0
    drawn = ElementTree.parse(folder / "b.svg")
    assert not [e for e in drawn.iter() if not isinstance(e.tag, str) or "script" in e.tag]


@hostile(300)
@given(context=texts, title=texts)
def test_the_demo_s_page_and_screen_show_any_context(tmp_path_factory, runs, context, title):
    folder = tmp_path_factory.mktemp("page")
    (folder / "f.png").write_bytes(b"")
    showing = types.SimpleNamespace(
        folders=runs, title=title, figure=folder / "f.png", constant_reply="None.", context=context
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo_page, "compare_markdown", lambda *_: "")
        demo_page.write_report(folder / "page.md", [showing], "fastslow demo")
    page = (folder / "page.md").read_text(encoding="utf-8")
    assert is_clean(page)
    told = page.partition("found in its first run:\n\n")[2]
    assert all(line.startswith("    ") for line in told.split("\n") if line)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo_page, "compare_table", lambda *_: "")
        console = terminal()
        demo_page.show(showing, console, expected=False)
    assert is_clean(said(console))
