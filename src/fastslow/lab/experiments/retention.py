"""Retention: what is left of tasks that were never trained, without any evolved context."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fastslow.evaluation.intervals import Estimate
from fastslow.lab.base import Experiment, Job, Measurements, Result, Table
from fastslow.lab.experiments.weighed import PAIRS, STUDIES, arm_jobs, job_name, picked, plan_pairs, seeds_of
from fastslow.lab.figures import Dot, draw_dots
from fastslow.lab.planning import LabRun
from fastslow.lab.studies import ARMS, find_study
from fastslow.lab.tables import arms_table
from fastslow.lab.verdicts import Finding, judge, minus, signed

MARGINS: Mapping[tuple[str, str], float] = {
    ("all tasks", "accuracy"): 0.02,
    ("all tasks", "log-likelihood"): 0.05,
    ("plain English", "log-likelihood"): 0.05,
}
"""What counts as "equal": a loss beyond RL's of at most so much accuracy, or so many nats a token."""


def analyse(runs: Sequence[LabRun], measured: Measurements) -> Result:
    findings, dots = [], []
    for study, (fst, rival) in PAIRS.items():
        for (task, measure), margin in MARGINS.items():
            found = {
                arm: picked(measured, study, arm, "retention", "difference", task=task, measure=measure)
                for arm in (fst, rival)
            }
            dots += [
                Dot(find_study(study).title, arm, f"{ARMS[arm].title}: {task}, {measure}", d)
                for arm, d in found.items()
                if d
            ]
            ours, theirs = found[fst], found[rival]
            if ours is not None:
                findings.append(_kept(study, task, measure, ours, margin, runs))
            if ours is not None and theirs is not None:
                findings.append(_finding(study, rival, task, measure, minus(ours, theirs), margin, runs))
    header = ["study", "arm", "task", "measure", "problems", "seeds", "before", "after", "difference", "low", "high"]
    rows = _rows(measured)
    return Result(
        findings,
        [arms_table(runs, STUDIES), Table("Before and after", header, rows)],
        (header, rows),
        (lambda out: draw_dots(dots, out, "What training changed outside of its task", "after minus before"))
        if dots
        else None,
        [
            "No evolved context and no trained task. Equal means within 0.02 of accuracy, or 0.05 nats a token. Where "
            "RL gains on tasks that it never trained (it learnt to answer a bare question, which they are too), FST "
            "may keep all there was and still fall behind RL: so both are asked."
        ],
    )


def _kept(study: str, task: str, measure: str, change: Estimate, margin: float, runs: Sequence[LabRun]) -> Finding:
    mean, ci95 = signed(change, 3)
    claim = f"FST keeps what the base model could do ({task}, {measure})"
    return Finding(find_study(study).title, claim, mean, ci95, seeds_of(runs, study), judge(change.ci95, -margin),
                   f"change under FST; kept within {margin:g}")  # fmt: skip


def _finding(
    study: str, rival: str, task: str, measure: str, gap: Estimate, margin: float, runs: Sequence[LabRun]
) -> Finding:
    mean, ci95 = signed(gap, 3)
    claim = f"FST forgets no more than {ARMS[rival].title} ({task}, {measure})"
    return Finding(find_study(study).title, claim, mean, ci95, seeds_of(runs, study), judge(gap.ci95, -margin),
                   f"change under FST minus change under RL; equal within {margin:g}")  # fmt: skip


def _rows(measured: Measurements) -> list[list[str]]:
    rows = []
    for study, pair in PAIRS.items():
        for arm in pair:
            for r in measured.get(job_name(study, arm), {"retention": []})["retention"]:
                d = r["difference"]
                rows.append([study, arm, r["task"], r["measure"], str(r["n"]), str(r["seeds"]), f"{r['before']:.4f}",
                             f"{r['after']:.4f}", f"{d['mean']:+.4f}", *(f"{e:+.4f}" for e in d["ci95"])])  # fmt: skip
    return rows


def _measure(paths: list[Path]) -> Mapping[str, Any]:
    from fastslow.measure.weights import retention_of_runs

    return retention_of_runs(paths, n=2).data


def jobs(runs: Sequence[LabRun], folder: Path) -> list[Job]:
    return arm_jobs(runs, _measure, minutes=1.5)


RETENTION = Experiment(
    name="retention",
    claim="Without its evolved prompt, FST is as good outside of its task as RL, or better.",
    paper="49.7 vs 51.1, 36.5 vs 36.2, 48.5 vs 48.4: equal",
    studies=STUDIES,
    analyse=analyse,
    runs=plan_pairs,
    jobs=jobs,
    job_minutes=1.5 * 12,
)
