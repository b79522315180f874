"""The lab's figures: learning curves side by side, estimates with their intervals, and one quantity against another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from fastslow.evaluation.curves import Curves
from fastslow.evaluation.intervals import Estimate, hierarchical_ci
from fastslow.lab.studies import ARMS
from fastslow.report.style import INK, MARKERS, MEASURE, METHOD_COLOURS, MUTED, SPARE_COLOURS, house_style, save

_COLUMNS = 2


@dataclass(frozen=True)
class Panel:
    """``curves``: (arm, curves); an arm that the lab doesn't know is drawn in a colour of its own."""

    title: str
    curves: Sequence[tuple[str, Curves]]


@dataclass(frozen=True)
class Dot:
    group: str
    arm: str
    label: str
    value: Estimate


def colour(arm: str, taken: int = 0) -> str:
    if arm == "rl-told":
        return SPARE_COLOURS[1]
    method = ARMS[arm].method if arm in ARMS else arm
    return METHOD_COLOURS.get(method) or (MUTED if arm == "base" else SPARE_COLOURS[taken % len(SPARE_COLOURS)])


def draw_curves(panels: Sequence[Panel], out: Path, title: str, by: str = "rollouts") -> Path:
    """Accuracy with its 95% band over total rollouts (or training problems), a panel a study."""
    columns = min(_COLUMNS, len(panels)) or 1
    rows = ceil(len(panels) / columns) or 1
    with house_style():
        figure = Figure(figsize=(MEASURE, 0.9 + 2.7 * rows), layout="constrained")
        grid = figure.subplots(rows, columns, squeeze=False, sharey=True)
        figure.suptitle(title, x=0.01, ha="left", fontweight="bold", color=INK)
        arms: dict[str, str] = {}
        for axes, panel in zip(grid.flat, panels):
            for i, (arm, found) in enumerate(panel.curves):
                arms[arm] = found.label
                _curve(axes, found, colour(arm, i), MARKERS[list(arms).index(arm) % len(MARKERS)], by)
            axes.set_title(panel.title, loc="left", fontsize=9.5, color=MUTED)
            axes.set_ylim(0, 1)
            axes.set_xlim(left=0)
            axes.yaxis.set_major_formatter(lambda v, _: f"{v * 100:.0f}%")
        for axes in list(grid.flat)[len(panels) :]:
            axes.set_visible(False)
        for axes in grid[-1]:
            axes.set_xlabel("total rollouts, fast and slow" if by == "rollouts" else "training problems")
        _legend(figure, arms)
        return save(figure, out)


def draw_dots(dots: Sequence[Dot], out: Path, title: str, label: str) -> Path:
    """Estimates as dots with their intervals, grouped; the zero line is drawn where it lies inside."""
    groups = list(dict.fromkeys(d.group for d in dots))
    places = [i + groups.index(dot.group) * 0.8 for i, dot in enumerate(dots)]
    with house_style():
        figure = Figure(figsize=(MEASURE, 1.2 + 0.27 * (len(dots) + len(groups))), layout="constrained")
        axes = figure.add_subplot()
        for y, dot in zip(places, dots):
            low, high = dot.value.ci95
            axes.plot([low, high], [y, y], color=colour(dot.arm), linewidth=1.8)
            axes.plot([dot.value.mean], [y], color=colour(dot.arm), marker="o", markersize=6, linestyle="")
        axes.set_yticks(places, [f"{d.group} · {d.label}" if d.group else d.label for d in dots])
        axes.invert_yaxis()
        axes.grid(axis="x")
        if min(d.value.ci95[0] for d in dots) < 0:
            axes.axvline(0, color=MUTED, linewidth=1)
        axes.set_xlabel(label)
        figure.suptitle(title, x=0.01, ha="left", fontweight="bold", color=INK)
        return save(figure, out)


def draw_against(dots: Sequence[tuple[Dot, Estimate]], out: Path, title: str, x: str, y: str) -> Path:
    """Each dot's value on the x axis, the other estimate on the y axis, both with intervals."""
    with house_style():
        figure = Figure(figsize=(MEASURE, 4.2), layout="constrained")
        axes = figure.add_subplot()
        axes.axhline(0, color=MUTED, linewidth=1, visible=min(other.ci95[0] for _, other in dots) < 0)
        for i, (dot, other) in enumerate(dots):
            ends_x = [[dot.value.mean - dot.value.ci95[0]], [dot.value.ci95[1] - dot.value.mean]]
            ends_y = [[other.mean - other.ci95[0]], [other.ci95[1] - other.mean]]
            axes.errorbar([dot.value.mean], [other.mean], xerr=np.clip(ends_x, 0, None), yerr=np.clip(ends_y, 0, None),
                          fmt="o", color=colour(dot.arm), linewidth=1.4)  # fmt: skip
            name = f"{dot.label}, {dot.group}" if dot.group else dot.label
            axes.annotate(
                name, (dot.value.mean, other.mean), xytext=(7, 6 if i % 2 else -13), fontsize=8.5,
                textcoords="offset points", color=colour(dot.arm),
            )  # fmt: skip
        axes.set_xlabel(x)
        axes.set_ylabel(y)
        axes.margins(0.2)
        figure.suptitle(title, x=0.01, ha="left", fontweight="bold", color=INK)
        return save(figure, out)


def _curve(axes: Axes, found: Curves, tone: str, marker: str, by: str) -> None:
    x = found.cost_SP("problems" if by == "problems" else "rollouts").mean(axis=0)
    bands = [hierarchical_ci([v[p].tolist() for v in found.values], n=500) for p in range(len(found.steps))]
    axes.fill_between(x, [b[0] for b in bands], [b[1] for b in bands], color=tone, alpha=0.13, linewidth=0)
    axes.plot(x, found.accuracy_SP.mean(axis=0), color=tone, linewidth=1.9, marker=marker, markersize=4)


def _legend(figure: Figure, arms: dict[str, str]) -> None:
    handles = [
        Line2D([], [], color=colour(arm, i), marker=MARKERS[i % len(MARKERS)], label=label)
        for i, (arm, label) in enumerate(arms.items())
    ]
    figure.legend(handles=handles, loc="outside lower left", ncols=max(1, min(4, len(handles))))
