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
from fastslow.lab.studies import ARMS
from fastslow.lab.tables import arms_table
from fastslow.lab.verdicts import Finding, estimate_of, judge, minus, signed, unsigned

STUDY, SECOND, STEPS, MARGIN = "sums", "products", 12, 0.05
"""``MARGIN``: of the area under the curve, or of accuracy; "as well as the base" means no more than so much below."""
LABELS = {"base": "base", "fst": "FST", "rl": "RL"}


def analyse(runs: Sequence[LabRun], measured: Measurements) -> Result:
    probes = measured.get("probes", {"probes": []})["probes"]
    by = {arm: pick(probes, label=label) for arm, label in LABELS.items()}
    found = {arm: probe for arm, probe in by.items() if probe is not None}
    seeds = min((len(v) for a, v in by_arm(runs, STUDY).items() if a in LABELS), default=0)
    findings, where = [], "sums, then products"
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
    header = ["start", "seeds", "problems", "first", "final", "area", "area over base"]
    return Result(
        findings,
        [arms_table(runs, [STUDY]), Table(f"Fresh RL on {SECOND}", header, [_row(p) for p in found.values()])],
        (["start", "probe", "step", "rollouts", "accuracy"], [r for a, p in found.items() for r in _points(a, p)]),
        (lambda out: draw_curves([_panel(found)], out, f"Fresh RL on {SECOND} from three starts")) if found else None,
        [f"{STEPS} steps of plain RL without any evolved context, the same for every start. Area: mean accuracy over "
         "the budget."],
    )  # fmt: skip


def _row(probe: Mapping[str, Any]) -> list[str]:
    over = probe["area_minus_base"]
    cells = [unsigned(estimate_of(probe[k])) for k in ("initial", "final", "area")]
    return [probe["label"], str(probe["seeds"]), str(probe["problems"]), *cells,
            "" if over is None else " ".join(signed(estimate_of(over), 3))]  # fmt: skip


def _panel(found: Mapping[str, Mapping[str, Any]]) -> Panel:
    return Panel("", [(arm, _curves(ARMS[arm].title if arm in ARMS else arm, p["curves"])) for arm, p in found.items()])


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


def jobs(runs: Sequence[LabRun], folder: Path) -> list[Job]:
    arms = by_arm(runs, STUDY)
    paths = [run.path for arm in ("fst", "rl") for run in arms.get(arm, [])]
    if not {"fst", "rl"} <= set(arms):
        return []

    # Probes take their config from the first run: of another learning rate they would be others.
    probes = folder / f"probes-lr{arms['fst'][0].planned.lr:g}"

    def call() -> Mapping[str, Any]:
        from fastslow.measure.plasticity import plasticity_of_runs

        return plasticity_of_runs(paths, SECOND, probes, steps=STEPS).data

    return [Job("probes", paths, call, 1.5 * (len(paths) + 1))]


PLASTICITY = Experiment(
    name="plasticity",
    claim="A policy trained by FST still learns a second task as the base model does; one trained by RL hardly.",
    paper="FST's start about as good as base; RL's barely learns",
    studies=(STUDY,),
    analyse=analyse,
    arms=("fst", "rl"),
    jobs=jobs,
    job_minutes=1.5 * 7,
)
