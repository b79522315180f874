"""Tables that several pages share."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from fastslow.lab.base import Table
from fastslow.lab.figures import Panel
from fastslow.lab.planning import LabRun, by_arm
from fastslow.lab.readings import curves, final
from fastslow.lab.studies import ARMS, find_study
from fastslow.lab.verdicts import unsigned
from fastslow.runs.directory import RunDirectory
from fastslow.runs.metrics import read_metrics


def arms_table(runs: Sequence[LabRun], studies: Sequence[str]) -> Table:
    """What every arm spent and reached at its last evaluation."""
    header = ["study", "arm", "seeds", "learning rate", "fast", "slow", "rollouts", "accuracy [95%]",
              "with the seed context [95%]"]  # fmt: skip
    rows = []
    for study in studies:
        for arm, members in by_arm(runs, study).items():
            spent = [_spent(run) for run in members]
            fast, slow = fmean(s[0] for s in spent), fmean(s[1] for s in spent)
            rate = "" if arm == "gepa" else f"{members[0].planned.lr:g}"
            rows.append([find_study(study).title, ARMS[arm].title, str(len(members)), rate, f"{fast:,.0f}",
                         f"{slow:,.0f}", f"{fast + slow:,.0f}", unsigned(final(members)),
                         unsigned(final(members, "seed_context"))])  # fmt: skip
    return Table("What every arm spent and reached", header, rows)


def panels(runs: Sequence[LabRun], studies: Sequence[str]) -> list[Panel]:
    """The learning curves of every study that has runs."""
    found = [(study, by_arm(runs, study)) for study in studies]
    return [
        Panel(find_study(study).title, [(arm, curves(members)) for arm, members in arms.items()])
        for study, arms in found
        if arms
    ]


def _spent(run: LabRun) -> tuple[int, int]:
    lines = [line for line in read_metrics(RunDirectory(run.path).metrics_path) if line["kind"] == "evaluation"]
    return lines[-1]["rollouts"]["fast"], lines[-1]["rollouts"]["slow"]
