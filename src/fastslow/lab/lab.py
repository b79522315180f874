"""``fastslow lab NAME``: run what is missing, look at all of it, write the page and the claims table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fastslow.errors import FastslowError
from fastslow.lab.base import Experiment
from fastslow.lab.claims import read_record, write_claims
from fastslow.lab.experiments import EXPERIMENTS
from fastslow.lab.experiments.sweep import SWEEP, chosen_rates
from fastslow.lab.planning import Choice, check_arms
from fastslow.lab.runner import Clock, Say, Train, drop_weights_except, run_experiment, state_of
from fastslow.lab.writer import write_result


@dataclass(frozen=True)
class Outcome:
    """``page``: None where nothing could be said yet. ``left``: what the time did not suffice for."""

    page: Path | None
    left: list[str]
    reason: str = ""


def run_lab(
    experiment: Experiment,
    root: Path,
    results: Path,
    say: Say,
    command: str,
    seeds: int | None = None,
    arms: Sequence[str] | None = None,
    minutes: float | None = None,
    train: Train | None = None,
    jobs: int = 1,
) -> Outcome:
    """Runs below ``root``, pages into ``results``; everything that is done stays, so that a later call goes on.

    ``jobs``: runs at a time, each on cores of its own.
    """
    if (reason := experiment.missing()) is not None:
        return Outcome(None, [], f"{experiment.name}: {reason}")
    choice = choose(experiment, results, seeds, arms)
    done = run_experiment(experiment, choice, root, Clock(minutes), say, train, jobs)
    if not done.runs:
        return Outcome(None, done.left, "no run is finished yet; give it more --minutes")
    result = experiment.analyse(done.runs, done.measured)
    page = write_result(experiment, result, command, results, done.left)
    write_claims(EXPERIMENTS, results)
    if experiment is SWEEP:
        drop_weights_except(done.runs, result.data["rates"])
    return Outcome(page, done.left)


def choose(experiment: Experiment, results: Path, seeds: int | None, arms: Sequence[str] | None) -> Choice:
    """Defaults of the experiment, and the sweep's rates (the sweep itself has its own).

    Raises :class:`FastslowError` where an arm is unknown, or one is left out without which nothing can be said.
    """
    chosen = check_arms(arms or experiment.arms, sorted({*experiment.arms, *experiment.must, "gepa"}))
    for arm in experiment.must:
        if arm not in chosen:
            raise FastslowError(f"--arms: {experiment.name} can't do without {arm}; add it")
    rates = {} if experiment is SWEEP else chosen_rates(results)
    return Choice(seeds or experiment.seeds, chosen, rates)


def overview(root: Path, results: Path) -> list[list[str]]:
    """Rows for ``fastslow lab --list``: name, claim, arms x seeds, runs done, minutes left, state."""
    rows = []
    for e in EXPERIMENTS.values():
        reason, record = e.missing(), read_record(e.name, results)
        state = "no result yet" if record is None else "written" if record["complete"] else "not complete"
        if reason is not None:
            rows.append([e.name, e.claim, "", "", "", reason])
            continue
        done, total, minutes = state_of(e.plan(choose(e, results, None, None)), root)
        minutes += e.job_minutes if record is None or not record["complete"] else 0
        shape = f"{', '.join(e.arms)} x {e.seeds}"
        rows.append([e.name, e.claim, shape, f"{done} of {total}", f"{minutes:.0f}", state])
    return rows
