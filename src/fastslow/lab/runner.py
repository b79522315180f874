"""Runs what is missing of an experiment: finished runs are read, broken ones go on, the clock is kept between runs."""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fastslow.config import RunConfig
from fastslow.errors import RunError
from fastslow.lab.base import Experiment, Job
from fastslow.lab.parallel import SideBySide, next_ready, ready
from fastslow.lab.planning import Choice, LabRun, Planned, config_of, plan, with_matched
from fastslow.lab.studies import find_study
from fastslow.runs.checkpoint import keep_last_weights, newest_checkpoint
from fastslow.runs.directory import RunDirectory
from fastslow.runs.files import read_json, write_json
from fastslow.runs.signals import Stopped

Train = Callable[..., Any]
"""``train(config, folder, resume=…, progress=…)``, as engines have it."""
Say = Callable[[str], None]
_MOST_SEEDS = 20
"""Of other experiments' runs, those with seeds below are looked at."""


@dataclass
class Clock:
    """``minutes``: None for no limit. ``now`` in seconds."""

    minutes: float | None = None
    now: Callable[[], float] = time.monotonic

    def __post_init__(self) -> None:
        self._start = self.now()

    def has(self, minutes: float) -> bool:
        """Whether something that takes so long still fits."""
        return self.minutes is None or (self.now() - self._start) / 60 + minutes <= self.minutes


@dataclass(frozen=True)
class Progress:
    """``runs``: finished ones of the experiment; ``left``: what did not fit into the time, by label."""

    runs: list[LabRun]
    measured: dict[str, Mapping[str, Any]]
    left: list[str]


def run_experiment(
    experiment: Experiment,
    choice: Choice,
    root: Path,
    clock: Clock,
    say: Say,
    train: Train | None = None,
    jobs_at_once: int = 1,
) -> Progress:
    """Train and measure what is missing, as far as the clock allows; everything done stays for the next call."""
    wanted = experiment.plan(choice)
    planned = with_matched(wanted)
    if experiment.jobs is not None:
        _forget_without_weights(wanted, root, say)
    if jobs_at_once > 1:
        left = run_side_by_side(planned, root, clock, say, jobs_at_once)
    else:
        left = run_planned(planned, root, clock, say, train)
    seen = list(dict.fromkeys([*wanted, *(left_by_others(experiment, choice, root) if experiment.also else [])]))
    runs = [run for run in (LabRun(p, root / p.folder) for p in seen) if run.finished]
    jobs = list(experiment.jobs(runs, root / "measured" / experiment.name)) if experiment.jobs else []
    if left:
        clock = Clock(0)  # of what is not complete yet, nothing is measured that would have to be measured again
    measured, late = _measure(jobs, root / "measured" / experiment.name, clock, say)
    return Progress(runs, measured, [*left, *late])


def run_planned(
    planned: Sequence[Planned], root: Path, clock: Clock, say: Say, train: Train | None = None
) -> list[str]:
    """Returns the labels of the runs that did not fit."""
    left: list[str] = []
    for one in planned:
        run = LabRun(one, root / one.folder)
        waits = one.matched is not None and one.matched.label in left
        if run.finished:
            _check_settled(run, root)
        elif waits or left or not clock.has(one.minutes):
            left.append(one.label)
        else:
            say(f"{one.label}: about {one.minutes:.0f} min")
            _train(run, config_of(one, root), train)
            _drop_weights(run)
    return left


def run_side_by_side(planned: Sequence[Planned], root: Path, clock: Clock, say: Say, jobs: int) -> list[str]:
    """As :func:`run_planned`, ``jobs`` runs at a time; a run waits for the one whose budget it is matched to."""
    runs = [LabRun(p, root / p.folder) for p in planned]
    for run in runs:
        if run.finished and ready(run, root):
            _check_settled(run, root)
    waiting = [run for run in runs if not run.finished]
    with SideBySide(jobs, say, _drop_weights) as side:
        while waiting:
            run = next_ready(waiting, root)
            if run is None:
                if not side.busy:
                    break  # what they wait for did not fit into the time
                side.wait()
            elif clock.has(run.planned.minutes):
                waiting.remove(run)
                side.start(run, config_of(run.planned, root))
            else:
                break
        side.wait_for_all()
    return [run.planned.label for run in waiting]


