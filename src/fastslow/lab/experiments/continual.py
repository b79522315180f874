"""Continual learning: three tasks one after the other in one run, from a context that says nothing of any of them.

Two schedules: the convention switches while the skill stays (what contexts are for), and the skill switches.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

import numpy as np

from fastslow.config import RunConfig
from fastslow.evaluation.intervals import Estimate
from fastslow.lab.base import Experiment, Measurements, Result, Table
from fastslow.lab.figures import draw_curves
from fastslow.lab.planning import LabRun, by_arm
from fastslow.lab.readings import CURVE_HEADER, curve_rows, difference, estimate, final, paired
from fastslow.lab.studies import ARMS, find_study
from fastslow.lab.tables import arms_table, panels
from fastslow.lab.verdicts import Finding, judge, minus, signed, unsigned
from fastslow.runs.directory import RunDirectory
from fastslow.runs.metrics import read_metrics

STUDIES = ("switch-convention", "switch-skill")
ALONE = {
    "switch-convention": ("sums-brackets", "sums-prefix", "sums-json"),
    "switch-skill": ("sums", "isomorphic", "products"),
}
"""Schedule -> the study of each of its stages: the same task and steps, from the base model."""
NEAR = 0.9
"""A stage is near its peak where it ends above so much of what the arm reaches on its task alone."""


def analyse(runs: Sequence[LabRun], measured: Measurements) -> Result:
    findings, rows = [], []
    for study in STUDIES:
        arms, title = by_arm(runs, study), find_study(study).title
        for arm, members in arms.items():
            ends = [stage_ends(run) for run in members]
            for number in range(len(ends[0])):
                value = unsigned(estimate([values[number] for values in ends]))
                rows.append([title, ARMS[arm].title, str(number + 1), str(len(members)), value])
        findings += [*findings_of(runs, study), *near_peak(runs, study)]
    header = ["schedule", "arm", "stage", "seeds", "accuracy on its task at its end [95%]"]
    return Result(
        findings,
        [Table("At the end of every stage", header, rows), arms_table(runs, STUDIES)],
        (CURVE_HEADER, curve_rows([run for run in runs if run.planned.study in STUDIES])),
        lambda out: draw_curves(panels(runs, STUDIES), out, "Three tasks in one run: the one being trained"),
        [f"Near its peak: the end of the stage minus {NEAR:g} times what the same arm reaches by the same steps on the "
         "stage's task alone, from the base model, is above 0. Where it reaches nothing alone, nothing is said.",
         "RL spends in every stage the total rollouts that FST spent in it. The first evaluation of a stage's curve is "
         "the last of the stage before."],
    )  # fmt: skip


def findings_of(runs: Sequence[LabRun], study: str) -> list[Finding]:
    """FST against RL at the end of each stage, and last on the mean over the stages; empty without both arms."""
    arms, title = by_arm(runs, study), find_study(study).title
    if not {"fst", "rl"} <= set(arms):
        return []
    ours, theirs = ([stage_ends(run) for run in members] for members in paired(arms["fst"], arms["rl"]))
    gaps = [difference([a[i] for a in ours], [b[i] for b in theirs]) for i in range(len(ours[0]))]
    found = [_finding(title, f"FST ends stage {i + 1} above RL", gap, len(ours)) for i, gap in enumerate(gaps)]
    whole = difference([np.concatenate(a) for a in ours], [np.concatenate(b) for b in theirs])
    mean = Estimate(fmean(gap.mean for gap in gaps), whole.ci95)
    return [*found, _finding(title, "FST ends the stages above RL, on their mean", mean, len(ours))]


def near_peak(runs: Sequence[LabRun], study: str) -> list[Finding]:
    """Each arm's stages against its runs on their tasks alone; stages without such runs, or that learn nothing alone,
    are left out."""
    found = []
    for arm, members in by_arm(runs, study).items():
        ends = [stage_ends(run) for run in members]
        for number, single in enumerate(ALONE[study]):
            alone = by_arm(runs, single).get(arm, [])
            peak = final(alone) if alone else None
            if peak is None or peak.ci95[0] <= 0:
                continue
            gap = minus(estimate([values[number] for values in ends]), _scaled(peak, NEAR))
            claim = f"{ARMS[arm].title}'s stage {number + 1} ends near its peak"
            seeds, why = min(len(members), len(alone)), f"alone it reaches {unsigned(peak)}"
            found.append(Finding(find_study(study).title, claim, *signed(gap), seeds, judge(gap.ci95), why))
    return found


def _scaled(value: Estimate, by: float) -> Estimate:
    return Estimate(by * value.mean, (by * value.ci95[0], by * value.ci95[1]))


def _finding(title: str, claim: str, gap: Estimate, seeds: int) -> Finding:
    return Finding(title, claim, *signed(gap), seeds, judge(gap.ci95))


def stage_ends(run: LabRun) -> list[np.ndarray]:
    """Per stage, every problem's accuracy on the stage's own task at the stage's end -> [N] each."""
    folder = RunDirectory(run.path)
    lines = {line["step"]: line for line in read_metrics(folder.metrics_path) if line["kind"] == "evaluation"}
    ends = np.cumsum([stage.steps for stage in folder.load_config().stages])
    return [np.array(_evolved(lines[int(end)]["per_problem"]), dtype=float) for end in ends]


def _evolved(values: dict) -> list:
    return values.get("evolved_context") or values["seed_context"]


def needs() -> str | None:
    return None if "schedule" in RunConfig.model_fields else "needs a schedule, which this version's config lacks"


CONTINUAL = Experiment(
    name="continual",
    claim="In one run over several tasks FST is near its peak at each stage, where RL stalls.",
    paper="HoVer, CodeIO, Physics: RL stalls on stage 2 at 20.7 against 37.7",
    studies=STUDIES,
    analyse=analyse,
    arms=("fst", "rl"),
    needs=needs,
    also=tuple(dict.fromkeys(single for singles in ALONE.values() for single in singles)),
)
