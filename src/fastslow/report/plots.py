"""Learning curves: several arms against total rollouts, and the course of one run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate
from math import nan
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.patheffects import withStroke
from matplotlib.textpath import TextPath
from matplotlib.ticker import MaxNLocator

from fastslow.report.arms import Arm, Run, load_arms, load_run, mean_accuracy, subject
from fastslow.report.style import (
    FAINT,
    INK,
    MARKERS,
    MEASURE,
    METHOD_COLOURS,
    MUTED,
    colours,
    house_style,
    percent_axis,
    save,
    spread,
)
from fastslow.report.text import plain

_WIDEST_LABEL, _WIDEST_HEADLINE = 0.45 * MEASURE, 0.9 * MEASURE  # inches


def plot_compare(runs: Sequence[str | Path], out: str | Path, title: str | None = None) -> Path:
    """Validation accuracy against fast + slow rollouts: a line per arm, its 95% band, the majority share dashed.

    Writes ``out`` (.png, .svg or .pdf) and returns its path.
    """
    arms = load_arms(runs)
    with house_style():
        figure = Figure(figsize=(MEASURE, 4.5), layout="constrained")
        axes = figure.add_subplot()
        ends = [
            _draw_arm(axes, arm, c, m) for arm, c, m in zip(arms, colours([a.method for a in arms]), _markers(arms))
        ]
        percent_axis(axes, _top(end.top for end in ends))
        axes.set_xlim(left=0)
        axes.margins(x=0.02)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        axes.set_xlabel("rollouts, fast and slow phases together (evaluation apart)")
        _label_ends(axes, ends)
        _compare_legend(axes, arms)
        _headline(axes, title or "Validation accuracy by rollouts spent", _compare_subtitle(arms), above=24)
        return save(figure, Path(out))


def plot_run(run: str | Path, out: str | Path) -> Path:
    """One run over its slow steps: accuracy, mean reward, share of flat groups, and a tick at every fast phase."""
    record = load_run(run)
    slow = [line for line in record.lines if line["kind"] == "slow"]
    with house_style():
        heights = [3.0, 1.7, 1.2] if slow else [3.0]
        figure = Figure(figsize=(MEASURE, 1.0 + sum(heights)), layout="constrained")
        panels = figure.subplots(len(heights), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0]
        if record.config.schedule:
            _draw_stages(panels, record)
        else:
            _draw_accuracy(panels[0], record)
        if slow:
            _draw_reward(panels[1], slow)
            _draw_flat(panels[2], slow)
        _draw_fast_phases(panels, record)
        panels[-1].set_xlabel("slow step" if slow else "step")
        panels[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
        config = record.config
        what = f"{subject([Arm('', (record,))])} · {config.method} · seed {config.seed}"
        _headline(panels[0], config.name, what, above=34)
        return save(figure, Path(out))


class _End:
    """Where a curve ends, for its label; ``top`` is the highest thing drawn."""

    def __init__(self, x: float, y: float, label: str, colour: str, top: float) -> None:
        self.x, self.y, self.label, self.colour, self.top = x, y, label, colour, top


def _draw_arm(axes: Axes, arm: Arm, colour: str, marker: str) -> _End:
    points = arm.curve()
    x, y = [p.rollouts for p in points], [p.accuracy for p in points]
    low, high = [p.ci95[0] for p in points], [p.ci95[1] for p in points]
    axes.fill_between(x, low, high, color=colour, alpha=0.13, linewidth=0, zorder=2)
    axes.plot(x, y, color=colour, linewidth=2.2, marker=marker, markersize=5.5, markeredgecolor="white", zorder=4)
    shares = [p.majority_share for p in points]
    if None not in shares:
        axes.plot(x, shares, color=colour, linewidth=1.1, linestyle=(0, (4, 3)), alpha=0.75, zorder=3)
    label = f"{_fitting(arm.label, 10, _WIDEST_LABEL)}  {y[-1] * 100:.0f}%"
    return _End(x[-1], y[-1], label, colour, max([*high, *(s for s in shares if s is not None)]))


def _label_ends(axes: Axes, ends: Sequence[_End]) -> None:
    """Each curve's name beside its end, in its colour, moved apart where ends meet."""
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    gap, reach = (top - bottom) * 0.06, (right - left) * 0.15
    for end in ends:
        near = [other for other in ends if abs(other.x - end.x) < reach]
        heights = spread([other.y for other in near], gap, bottom + gap / 2, top - gap / 2)
        axes.annotate(
            end.label,
            xy=(end.x, heights[near.index(end)]),
            xytext=(9, 0),
            textcoords="offset points",
            color=end.colour,
            fontweight="bold",
            va="center",
            annotation_clip=False,
            path_effects=[withStroke(linewidth=2.5, foreground="white")],  # legible where another curve passes
            zorder=6,
        )


