"""Sample efficiency: total rollouts that FST needs to reach the best of RL (arXiv 2605.12484)."""

from __future__ import annotations

from collections.abc import Sequence

from fastslow.evaluation.efficiency import Efficiency, sample_efficiency
from fastslow.lab.base import Experiment, Measurements, Result, Table
from fastslow.lab.figures import draw_curves
from fastslow.lab.planning import LabRun, by_arm
from fastslow.lab.readings import CURVE_HEADER, curve_rows, curves, final_difference
from fastslow.lab.studies import ARMS, find_study
from fastslow.lab.tables import arms_table, panels
from fastslow.lab.verdicts import Finding, bounds, judge, signed

STUDIES = ("sums", "letters", "sums-period", "isomorphic-brackets", "sums-prefix", "sums-brackets")
"""By how soon RL finds the form of the answers by itself: at once in sums and letters, then soon, late, and never."""
RIVALS = ("rl", "rl-told")
SHARES = (0.5, 0.75, 0.9, 1.0)


def analyse(runs: Sequence[LabRun], measured: Measurements) -> Result:
    findings, rows = [], []
    for study in STUDIES:
        arms = by_arm(runs, study)
        for rival in (r for r in RIVALS if r in arms and "fst" in arms):
            found = sample_efficiency(curves(arms["fst"]), curves(arms[rival]))
            findings.append(_finding(study, rival, found, arms))
            rows.append(_row(study, found))
    header = ["study", "arm", "reaches the best of", "that best", "its rollouts there", "FST's rollouts", "ratio"]
    return Result(
        findings,
        [
            arms_table(runs, STUDIES),
            Table("Rollouts to reach the other's best", header, rows),
            shares_table(runs, STUDIES, RIVALS),
        ],
        (CURVE_HEADER, curve_rows(runs)),
        lambda out: draw_curves(panels(runs, STUDIES), out, "Accuracy by total rollouts"),
        [
            "Ratio above 1: FST is there sooner. Evaluations every 2 steps, so a ratio is no finer than that. "
            "The verdicts ask for the whole of the other's best; shares of it say where on the way FST is ahead."
        ],
    )


def _finding(study: str, rival: str, found: Efficiency, arms: dict[str, list[LabRun]]) -> Finding:
    title, name = find_study(study).title, ARMS[rival].title
    claim, seeds = f"FST reaches the best of {name} with fewer total rollouts", min(found.seeds)
    if found.ratio is None or found.ci95 is None:
        mean, ci95 = signed(final_difference(arms["fst"], arms[rival]))
        why = f"{found.note}; FST minus {name} at the end: {mean} {ci95}"
        return Finding(title, claim, "no ratio", "", seeds, "can't tell", why)
    low, high = found.ci95
    text = f"[{low.text('.2f')}, {high.text('.2f')}]"
    verdict = judge(bounds(found.ci95), above=1.0)
    return Finding(title, claim, f"{found.ratio.text('.2f')}x", text, seeds, verdict, found.note)


def shares_table(runs: Sequence[LabRun], studies: Sequence[str], rivals: Sequence[str]) -> Table:
    """How much sooner FST reaches parts of a rival's best: the whole of it may be a matter of one late evaluation."""
    found = [(study, by_arm(runs, study)) for study in studies]
    rows = [_partly(study, r, arms) for study, arms in found for r in rivals if r in arms and "fst" in arms]
    header = ["study", "of", *(f"{share:.0%} [95%]" for share in SHARES)]
    return Table("How much sooner FST reaches a share of the other's best", header, rows)


def _partly(study: str, rival: str, arms: dict[str, list[LabRun]]) -> list[str]:
    cells = []
    for share in SHARES:
        found = sample_efficiency(curves(arms["fst"]), curves(arms[rival]), share=share)
        if found.ratio is None or found.ci95 is None:
            cells.append("no ratio")
        else:
            low, high = found.ci95
            cells.append(f"{found.ratio.text('.2f')}x [{low.text('.2f')}, {high.text('.2f')}]")
    return [find_study(study).title, ARMS[rival].title, *cells]


def _row(study: str, e: Efficiency) -> list[str]:
    ratio = "none" if e.ratio is None else e.ratio.text(".2f")
    return [find_study(study).title, e.arm, e.other, f"{e.target:.2f}", f"{e.other_cost:,.0f}", e.cost.text(), ratio]


EFFICIENCY = Experiment(
    name="efficiency",
    claim="FST reaches RL's best with fewer samples, the fast phase's rollouts counted.",
    paper="1.4x (Math) to 3.0x (CodeIO, HoVer-hard) fewer",
    studies=STUDIES,
    analyse=analyse,
)
