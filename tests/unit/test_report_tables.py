"""Locks: arms are what differs in more than seeds; numbers are means over seeds; no text escapes its cell."""

from __future__ import annotations

import io
import json

import pytest
from report_fakes import evaluation_line, make_run
from rich.console import Console

from fastslow.errors import RunError
from fastslow.evaluation.intervals import hierarchical_ci, wilson_ci
from fastslow.report.arms import load_arms, mean_accuracy
from fastslow.report.tables import compare_markdown, compare_table
from fastslow.report.text import for_markdown, for_terminal, plain
from fastslow.runs.metrics import MetricsWriter, read_metrics


def rendered(table, width: int = 200) -> str:
    out = io.StringIO()
    Console(file=out, width=width, color_system=None).print(table)
    return out.getvalue()


def rewrite(run, lines) -> None:
    (run / "metrics.jsonl").unlink()
    with MetricsWriter(run / "metrics.jsonl") as metrics:
        for line in lines:
            metrics.write(line["kind"], line["step"], line)


def test_arms_are_methods_with_their_seeds(tmp_path):
    runs = [make_run(tmp_path / f"{m}{s}", m, s, steps=6) for m in ("gepa", "rl", "fst") for s in (0, 1)]
    arms = load_arms([*runs, runs[0]])
    assert [(a.label, len(a.runs)) for a in arms] == [("FST", 2), ("RL", 2), ("GEPA", 2)]
    rollouts = arms[0].mean_final("rollouts")
    assert (rollouts["fast"], rollouts["slow"], arms[2].mean_final("rollouts")["fast"]) == (240, 384, 240)


def test_runs_that_differ_in_more_than_seeds_are_arms_of_their_own(tmp_path):
    runs = [
        make_run(tmp_path / "a", "fst", 0, steps=6, slow={"lr": 1e-5}),
        make_run(tmp_path / "b", "fst", 1, steps=6, slow={"lr": 3e-5}, model={"threads": 1}),
        make_run(tmp_path / "c", "fst", 2, steps=6, slow={"lr": 3e-5}),
        make_run(tmp_path / "d", "rl", 0, steps=12),
    ]
    assert [(a.label, len(a.runs)) for a in load_arms(runs)] == [("FST, lr 1e-05", 1), ("FST, lr 3e-05", 2), ("RL", 1)]
    other = make_run(tmp_path / "e", "rl", 0, steps=12, task="gcd")
    labels = [a.label for a in load_arms([runs[3], other])]
    assert labels == ["RL, chain_sum (brackets)", "RL, gcd"]


def test_the_numbers_of_an_arm_by_hand(tmp_path):
    runs = [make_run(tmp_path / str(s), "fst", s, steps=6, problems=4) for s in (0, 1)]
    values = [[1, 1, 1, 0], [0, 1, 0, 0]]
    for run, solved, rollouts in zip(runs, values, (100, 300), strict=True):
        line = evaluation_line(6, rollouts, 2 * rollouts, [0, 0, 0, 0], solved, 0.25)
        line["seconds"] = {"fast": 10, "slow": 20, "evaluation": 3}
        rewrite(run, [{"kind": "evaluation", "step": 6, **line}])
    (arm,) = load_arms(runs)
    assert arm.final("evolved_context") == (0.5, hierarchical_ci(values))
    assert arm.final("seed_context") == (0.0, wilson_ci(0, 4))
    (point,) = arm.curve()
    assert (point.step, point.rollouts, point.accuracy, point.majority_share) == (6, 600, 0.5, 0.25)
    row = compare_markdown(runs, expected={"fst": 0.7}).splitlines()[4]
    low, high = hierarchical_ci(values)
    assert row.startswith(f"| FST | 2 | 0.50 [{low:.2f}, {high:.2f}] | 0.00 [0.00, 0.49] | 0.70 |")
    assert row.endswith("| 200 | 400 | 600 | 33 | 0.25 |")
    text = rendered(compare_table(runs, expected={"FST": 0.7}))
    assert all(cell.strip() in text for cell in row.strip("| ").split("|"))


def test_without_problems_the_stored_interval_stands_in_and_rl_may_lack_an_evolved_context():
    line = {"accuracy": {"seed_context": 0.5, "ci95": {"seed_context": [0.4, 0.6]}}}
    assert mean_accuracy([line], "evolved_context") == (0.5, (0.4, 0.6))
    other = {"accuracy": {"seed_context": 0.5, "evolved_context": 0.75}}
    assert mean_accuracy([line, other], "evolved_context") == (0.625, (0.5, 0.75))


def test_a_curve_has_only_the_steps_that_every_seed_has(tmp_path):
    runs = [make_run(tmp_path / "0", "fst", 0, steps=18), make_run(tmp_path / "1", "fst", 1, steps=18, finished=False)]
    rewrite(runs[1], [line for line in read_metrics(runs[1] / "metrics.jsonl") if line["step"] <= 6])
    (arm,) = load_arms(runs)
    assert [p.step for p in arm.curve()] == [0, 6] and not arm.finished
    markdown = compare_markdown(runs)
    assert "| FST \\* |" in markdown and "not finished" in markdown


def test_what_cannot_be_compared_is_one_line(tmp_path):
    empty = make_run(tmp_path / "empty", "fst", 0, steps=6)
    rewrite(empty, [])
    for paths, words in (([], "nothing to compare"), ([tmp_path], "not a run"), ([empty], "no evaluation yet")):
        with pytest.raises(RunError) as caught:
            compare_table(paths)
        assert words in str(caught.value) and "\n" not in str(caught.value)


EVIL = "[red]x[/red]|<b>*a*\n\x1b[31m$y$ \ud800"


def test_hostile_names_stay_text(tmp_path):
    task = {"type": "file", "name": EVIL, "path": "x.jsonl"}
    run = make_run(tmp_path / "r", "fst", 0, steps=6, task=json.loads(json.dumps(task)))
    text = rendered(compare_table([run]))
    assert "[red]x[/red]|<b>*a* �[31m$y$ �" in text and "\x1b" not in text
    title = compare_markdown([run]).splitlines()[0]
    assert (
        "\\[red\\]" in title and "\\|" in title and "&lt;b&gt;" in title and "\x1b" not in title and "\\$y\\$" in title
    )


def test_escapes_by_hand():
    assert plain(" a\r\n\tb\x00") == "a b�"
    assert for_terminal("[bold]x") == "\\[bold]x"
    assert for_markdown("a|b<c>&`") == "a\\|b&lt;c&gt;&amp;\\`"