def _compare_legend(axes: Axes, arms: Sequence[Arm]) -> None:
    handles: list[Line2D | Patch] = [Patch(color=MUTED, alpha=0.25, linewidth=0, label="95% interval")]
    if any(arm.final_majority_share() is not None for arm in arms):
        dashes = Line2D(
            [], [], color=MUTED, linewidth=1.1, linestyle=(0, (4, 3)), label="share of the most common reply"
        )
        handles.append(dashes)
    handles.insert(0, Line2D([], [], color=MUTED, linewidth=2.2, label="accuracy, evolved context"))
    axes.legend(
        handles=handles, loc="lower left", bbox_to_anchor=(-0.01, 1.0), ncols=3, borderaxespad=0.2, handlelength=2
    )


def _compare_subtitle(arms: Sequence[Arm]) -> str:
    counts = sorted({len(arm.runs) for arm in arms})
    seeds = f"{counts[0]} seed{'s' * (counts[0] != 1)}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]} seeds"
    return " · ".join(part for part in (subject(arms), f"{seeds} per arm") if part)


def _draw_accuracy(axes: Axes, run: Run) -> None:
    alone = Arm("", (run,))
    highest, ends = 0.0, []
    evolved_colour = METHOD_COLOURS.get(run.config.method, INK)
    curves = [("evolved_context", "evolved context", evolved_colour), ("seed_context", "seed context", MUTED)]
    if run.config.method == "rl":
        curves = [("seed_context", "seed context", evolved_colour)]
    for which, name, colour in curves:
        points = alone.curve(which)
        x, y = [p.step for p in points], [p.accuracy for p in points]
        axes.fill_between(
            x, [p.ci95[0] for p in points], [p.ci95[1] for p in points], color=colour, alpha=0.13, linewidth=0
        )
        axes.plot(x, y, color=colour, linewidth=2.2, marker="o", markersize=5, markeredgecolor="white", zorder=3)
        highest = max(highest, *(p.ci95[1] for p in points))
        ends.append(_End(x[-1], y[-1], f"{name}  {y[-1] * 100:.0f}%", colour, highest))
    mixture = [(e["step"], e["accuracy"].get("mixture")) for e in run.evaluations]
    if len(curves) > 1 and all(value is not None for _, value in mixture):
        axes.plot(*zip(*mixture), color=evolved_colour, linewidth=1.3, linestyle=(0, (1, 1.6)), zorder=3)
        ends.append(
            _End(mixture[-1][0], mixture[-1][1], f"all contexts  {mixture[-1][1] * 100:.0f}%", evolved_colour, 0)
        )
    percent_axis(axes, _top([highest]))
    _panel_name(axes, "validation accuracy, 95% interval", pad=13)
    _label_ends(axes, ends)


def _draw_stages(panels: Sequence[Axes], run: Run) -> None:
    """One line per task of a schedule, the seed context's dotted in the same colour, and a line where tasks switch."""
    axes, highest, ends = panels[0], 0.0, []
    lines = [line for line in run.evaluations if line.get("stages")]
    names = list(lines[0]["stages"]) if lines else []
    steps = [line["step"] for line in lines]
    for name, colour in zip(names, colours(names), strict=True):
        found = [mean_accuracy([line["stages"][name]], "evolved_context") for line in lines]
        y, low, high = [m for m, _ in found], [c[0] for _, c in found], [c[1] for _, c in found]
        axes.fill_between(steps, low, high, color=colour, alpha=0.13, linewidth=0)
        axes.plot(steps, y, color=colour, linewidth=2.2, marker="o", markersize=5, markeredgecolor="white", zorder=3)
        seed = [line["stages"][name]["accuracy"]["seed_context"] for line in lines]
        if seed != y:
            axes.plot(steps, seed, color=colour, linewidth=1.3, linestyle=(0, (1, 1.6)), zorder=3)
        highest = max(highest, *high, *seed)
        label = f"{_fitting(name, 10, _WIDEST_LABEL / 2)}  {y[-1] * 100:.0f}%"
        ends.append(_End(steps[-1], y[-1], label, colour, highest))
    starts = list(accumulate((stage.steps for stage in run.config.schedule or ()), initial=0))
    for panel in panels:
        for switch in starts[1:-1]:
            panel.axvline(switch, color=INK, linewidth=1.2, linestyle=(0, (4, 3)), zorder=1)
    percent_axis(axes, _top([highest]))
    _panel_name(axes, "validation accuracy per task, 95% interval; seed context dotted", pad=13)
    _label_ends(axes, ends)


