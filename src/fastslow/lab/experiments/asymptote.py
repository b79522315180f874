"""Asymptote: where the curves end, by ScaleRL's sigmoid where it can be fitted, else by the last evaluations."""

from __future__ import annotations

from collections.abc import Sequence

from fastslow.evaluation.intervals import Estimate
from fastslow.evaluation.scaling_fit import ScalingFit, fit_curves
from fastslow.lab.base import Experiment, Measurements, Result, Table
from fastslow.lab.figures import draw_curves
from fastslow.lab.planning import LabRun, by_arm
from fastslow.lab.readings import CURVE_HEADER, curve_rows, curves, final_difference
from fastslow.lab.studies import ARMS, find_study
from fastslow.lab.tables import arms_table, panels
from fastslow.lab.verdicts import Finding, judge, minus, signed

STUDIES = ("sums-long", "period-long", "brackets-long")
RIVALS = ("rl", "rl-told")
LAST = 3
"""Evaluations whose mean stands in for an asymptote that can't be fitted."""


def analyse(runs: Sequence[LabRun], measured: Measurements) -> Result:
    findings, rows = [], []
    for study in STUDIES:
        arms = by_arm(runs, study)
        fits = {arm: fit_curves(curves(members)) for arm, members in arms.items()}
        rows += [_row(study, fit) for fit in fits.values()]
        for rival in (r for r in RIVALS if r in arms and "fst" in arms):
            findings.append(_finding(study, rival, arms, fits))
    header = ["study", "arm", "A", "95% interval", "no fit, because"]
    return Result(
        findings,
        [arms_table(runs, STUDIES), Table("Asymptotes: the A of the sigmoid", header, rows)],
        (CURVE_HEADER, curve_rows(runs)),
        lambda out: draw_curves(panels(runs, STUDIES), out, "Longer runs at equal total rollouts"),
        [f"Where one of two fits is refused, the mean of the last {LAST} evaluations is compared, paired by problem."],
    )


def _finding(study: str, rival: str, arms: dict[str, list[LabRun]], fits: dict[str, ScalingFit]) -> Finding:
    ours, theirs = _asymptote(fits["fst"]), _asymptote(fits[rival])
    if ours is not None and theirs is not None:
        gap, how = minus(ours, theirs), "asymptotes of the fits"
    else:
        gap, how = final_difference(arms["fst"], arms[rival], count=LAST), f"mean of the last {LAST} evaluations"
    mean, ci95 = signed(gap)
    claim, seeds = f"FST ends higher than {ARMS[rival].title}", min(len(arms["fst"]), len(arms[rival]))
    return Finding(find_study(study).title, claim, mean, ci95, seeds, judge(gap.ci95), how)


def _asymptote(fit: ScalingFit) -> Estimate | None:
    if fit.values is None or fit.intervals is None:
        return None
    return Estimate(fit.values["A"], fit.intervals["A"])


def _row(study: str, fit: ScalingFit) -> list[str]:
    found = _asymptote(fit)
    value = ["", ""] if found is None else [f"{found.mean:.2f}", f"[{found.ci95[0]:.2f}, {found.ci95[1]:.2f}]"]
    return [find_study(study).title, fit.label, *value, fit.reason]


ASYMPTOTE = Experiment(
    name="asymptote",
    claim="FST ends at a higher accuracy than RL.",
    paper="CodeIO 47.4 vs 43.0, HoVer-hard 25.0 vs 17.3, Math 49.2 vs 46.4",
    studies=STUDIES,
    analyse=analyse,
)
