"""What drift, retention, plasticity and attribution share: runs whose final weights were kept, measured arm by arm."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fastslow.evaluation.intervals import Estimate
from fastslow.lab.base import Job, Measurements
from fastslow.lab.planning import Choice, LabRun, Planned, by_arm, plan
from fastslow.lab.studies import find_study
from fastslow.lab.verdicts import estimate_of

PAIRS: Mapping[str, tuple[str, str]] = {
    "sums": ("fst", "rl"),
    "sums-period": ("fst", "rl"),
    "isomorphic-brackets": ("fst", "rl"),
    "sums-brackets": ("fst", "rl-told"),
}
"""Study -> FST and the RL arm that learns it too: without learning there is no drift and nothing to forget."""
STUDIES = tuple(PAIRS)


def plan_pairs(choice: Choice) -> list[Planned]:
    """Per study its two arms, whatever other arms were asked for; an arm that was not asked for is left out."""
    found = []
    for study, pair in PAIRS.items():
        arms = tuple(a for a in pair if a in choice.arms)
        found += plan([study], Choice(choice.seeds, arms, choice.rates))
    return sorted(found, key=lambda p: p.seed)


def arm_jobs(
    runs: Sequence[LabRun], call: Callable[[list[Path]], Mapping[str, Any]], minutes: float, only: Sequence[str] = ()
) -> list[Job]:
    """One job a study and arm, over all its seeds; ``minutes`` a seed."""
    jobs = []
    for study in STUDIES:
        for arm, members in by_arm(runs, study).items():
            if arm in find_study(study).keep and (not only or arm in only):
                paths = [run.path for run in members]
                jobs.append(Job(job_name(study, arm), paths, _bound(call, paths), minutes * len(paths)))
    return jobs


def job_name(study: str, arm: str) -> str:
    return f"{study}-{arm}"


def pick(rows: Sequence[Mapping[str, Any]], **wanted: Any) -> Mapping[str, Any] | None:
    """The first row that has these values."""
    return next((row for row in rows if all(row.get(k) == v for k, v in wanted.items())), None)


def picked(measured: Measurements, study: str, arm: str, key: str, value: str, **wanted: Any) -> Estimate | None:
    """``{value: mean, ci95: …}`` of one row of a job's ``key``; None where it was not measured."""
    job = measured.get(job_name(study, arm))
    row = pick(job[key], **wanted) if job else None
    if row is None:
        return None
    return estimate_of(row[value] if isinstance(row[value], Mapping) else {"mean": row[value], "ci95": row["ci95"]})


def seeds_of(runs: Sequence[LabRun], study: str) -> int:
    found = by_arm(runs, study)
    return min((len(found[arm]) for arm in PAIRS[study] if arm in found), default=0)


def _bound(call: Callable[[list[Path]], Mapping[str, Any]], paths: list[Path]) -> Callable[[], Mapping[str, Any]]:
    return lambda: call(paths)
