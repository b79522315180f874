"""Distillation: the prompted policy into the unprompted one, instead of reward (arXiv 2605.12484: a lower ceiling)."""

from __future__ import annotations

from collections.abc import Sequence

from fastslow.config import Method
from fastslow.lab.base import Experiment, Measurements, Result
from fastslow.lab.figures import draw_curves
from fastslow.lab.planning import LabRun, by_arm
from fastslow.lab.readings import CURVE_HEADER, curve_rows, final_difference
from fastslow.lab.studies import find_study
from fastslow.lab.tables import arms_table, panels
from fastslow.lab.verdicts import Finding, judge, signed

STUDIES = ("sums", "sums-period", "sums-brackets")


def analyse(runs: Sequence[LabRun], measured: Measurements) -> Result:
    findings = []
    for study in STUDIES:
        arms, title = by_arm(runs, study), find_study(study).title
        if not {"fst", "fst-distill"} <= set(arms):
            continue
        seeds = min(len(arms["fst"]), len(arms["fst-distill"]))
        gap = final_difference(arms["fst"], arms["fst-distill"])
        findings.append(Finding(title, "FST-distill ends lower than FST", *signed(gap), seeds, judge(gap.ci95),
                                "FST minus FST-distill, each with its evolved context"))  # fmt: skip
    return Result(
        findings,
        [arms_table(runs, STUDIES)],
        (CURVE_HEADER, curve_rows(runs)),
        lambda out: draw_curves(panels(runs, STUDIES), out, "Reward against distillation"),
        ["The column with the seed context shows how much of the prompt's part went into the weights."],
    )


def needs() -> str | None:
    return None if "fst-distill" in Method.__args__ else "needs method fst-distill, which this version does not have"


DISTILL = Experiment(
    name="distill",
    claim="Distilling the prompted policy into the unprompted one has a lower ceiling than reward.",
    paper="lower ceiling than FST",
    studies=STUDIES,
    analyse=analyse,
    arms=("fst", "fst-distill"),
    must=("fst", "fst-distill"),
    needs=needs,
)
