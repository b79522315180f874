"""Locks: the curves drawn are the numbers measured, labels keep apart, and odd text cannot break a plot."""

from __future__ import annotations

import itertools
import warnings

import matplotlib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure
from report_fakes import make_run

from fastslow.report import plots
from fastslow.report.arms import load_arms
from fastslow.report.plots import plot_compare, plot_run
from fastslow.report.style import METHOD_COLOURS, colours, spread
from fastslow.runs.metrics import MetricsWriter

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture
def drawn(monkeypatch) -> list[Figure]:
    """The figures that were saved."""
    figures: list[Figure] = []
    real = plots.save
    monkeypatch.setattr(plots, "save", lambda figure, out: (figures.append(figure), real(figure, out))[1])
    return figures


@pytest.fixture(autouse=True)
def no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def line_of(figure: Figure, panel: int, colour: str, dashed: bool = False):
    return next(
        line
        for line in figure.axes[panel].lines
        if line.get_color() == colour and (line.get_linestyle() == "--") == dashed and len(line.get_xdata())
    )


def test_a_comparison_draws_each_arm_over_its_total_rollouts(tmp_path, drawn):
    runs = [make_run(tmp_path / f"{m}{s}", m, s, steps=12) for m in ("fst", "rl", "gepa") for s in (0, 1)]
    out = plot_compare(runs, tmp_path / "plots" / "compare.png", title="Costs $5, or 10_000%")
    assert out.read_bytes().startswith(PNG)
    (figure,) = drawn
    arms = load_arms(runs)
    for arm, expected in zip(arms, ([0, 624, 1248], [0, 384, 768], [0, 240, 480]), strict=True):
        colour = METHOD_COLOURS[arm.method]
        line = line_of(figure, 0, colour)
        assert list(line.get_xdata()) == expected
        assert list(line.get_ydata()) == [p.accuracy for p in arm.curve()]
        assert list(line_of(figure, 0, colour, dashed=True).get_ydata()) == [p.majority_share for p in arm.curve()]
    texts = {text.get_text() for text in figure.axes[0].texts}
    assert "Costs $5, or 10_000%" in texts and {t.split()[0] for t in texts} >= {"FST", "RL", "GEPA"}
    assert len(figure.axes[0].collections) == 3  # bands


def test_a_run_draws_its_accuracy_reward_groups_and_fast_phases(tmp_path, drawn):
    run = make_run(tmp_path / "r", "fst", 0, steps=12)
    plot_run(run, tmp_path / "run.svg")
    (figure,) = drawn
    accuracy, reward, groups = figure.axes
    ticks = next(line for line in accuracy.lines if line.get_marker() == "v")
    assert list(ticks.get_xdata()) == [0, 6]
    assert list(reward.lines[0].get_xdata()) == list(range(1, 13))
    assert len(groups.patches) == 24  # flat and rescued
    assert {t.get_text().rsplit(maxsplit=1)[0].strip() for t in accuracy.texts} >= {"evolved context", "seed context"}


def test_a_run_without_slow_steps_and_a_run_of_one_evaluation_have_plots(tmp_path, drawn):
    plot_run(make_run(tmp_path / "gepa", "gepa", 0, steps=6), tmp_path / "a.png")
    assert len(drawn[0].axes) == 1
    young = make_run(tmp_path / "rl", "rl", 0, steps=12, finished=False)
    first = (young / "metrics.jsonl").read_bytes().split(b"\n")[0]
    (young / "metrics.jsonl").write_bytes(first + b"\n")
    plot_run(young, tmp_path / "b.png")
    plot_compare([young], tmp_path / "b.pdf")


def test_a_nan_reward_leaves_a_gap(tmp_path, drawn):
    run = make_run(tmp_path / "r", "rl", 0, steps=6)
    with MetricsWriter(run / "metrics.jsonl") as metrics:
        metrics.write("slow", 7, {"reward": float("nan"), "groups": 8, "flat_groups": 8, "rescued_groups": 0})
    plot_run(run, tmp_path / "r.png")
    assert np.isnan(drawn[0].axes[1].lines[0].get_ydata()[-1])


@pytest.mark.parametrize("name", ["$\\frac{1}{0", "$x$ $", "a\nb\x1b[0m\x00", "\ud800", "<b>&"])
def test_any_name_is_drawn_as_text(tmp_path, drawn, name):
    task = {"type": "file", "name": name, "path": "x.jsonl"}
    run = make_run(tmp_path / "r", "fst", 0, steps=6, name=name, task=task)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")
        plot_run(run, tmp_path / "r.png")
        plot_compare([run], tmp_path / "c.png", title=name)
        plot_compare([run], tmp_path / "c.svg", title=name)
    texts = [text for figure in drawn for axes in figure.axes for text in axes.texts]
    assert texts and not any(text.get_parse_math() for text in texts)


def test_the_callers_matplotlib_settings_stay(tmp_path):
    run = make_run(tmp_path / "r", "rl", 0, steps=6)
    with matplotlib.rc_context({"font.size": 3, "text.parse_math": True}):
        before = dict(matplotlib.rcParams)
        plot_compare([run], tmp_path / "c.png")
        assert dict(matplotlib.rcParams) == before


def test_every_arm_has_a_colour_of_its_own():
    assert colours(["fst", "rl", "gepa"]) == [METHOD_COLOURS[m] for m in ("fst", "rl", "gepa")]
    assert len(set(colours(["fst", "fst", "rl", "other", "fst"]))) == 5


@given(st.lists(st.floats(0, 1), min_size=1, max_size=9))
def test_labels_keep_apart_in_order_and_inside(heights):
    placed = spread(heights, 0.1, 0.05, 0.95)
    assert all(0.05 - 1e-9 <= p <= 0.95 + 1e-9 for p in placed)
    ranked = [placed[i] for i in sorted(range(len(heights)), key=lambda i: heights[i])]
    assert all(b - a >= 0.1 - 1e-9 for a, b in itertools.pairwise(ranked))