def left_by_others(experiment: Experiment, choice: Choice, root: Path) -> list[Planned]:
    """Finished runs of further seeds, and of the studies that the experiment also looks at."""
    wider = plan((*experiment.studies, *experiment.also), replace(choice, seeds=_MOST_SEEDS))
    return [p for p in wider if LabRun(p, root / p.folder).finished]


def state_of(planned: Sequence[Planned], root: Path) -> tuple[int, int, float]:
    """(runs finished, runs in all, minutes left)."""
    runs = [LabRun(p, root / p.folder) for p in with_matched(planned)]
    done = [r.finished for r in runs]
    return sum(done), len(runs), sum(r.planned.minutes for r, d in zip(runs, done, strict=True) if not d)


def _train(run: LabRun, config: RunConfig, train: Train | None) -> None:
    broken = RunDirectory(run.path).config_path.exists()
    if train is not None:
        train(config, run.path, resume=broken)
        return
    from fastslow.engines import pick_engine
    from fastslow.progress import make_progress

    with make_progress(config, label=run.planned.label) as progress:
        try:
            pick_engine(config)(config, run.path, resume=broken, progress=progress)
        except Stopped as stopped:
            raise Stopped(f"{run.planned.label}: {stopped.at}", "go on with the same command") from None


def _check_settled(run: LabRun, root: Path) -> None:
    """A finished run must be the one that was asked for: same study, same settings.

    FST at another learning rate may spend a few rollouts more or less; up to a whole step is the same budget.
    """
    found, wanted = RunDirectory(run.path).load_config(), config_of(run.planned, root)
    step = wanted.slow.group_size * wanted.slow.problems_per_step
    if abs((found.max_rollouts or 0) - (wanted.max_rollouts or 0)) < step:
        found = found.model_copy(update={"max_rollouts": wanted.max_rollouts})
    if found != wanted:
        raise RunError(f"{run.path}: a finished run of other settings is here; remove it, or choose another --out")


def drop_weights_except(runs: Sequence[LabRun], rates: Mapping[str, Mapping[str, float]]) -> None:
    """Of a sweep: the weights of learning rates that were not chosen. ``rates``: study -> arm -> the chosen one."""
    for run in runs:
        one = run.planned
        if rates.get(one.study, {}).get(one.arm, one.lr) != one.lr:
            shutil.rmtree(RunDirectory(run.path).checkpoints, ignore_errors=True)


def _forget_without_weights(planned: Sequence[Planned], root: Path, say: Say) -> None:
    """A finished run whose weights are to be measured, but went (a sweep had not chosen it), is trained once more."""
    for one in planned:
        run = LabRun(one, root / one.folder)
        kept = one.arm in find_study(one.study).keep
        if kept and run.finished and newest_checkpoint(RunDirectory(run.path).checkpoints) is None:
            say(f"{one.label}: its weights are gone; it is trained again")
            shutil.rmtree(run.path)


def _drop_weights(run: LabRun) -> None:
    """What no measurement will ask for: of a kept run all but its last weights, of any other every checkpoint."""
    if not run.finished:
        return
    checkpoints = RunDirectory(run.path).checkpoints
    if run.planned.arm not in find_study(run.planned.study).keep:
        shutil.rmtree(checkpoints, ignore_errors=True)
    else:
        keep_last_weights(checkpoints)


def _measure(
    jobs: Sequence[Job], folder: Path, clock: Clock, say: Say
) -> tuple[dict[str, Mapping[str, Any]], list[str]]:
    found: dict[str, Mapping[str, Any]] = {}
    left: list[str] = []
    for job in jobs:
        path, about = folder / f"{job.name}.json", [str(p) for p in job.paths]
        stored = read_json(path) if path.exists() else {}
        stamps = [_stamp(p) for p in job.paths]
        if stored.get("runs") == about and stored.get("stamps", stamps) == stamps:
            found[job.name] = stored["found"]
        elif left or not clock.has(job.minutes):
            left.append(f"measuring {job.name}")
        else:
            say(f"measuring {job.name}: about {job.minutes:.0f} min")
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json(path, {"runs": about, "stamps": stamps, "found": dict(job.call())})
            found[job.name] = read_json(path)["found"]
    return found, left


def _stamp(path: Path) -> str:
    """Tells a run from one that was trained again in the same folder."""
    return hashlib.sha256(RunDirectory(path).summary_path.read_bytes()).hexdigest()[:16]
