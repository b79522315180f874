"""Measurements from curves on disk, without loading a model: sample efficiency, scaling fit, collapse."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from itertools import permutations
from pathlib import Path

from fastslow.errors import RunError
from fastslow.evaluation.collapse import check_collapse
from fastslow.evaluation.curves import Cost, Curves, curves_from_lines
from fastslow.evaluation.efficiency import Efficiency, sample_efficiency
from fastslow.evaluation.scaling_fit import PARAMETERS, ScalingFit, fit_curves
from fastslow.measure.result import Measured, arms_of, interval, two_arms
from fastslow.report.arms import Arm
from fastslow.tasks.problems import majority_share
from fastslow.tasks.registry import build_task


def efficiency_of_runs(runs: Sequence[str | Path]) -> Measured:
    """Every arm against the best of every other, in total rollouts and in training problems."""
    arms = [_curves(arm) for arm in two_arms(runs)]
    costs: tuple[Cost, ...] = ("rollouts", "problems")
    found = [sample_efficiency(a, b, by) for a, b in permutations(arms, 2) for by in costs]
    header = ["arm", "reaches the best of", "cost in", "seeds", "target", "cost of it there", "cost here", "ratio",
              "95% interval"]  # fmt: skip
    rows = [_efficiency_row(e) for e in found]
    notes = [f"{e.arm} against {e.other}, {e.by}: {e.note}." for e in found if e.note]
    notes.append("Ratio above 1: quicker than the other arm. Rollouts: fast and slow. > and <: never reached, a bound.")
    return Measured("Sample efficiency", header, rows, {"efficiency": [asdict(e) for e in found]}, notes)


def _efficiency_row(e: Efficiency) -> list[str]:
    ends = "" if e.ci95 is None else f"[{e.ci95[0].text('.2f')}, {e.ci95[1].text('.2f')}]"
    ratio = "none" if e.ratio is None else e.ratio.text(".2f")
    seeds = f"{e.seeds[0]} and {e.seeds[1]}"
    return [e.arm, e.other, e.by, seeds, f"{e.target:.3f}", f"{e.other_cost:,.0f}", e.cost.text(), ratio, ends]


def fit_of_runs(runs: Sequence[str | Path], by: Cost = "rollouts") -> Measured:
    """The 4-parameter sigmoid of each arm, or the reason why there is none."""
    found = [fit_curves(_curves(arm), by) for arm in arms_of(runs)]
    header = ["arm", "points", "seeds", *(f"{p}, 95% interval" for p in PARAMETERS)]
    notes = [f"{f.label}: no fit: {f.reason}." for f in found if f.values is None]
    notes.append(f"R(C) = R0 + (A - R0) / (1 + (C_mid / C)^B); C in {by}; A is the asymptote.")
    return Measured("Scaling fit", header, [_fit_row(f) for f in found], {"fits": [asdict(f) for f in found]}, notes)


def _fit_row(f: ScalingFit) -> list[str]:
    head = [f.label, str(f.points), str(f.seeds)]
    if f.values is None or f.intervals is None:
        return [*head, *["none"] * len(PARAMETERS)]
    digits = {"C_mid": 0, "B": 1}
    cells = []
    for name in PARAMETERS:
        d = digits.get(name, 3)
        cells.append(f"{f.values[name]:.{d}f} {interval(f.intervals[name], d)}")
    return [*head, *cells]


def collapse_of_runs(runs: Sequence[str | Path]) -> Measured:
    """Entropy and the share of the most common reply, run by run, with a warning where both say collapse."""
    rows, data = [], []
    for arm in arms_of(runs):
        for run in arm.runs:
            constant = majority_share(build_task(run.config.task, check=False).val[: run.config.evaluation.problems])
            found = check_collapse(run.lines, constant)
            numbers = (found.majority_share, found.constant_share, found.entropy_start, found.entropy_end)
            rows.append([arm.label, str(run.config.seed), *map(_number, numbers), found.text])
            data.append({"arm": arm.label, "run": str(run.path), "seed": run.config.seed, **asdict(found)})
    header = ["arm", "seed", "top reply", "best constant", "entropy at start", "at end", "collapse"]
    notes = ("Entropy: nats per token, mean of the first and last 3 slow steps that had a gradient.",)
    return Measured("Collapse", header, rows, {"collapse": data}, notes)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _curves(arm: Arm) -> Curves:
    try:
        return curves_from_lines(arm.label, [run.evaluations for run in arm.runs])
    except ValueError as error:
        raise RunError(f"{error}; give runs with the same evaluation.every") from None
