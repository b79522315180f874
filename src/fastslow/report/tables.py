"""The comparison of runs as a table: for the terminal (rich) and as Markdown, from the same cells."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from rich.table import Table

from fastslow.evaluation.collapse import check_collapse
from fastslow.evaluation.intervals import Interval
from fastslow.report.arms import Arm, load_arms, subject
from fastslow.report.text import for_markdown, for_terminal

CAPTION = (
    "Accuracy on validation problems at the last evaluation: mean over seeds, [95% interval] over seeds and problems. "
    "Rollouts (fast and slow, then both) and seconds: mean per run. Top reply: share of the most common reply."
)
_UNFINISHED = " Arms marked * have runs that are not finished."


def compare_table(runs: Sequence[str | Path], expected: Mapping[str, float] | None = None) -> Table:
    """The arms of ``runs`` side by side. ``expected``: arm or method -> expected final accuracy, shown beside it.

    Raises :class:`fastslow.errors.RunError` for a folder that is no run or has no evaluation yet.
    """
    arms = load_arms(runs)
    title = for_terminal(subject(arms))
    caption = for_terminal(_caption(arms))
    table = Table(title=title or None, caption=caption, title_justify="left", caption_justify="left")
    header, *rows = _cells(arms, expected)
    for index, name in enumerate(header):
        table.add_column(name, justify="left" if index == 0 else "right", no_wrap=index == 0, overflow="fold")
    for row in rows:
        table.add_row(*(for_terminal(cell) for cell in row))
    return table


def compare_markdown(runs: Sequence[str | Path], expected: Mapping[str, float] | None = None) -> str:
    """The same table as Markdown, ending in a line break."""
    arms = load_arms(runs)
    header, *rows = _cells(arms, expected)
    lines = [f"**{for_markdown(subject(arms))}**", ""] if subject(arms) else []
    lines.append(f"| {' | '.join(header)} |")
    lines.append("|" + "|".join(["---"] + ["---:"] * (len(header) - 1)) + "|")
    lines += [f"| {' | '.join([for_markdown(arm), *map(_markdown_cell, cells)])} |" for arm, *cells in rows]
    caption = _caption([replace(arm, label=for_markdown(arm.label)) for arm in arms])
    return "\n".join([*lines, "", re.sub(r"(?<!\\)\*", r"\\*", caption), ""])


def _cells(arms: Sequence[Arm], expected: Mapping[str, float] | None) -> list[list[str]]:
    """Header and rows, unescaped."""
    header = ["arm", "seeds", "evolved context", "seed context"]
    header += ["expected"] if expected else []
    header += ["fast", "slow", "rollouts", "seconds", "top reply"]
    rows = [header]
    for arm in arms:
        rollouts, seconds = arm.mean_final("rollouts"), arm.mean_final("seconds")
        row = [arm.label + ("" if arm.finished else " *"), str(len(arm.runs))]
        row += [_accuracy(*arm.final("evolved_context")), _accuracy(*arm.final("seed_context"))]
        if expected:
            value = expected.get(arm.label, expected.get(arm.method))
            row.append("" if value is None else f"{value:.2f}")
        row += [_count(rollouts["fast"]), _count(rollouts["slow"]), _count(rollouts["fast"] + rollouts["slow"])]
        share = arm.final_majority_share()
        row += [_count(sum(seconds.values())), "" if share is None else f"{share:.2f}"]
        rows.append(row)
    return rows


def _caption(arms: Sequence[Arm]) -> str:
    return _caption_of_counts(arms) + _caption_of_collapse(arms)


def _caption_of_collapse(arms: Sequence[Arm]) -> str:
    checks = [(arm.label, check_collapse(run.lines)) for arm in arms for run in arm.runs]
    fallen = [f"{label} ({check.text})" for label, check in checks if check.collapsed]
    return f" Collapsed onto one reply: {'; '.join(fallen)}." if fallen else ""


def _caption_of_counts(arms: Sequence[Arm]) -> str:
    skipped = [f"{arm.label} {n}" for arm in arms if (n := arm.skipped_steps)]
    left_out = f" Updates skipped for a NaN or exploding gradient: {', '.join(skipped)}." if skipped else ""
    return CAPTION + ("" if all(arm.finished for arm in arms) else _UNFINISHED) + left_out


def _markdown_cell(cell: str) -> str:
    """Numbers and intervals stay readable in the source: their brackets make no link."""
    return cell if cell[:1].isdigit() else for_markdown(cell)


def _accuracy(mean: float, ci95: Interval) -> str:
    return f"{mean:.2f} [{ci95[0]:.2f}, {ci95[1]:.2f}]"


def _count(value: float) -> str:
    return f"{value:,.0f}"
