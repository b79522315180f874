"""Plasticity: fresh RL on a second task, from the base model and from what FST and RL left."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fastslow.evaluation.curves import Curves
from fastslow.lab.base import Experiment, Job, Measurements, Result, Table
from fastslow.lab.experiments.weighed import pick
from fastslow.lab.figures import Panel, draw_curves
from fastslow.lab.planning import LabRun, by_arm
from fastslow.lab.studies import ARMS, find_study
from fastslow.lab.tables import arms_table
from fastslow.lab.verdicts import Finding, estimate_of, judge, minus, signed, unsigned

STUDIES = ("sums", "sums-period", "isomorphic-brackets")
"""First tasks: one whose form the second shares, and two whose form is wrong there."""
SECOND, STEPS, MARGIN = "products", 12, 0.05
"""``MARGIN``: of the area under the curve, or of accuracy; "as well as the base" means no more than so much below."""
LABELS = {"base": "base", "fst": "FST", "rl": "RL"}


def analyse(runs: Sequence[LabRun], measured: Measurements) -> Result:
    findings: list[Finding] = []
    by_study: dict[str, dict[str, Mapping[str, Any]]] = {}
    for study in STUDIES:
        probes = measured.get(job_name(study), {"probes": []})["probes"]
        by = {arm: pick(probes, label=label) for arm, label in LABELS.items()}
        found = {arm: probe for arm, probe in by.items() if probe is not None}
        if found:
            by_study[study] = found
            findings += _findings(study, found)
    header = ["first task", "start", "seeds", "problems", "first", "final", "area", "area over base"]
    rows = [_row(study, p) for study, found in by_study.items() for p in found.values()]
    return Result(
        findings,
        [arms_table(runs, STUDIES), Table(f"Fresh RL on {SECOND}", header, rows)],
        (["study", "start", "probe", "step", "rollouts", "accuracy"],
         [[study, *r] for study, found in by_study.items() for a, p in found.items() for r in _points(a, p)]),
        (lambda out: draw_curves([_panel(s, f) for s, f in by_study.items()], out, f"Fresh RL on {SECOND}"))
        if by_study else None,
        [f"{STEPS} steps of plain RL without any evolved context, the same for every start, at the learning rate that "
         "was chosen for RL. Area: mean accuracy over the budget. Products are answered by a number alone: the form of "
         "plain sums, and not that of the other two first tasks."],
    )  # fmt: skip


def _findings(study: str, found: Mapping[str, Mapping[str, Any]]) -> list[Finding]:
    where, seeds = f"{find_study(study).title}, then {SECOND}", min(int(p["seeds"]) for p in found.values())
    findings = []
    over = {arm: estimate_of(p["area_minus_base"]) for arm, p in found.items() if p["area_minus_base"]}
    if "fst" in over:
        claim, verdict = "From FST's weights RL learns as well as from the base", judge(over["fst"].ci95, -MARGIN)
        why = f"area under the curve, within {MARGIN:g}"
        findings.append(Finding(where, claim, *signed(over["fst"], 3), seeds, verdict, why))
    ends = {arm: estimate_of(p["final_minus_base"]) for arm, p in found.items() if p["final_minus_base"]}
    if "fst" in ends:
        claim, verdict = "From FST's weights RL ends as high as from the base", judge(ends["fst"].ci95, -MARGIN)
        why = f"accuracy at the end, within {MARGIN:g}"
        findings.append(Finding(where, claim, *signed(ends["fst"], 3), seeds, verdict, why))
    if "fst" in over and "rl" in over:
        claim, gap = "From FST's weights RL learns better than from RL's", minus(over["fst"], over["rl"])
        findings.append(Finding(where, claim, *signed(gap, 3), seeds, judge(gap.ci95), "area under the curve"))
    return findings


def _row(study: str, probe: Mapping[str, Any]) -> list[str]:
    over = probe["area_minus_base"]
    cells = [unsigned(estimate_of(probe[k])) for k in ("initial", "final", "area")]
    return [find_study(study).title, probe["label"], str(probe["seeds"]), str(probe["problems"]), *cells,
            "" if over is None else " ".join(signed(estimate_of(over), 3))]  # fmt: skip


def _panel(study: str, found: Mapping[str, Mapping[str, Any]]) -> Panel:
    title = f"after {find_study(study).title}"
    return Panel(
        title, [(arm, _curves(ARMS[arm].title if arm in ARMS else arm, p["curves"])) for arm, p in found.items()]
    )


def _curves(label: str, data: Mapping[str, Any]) -> Curves:
    rollouts = np.array(data["rollouts"], dtype=float)
    values = tuple(np.array(row, dtype=float)[:, None] for row in data["accuracy"])
    return Curves(label, tuple(data["steps"]), rollouts, rollouts, values)


def _points(arm: str, probe: Mapping[str, Any]) -> list[list[str]]:
    data = probe["curves"]
    return [
        [arm, str(i), str(step), f"{spent:g}", f"{value:.4f}"]
        for i, (costs, values) in enumerate(zip(data["rollouts"], data["accuracy"]))
        for step, spent, value in zip(data["steps"], costs, values)
    ]


def job_name(study: str) -> str:
    return f"{study}-probes"


def jobs(runs: Sequence[LabRun], folder: Path) -> list[Job]:
    """One job a first task."""
    found = [(study, by_arm(runs, study)) for study in STUDIES]
    return [_job(study, arms, folder) for study, arms in found if {"fst", "rl"} <= set(arms)]


def _job(study: str, arms: Mapping[str, Sequence[LabRun]], folder: Path) -> Job:
    paths = [run.path for arm in ("fst", "rl") for run in arms[arm]]
    lr = arms["rl"][0].planned.lr
    probes = folder / f"{study}-lr{lr:g}"

    def call() -> Mapping[str, Any]:
        from fastslow.measure.plasticity import plasticity_of_runs

        second, settings = str(find_study(SECOND).path), (f"slow.lr={lr:g}",)
        return plasticity_of_runs(paths, second, probes, steps=STEPS, overrides=settings).data

    return Job(job_name(study), paths, call, 0.7 * (len(paths) + len(arms["fst"])))


PLASTICITY = Experiment(
    name="plasticity",
    claim="A policy trained by FST still learns a second task as the base model does; one trained by RL hardly.",
    paper="FST's start about as good as base; RL's barely learns",
    studies=STUDIES,
    analyse=analyse,
    arms=("fst", "rl"),
    jobs=jobs,
    job_minutes=0.7 * 9 * len(STUDIES),
)
