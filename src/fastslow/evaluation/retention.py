"""Retention: what a trained policy still can of what it was never trained on, without any evolved context.

Three measures, before (base weights) and after (trained weights), paired by problem: accuracy on tasks never trained;
log-likelihood per token of their gold answers, which moves also where accuracy is near zero; and log-likelihood per
token of plain English that belongs to no task (:mod:`fastslow.evaluation.passages`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Literal

from fastslow.evaluation.intervals import Estimate, difference_ci

SUITE = ("gcd", "letter_counting", "ransom_note", "number_sorting", "spell_backward", "isomorphic_strings")
"""Small Reasoning Gym presets; the task that was trained is left out."""
SUITE_TASKS = 5
TEXT = "plain English"

Measure = Literal["accuracy", "log-likelihood"]
Snapshot = Mapping[tuple[str, Measure], Mapping[str, float]]
"""One policy's results: (task, measure) -> problem id or passage -> value."""


@dataclass(frozen=True, slots=True)
class Retained:
    """One task and measure. ``difference``: after - before, paired by problem; below 0 something was forgotten."""

    task: str
    measure: Measure
    before: float
    after: float
    difference: Estimate
    n: int
    seeds: int

    @property
    def forgotten(self) -> bool:
        """The whole interval lies below 0."""
        return self.difference.ci95[1] < 0


def suite_for(trained: Sequence[str], suite: Sequence[str] = SUITE, size: int = SUITE_TASKS) -> list[str]:
    """The first ``size`` names of ``suite`` that were never trained."""
    return [name for name in suite if name not in trained][:size]


def compare_snapshots(before: Sequence[Snapshot], after: Sequence[Snapshot]) -> list[Retained]:
    """One row a task and measure, over one or more pairs (before, after), and means over the tasks at the end.

    Raises ``ValueError`` where before and after were measured on different problems.
    """
    if not before or len(before) != len(after):
        raise ValueError("retention needs as many snapshots after training as before")
    keys = list(before[0])
    rows = [_row(task, measure, *_paired(before, after, [(task, measure)])) for task, measure in keys]
    for measure in ("accuracy", "log-likelihood"):
        several = [k for k in keys if k[1] == measure and k[0] != TEXT]
        if len(several) > 1:
            rows.append(_row("all tasks", measure, *_paired(before, after, several)))
    return rows


def _paired(
    before: Sequence[Snapshot], after: Sequence[Snapshot], keys: Sequence[tuple[str, Measure]]
) -> tuple[list[list[float]], list[list[float]]]:
    """Values of all problems of ``keys``, a list a seed, in the same order before and after."""
    left, right = [], []
    for b, a in zip(before, after, strict=True):
        for key in keys:
            if set(b[key]) != set(a[key]):
                raise ValueError(f"{key[0]}: before and after must be measured on the same problems")
        left.append([b[key][p] for key in keys for p in b[key]])
        right.append([a[key][p] for key in keys for p in b[key]])
    return left, right


def _row(task: str, measure: Measure, before: list[list[float]], after: list[list[float]]) -> Retained:
    differences = [[y - x for x, y in zip(b, a, strict=True)] for b, a in zip(before, after, strict=True)]
    mean = fmean(fmean(d) for d in differences)
    ci95 = difference_ci(differences, proportions=measure == "accuracy")
    return Retained(
        task,
        measure,
        before=fmean(fmean(b) for b in before),
        after=fmean(fmean(a) for a in after),
        difference=Estimate(mean, ci95),
        n=len(differences[0]),
        seeds=len(differences),
    )