def _draw_reward(axes: Axes, slow: Sequence[Mapping[str, Any]]) -> None:
    x = [line["step"] for line in slow]
    y = [nan if line["reward"] is None else line["reward"] for line in slow]  # null stands for NaN
    axes.plot(x, y, color=INK, linewidth=1.4, marker=".", markersize=5)
    _panel_name(axes, "mean reward of the slow rollouts")


def _draw_flat(axes: Axes, slow: Sequence[Mapping[str, Any]]) -> None:
    x = [line["step"] for line in slow]
    flat = [line["flat_groups"] / line["groups"] if line.get("groups") else 0.0 for line in slow]
    rescued = [line.get("rescued_groups", 0) / line["groups"] if line.get("groups") else 0.0 for line in slow]
    axes.bar(x, flat, width=0.72, color=MUTED, alpha=0.75, label="flat: all rewards equal, no gradient")
    if any(rescued):
        axes.bar(
            x,
            rescued,
            bottom=flat,
            width=0.72,
            color=METHOD_COLOURS["fst"],
            alpha=0.55,
            label="rescued by several contexts",
        )
    percent_axis(axes)
    axes.set_yticks([0, 0.5, 1])
    _panel_name(axes, "groups")
    axes.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=2, borderaxespad=0.2, handlelength=1.2)


def _draw_fast_phases(panels: Sequence[Axes], run: Run) -> None:
    steps = [line["step"] for line in run.lines if line["kind"] == "fast"]
    for axes in panels:
        for step in steps:
            axes.axvline(step, color=FAINT, linewidth=1.2, zorder=0)
    if steps:
        top = panels[0]
        top.plot(steps, [1.0] * len(steps), marker="v", markersize=6, linestyle="", color=METHOD_COLOURS["fst"],
                 transform=top.get_xaxis_transform(), clip_on=False, zorder=5, label="fast phase")  # fmt: skip
        handle = Line2D([], [], marker="v", markersize=6, linestyle="", color=METHOD_COLOURS["fst"], label="fast phase")
        top.legend(handles=[handle], loc="lower right", bbox_to_anchor=(1.0, 1.035), borderaxespad=0.2)


def _panel_name(axes: Axes, name: str, pad: float = 6) -> None:
    axes.set_title(name, loc="left", fontsize=9.5, color=MUTED, pad=pad)


def _headline(axes: Axes, title: str, subtitle: str, above: float) -> None:
    """Title and subtitle over ``axes``, flush with its left edge; ``above``: points left free for what stands there."""
    for text, height, size, weight, colour in (
        (subtitle, above, 9.5, "normal", MUTED),
        (title, above + 18, 13, "bold", INK),
    ):
        axes.annotate(
            _fitting(text, size, _WIDEST_HEADLINE), xy=(0, 1), xycoords="axes fraction", xytext=(0, height),
            textcoords="offset points", fontsize=size, fontweight=weight, color=colour, va="bottom", ha="left",
            annotation_clip=False,
        )  # fmt: skip


def _fitting(text: str, size: float, inches: float) -> str:
    """As much of a name as leaves room for the plot; ``size`` in points, bold."""
    shown, font = plain(text)[:300], FontProperties(size=size, weight="bold")
    while shown and TextPath((0, 0), shown, prop=font).get_extents().width > inches * 72:
        shown = shown[: int(len(shown) * 0.9) - 1] + "…" if len(shown) > 20 else ""
    return shown


def _top(highest: Any) -> float:
    """The axis ends at 100% unless everything is far below: then at a round share."""
    peak = max(highest)
    return next(limit for limit in (0.2, 0.4, 0.6, 0.8, 1.0) if peak <= limit or limit == 1.0)


def _markers(arms: Sequence[Arm]) -> list[str]:
    return [MARKERS[i % len(MARKERS)] for i in range(len(arms))]
