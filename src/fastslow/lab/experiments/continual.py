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
from fastslow.lab.readings import CURVE_HEADER, curve_rows, difference, estimate, paired
from fastslow.lab.studies import ARMS, find_study
from fastslow.lab.tables import arms_table, panels
from fastslow.lab.verdicts import Finding, judge, signed, unsigned
from fastslow.runs.directory import RunDirectory
from fastslow.runs.metrics import read_metrics

STUDIES = ("switch-convention", "switch-skill")


def analyse(runs: Sequence[LabRun], measured: Measurements) -> Result:
    findings, rows = [], []
    for study in STUDIES:
        arms, title = by_arm(runs, study), find_study(study).title
        for arm, members in arms.items():
            ends = [stage_ends(run) for run in members]
            for number in range(len(ends[0])):
                value = unsigned(estimate([values[number] for values in ends]))
                rows.append([title, ARMS[arm].title, str(number + 1), str(len(members)), value])
        findings += findings_of(runs, study)
    header = ["schedule", "arm", "stage", "seeds", "accuracy on its task at its end [95%]"]
    return Result(
        findings,
        [Table("At the end of every stage", header, rows), arms_table(runs, STUDIES)],
        (CURVE_HEADER, curve_rows(runs)),
        lambda out: draw_curves(panels(runs, STUDIES), out, "Three tasks in one run: the one being trained"),
        ["RL spends in every stage the total rollouts that FST spent in it. The first evaluation of a stage's curve is "
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
    seeds=2,
    needs=needs,
)
