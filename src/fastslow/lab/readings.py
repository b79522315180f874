"""What experiments read from the lab's runs: curves, final accuracies, and differences paired by seed and problem."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fastslow.evaluation.curves import Curves, curves_from_lines
from fastslow.evaluation.intervals import Estimate, difference_ci, hierarchical_ci
from fastslow.lab.planning import LabRun
from fastslow.lab.studies import ARMS
from fastslow.runs.directory import RunDirectory
from fastslow.runs.metrics import read_metrics


def curves(runs: Sequence[LabRun], which: str = "evolved_context") -> Curves:
    """The curves of one arm, a seed a run."""
    lines = [read_metrics(RunDirectory(run.path).metrics_path) for run in runs]
    return curves_from_lines(ARMS[runs[0].planned.arm].title, lines, which)


def last(found: Curves, count: int = 1) -> list[np.ndarray]:
    """Per seed, every problem's accuracy at the last evaluation, or its mean over the last ``count`` -> [N]."""
    return [v[-count:].mean(axis=0) for v in found.values]


def final(runs: Sequence[LabRun], which: str = "evolved_context", count: int = 1) -> Estimate:
    """Accuracy at the end, over seeds and problems."""
    return estimate(last(curves(runs, which), count))


def estimate(per_seed: Sequence[np.ndarray]) -> Estimate:
    return Estimate(float(np.mean([v.mean() for v in per_seed])), hierarchical_ci([v.tolist() for v in per_seed]))


def final_difference(
    a: Sequence[LabRun], b: Sequence[LabRun], which: str = "evolved_context", count: int = 1
) -> Estimate:
    """Accuracy of ``a`` minus that of ``b`` at the end, over the seeds that both have, paired by problem."""
    pairs = paired(a, b)
    left, right = (last(curves(runs, which), count) for runs in pairs)
    return difference(left, right)


def difference(a: Sequence[np.ndarray], b: Sequence[np.ndarray]) -> Estimate:
    values = [x - y for x, y in zip(a, b, strict=True)]
    return Estimate(float(np.mean([v.mean() for v in values])), difference_ci([v.tolist() for v in values]))


def paired(a: Sequence[LabRun], b: Sequence[LabRun]) -> tuple[list[LabRun], list[LabRun]]:
    """The runs of the seeds that both arms have. Raises ``ValueError`` where there is none."""
    left, right = ({run.planned.seed: run for run in runs} for runs in (a, b))
    seeds = sorted(set(left) & set(right))
    if not seeds:
        raise ValueError("the two arms have no seed in common")
    return [left[s] for s in seeds], [right[s] for s in seeds]


def curve_rows(runs: Sequence[LabRun]) -> list[list[str]]:
    """One row an evaluation, for the CSV beside a page; see :data:`CURVE_HEADER`."""
    rows = []
    for run in runs:
        p = run.planned
        for line in read_metrics(RunDirectory(run.path).metrics_path):
            if line["kind"] == "evaluation":
                spent, accuracy = line["rollouts"], line["accuracy"]
                evolved = accuracy.get("evolved_context", accuracy["seed_context"])
                rows.append([p.study, p.arm, str(p.seed), f"{p.lr:g}", str(line["step"]), str(line["problems"]),
                             str(spent["fast"]), str(spent["slow"]), f"{accuracy['seed_context']:.4f}",
                             f"{evolved:.4f}"])  # fmt: skip
    return rows


CURVE_HEADER = ["study", "arm", "seed", "lr", "step", "problems", "fast_rollouts", "slow_rollouts", "seed_context",
                "evolved_context"]  # fmt: skip
