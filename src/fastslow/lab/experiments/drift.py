"""Drift: KL to the weights before training, where FST and RL reach the same accuracy (arXiv 2605.12484)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fastslow.evaluation.intervals import Estimate
from fastslow.lab.base import Experiment, Job, Measurements, Result, Table
from fastslow.lab.experiments.weighed import PAIRS, STUDIES, arm_jobs, job_name, picked, plan_pairs, seeds_of
from fastslow.lab.figures import Dot, draw_against
from fastslow.lab.planning import LabRun, by_arm
from fastslow.lab.readings import final, final_difference
from fastslow.lab.studies import ARMS, find_study
from fastslow.lab.tables import arms_table
from fastslow.lab.verdicts import Finding, judge, minus, signed

N = 2
"""Replies a problem."""


def analyse(runs: Sequence[LabRun], measured: Measurements) -> Result:
    findings, dots = [], []
    for study, (fst, rival) in PAIRS.items():
        arms = by_arm(runs, study)
        found = {a: picked(measured, study, a, "drift", "kl", context=_own(a)) for a in (fst, rival) if a in arms}
        dots += [(Dot(find_study(study).title, a, ARMS[a].title, k), final(arms[a])) for a, k in found.items() if k]
        ours, theirs = found.get(fst), found.get(rival)
        if ours is not None and theirs is not None:
            findings.append(_finding(study, rival, ours, theirs, final_difference(arms[fst], arms[rival]), runs))
    rows = _rows(measured)
    header = ["study", "arm", "context", "problems", "samples", "seeds", "KL, nats a token", "low", "high"]
    return Result(
        findings,
        [arms_table(runs, STUDIES), Table("Drift", header, rows)],
        (header, rows),
        (lambda out: draw_against(dots, out, "Drift beside accuracy", "KL to the base weights, nats a token",
                                  "accuracy")) if dots else None,
        ["KL on replies of the trained policy to validation problems, at every token exactly, under the context that "
         "the arm trained with: the evolved one of FST, its own prompt of RL."],
    )  # fmt: skip


def _finding(
    study: str, rival: str, ours: Estimate, theirs: Estimate, accuracy: Estimate, runs: Sequence[LabRun]
) -> Finding:
    """Only at matched accuracy: where FST solves clearly less, less drift proves nothing."""
    gap = minus(theirs, ours)
    mean, ci95 = signed(gap, 3)
    share = f" ({(theirs.mean - ours.mean) / theirs.mean:+.0%} less)" if theirs.mean > 0 else ""
    verdict, told = judge(gap.ci95), " ".join(signed(accuracy))
    why = f"accuracy of FST minus {ARMS[rival].title}: {told}"
    if verdict == "holds" and accuracy.ci95[1] < 0:
        verdict, why = "can't tell", f"not at matched accuracy; {why}"
    if verdict == "doesn't" and accuracy.ci95[0] > 0:
        verdict, why = "can't tell", f"FST drifts more and solves more; {why}"
    claim = f"FST drifts less than {ARMS[rival].title} at matched accuracy"
    return Finding(find_study(study).title, claim, f"{mean} nats a token{share}", ci95, seeds_of(runs, study),
                   verdict, why)  # fmt: skip


def _own(arm: str) -> str:
    return "evolved" if ARMS[arm].method == "fst" else "seed"


def _rows(measured: Measurements) -> list[list[str]]:
    rows = []
    for study, pair in PAIRS.items():
        for arm in pair:
            for row in measured.get(job_name(study, arm), {"drift": []})["drift"]:
                rows.append([study, arm, row["context"], str(row["problems"]), str(row["n"]), str(row["seeds"]),
                             f"{row['kl']:.4f}", *(f"{end:.4f}" for end in row["ci95"])])  # fmt: skip
    return rows


def _measure(paths: list[Path]) -> Mapping[str, Any]:
    from fastslow.measure.weights import drift_of_runs

    return drift_of_runs(paths, n=N).data


def jobs(runs: Sequence[LabRun], folder: Path) -> list[Job]:
    return arm_jobs(runs, _measure, minutes=0.7)


DRIFT = Experiment(
    name="drift",
    claim="At matched accuracy FST's weights stay nearer to the base model than RL's.",
    paper="up to 70% less KL",
    studies=STUDIES,
    analyse=analyse,
    runs=plan_pairs,
    jobs=jobs,
    job_minutes=0.7 * 12,
)
