"""Attribution: where FST's gain sits, from the four cells {base, trained weights} x {seed, evolved context}."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fastslow.lab.base import Experiment, Job, Measurements, Result, Table
from fastslow.lab.experiments.weighed import STUDIES, arm_jobs, job_name
from fastslow.lab.figures import Dot, draw_dots
from fastslow.lab.planning import LabRun, by_arm
from fastslow.lab.studies import find_study
from fastslow.lab.tables import arms_table
from fastslow.lab.verdicts import Finding, estimate_of, judge, signed

CELLS = {
    "base/seed": "neither",
    "trained/seed": "weights only",
    "base/evolved": "context only",
    "trained/evolved": "both",
}
EFFECTS = {
    "weights effect": "The weights hold a part of the gain",
    "context effect": "The context holds a part of the gain",
}


def analyse(runs: Sequence[LabRun], measured: Measurements) -> Result:
    findings, dots, rows = [], [], []
    for study in STUDIES:
        job = measured.get(job_name(study, "fst"))
        if not job:
            continue
        title, found = find_study(study).title, job["attribution"][0]
        seeds = len(by_arm(runs, study).get("fst", []))
        for name, claim in EFFECTS.items():
            effect = estimate_of(found["effects"][name])
            findings.append(Finding(title, claim, *signed(effect), seeds, judge(effect.ci95), name))
        dots += [Dot(title, "fst", CELLS[c], estimate_of(e)) for c, e in found["cells"].items()]
        rows += [[study, what, f"{e['mean']:.4f}", *(f"{x:.4f}" for x in e["ci95"])]
                 for what, e in (*found["cells"].items(), *found["effects"].items())]  # fmt: skip
    header = ["study", "what", "value", "low", "high"]
    return Result(
        findings,
        [arms_table(runs, STUDIES), Table("Four cells, and what each channel adds", header, rows)],
        (header, rows),
        (lambda out: draw_dots(dots, out, "Where FST's gain sits", "accuracy")) if dots else None,
        ["Weights and context effect: the difference that one channel makes, averaged over both settings of the other; "
         "the two add up to the whole gain."],
    )  # fmt: skip


def _measure(paths: list[Path]) -> Mapping[str, Any]:
    from fastslow.measure.weights import attribution_of_runs

    return attribution_of_runs(paths, n=2).data


def jobs(runs: Sequence[LabRun], folder: Path) -> list[Job]:
    return arm_jobs(runs, _measure, minutes=1.0, only=("fst",))


ATTRIBUTION = Experiment(
    name="attribution",
    claim="Weights and context both hold a part of FST's gain; which one more, the task decides.",
    paper="HoVer-hard 2.0 / 11.6 slow only / 10.6 fast only / 21.2 both; Math nearly all slow",
    studies=STUDIES,
    analyse=analyse,
    arms=("fst",),
    must=("fst",),
    jobs=jobs,
    job_minutes=6,
)
