"""Runs read for a report: grouped into arms (one method and config, several seeds), with intervals over seeds."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

from fastslow.config import RunConfig
from fastslow.errors import RunError
from fastslow.evaluation.intervals import Interval, bootstrap_ci, hierarchical_ci
from fastslow.runs.directory import RunDirectory, flatten
from fastslow.runs.metrics import read_metrics
from fastslow.runs.summary import task_title

Which = Literal["evolved_context", "seed_context"]

_ORDER = {"fst": 0, "rl": 1, "gepa": 2, "fst-distill": 3}
_NAMES = {"fst": "FST", "rl": "RL", "gepa": "GEPA", "fst-distill": "FST-distill"}
_NEVER_AN_ARM = {
    *("seed", "name", "method", "task.seed", "checkpoint_every", "keep_checkpoints"),
    *("steps", "max_rollouts"),
    *("model.device", "model.threads", "sampling.batch_size", "slow.token_budget"),
}
"""Keys in which the runs of one arm may differ: seeds, names, and what changes speed but not learning."""


@dataclass(frozen=True)
class Run:
    """One run as a report reads it; ``finished`` when it has written its summary."""

    path: Path
    config: RunConfig
    lines: tuple[Mapping[str, Any], ...]
    finished: bool

    @cached_property
    def evaluations(self) -> tuple[Mapping[str, Any], ...]:
        return tuple(line for line in self.lines if line["kind"] == "evaluation")


@dataclass(frozen=True)
class Point:
    """An arm at one evaluation: means over seeds. ``rollouts``: fast + slow; ``ci95``: over seeds and problems."""

    step: int
    rollouts: float
    accuracy: float
    ci95: Interval
    majority_share: float | None


@dataclass(frozen=True)
class Arm:
    """Runs that differ in their seeds alone."""

    label: str
    runs: tuple[Run, ...]

    @property
    def method(self) -> str:
        return self.runs[0].config.method

    @property
    def finished(self) -> bool:
        return all(run.finished for run in self.runs)

    @property
    def skipped_steps(self) -> int:
        """Updates left out for their gradient, over all runs."""
        return sum(bool(line.get("skipped_steps")) for run in self.runs for line in run.lines)

    def final(self, which: Which) -> tuple[float, Interval]:
        """Accuracy at every run's last evaluation: mean over seeds, and its 95% interval."""
        return mean_accuracy([run.evaluations[-1] for run in self.runs], which)

    def mean_final(self, key: Literal["rollouts", "seconds"]) -> dict[str, float]:
        """Mean over seeds of the counts at the last evaluation, by phase."""
        found = [run.evaluations[-1].get(key) or {} for run in self.runs]
        return {phase: fmean(f.get(phase) or 0 for f in found) for phase in ("fast", "slow", "evaluation")}

    def final_majority_share(self) -> float | None:
        return _mean_majority([run.evaluations[-1] for run in self.runs])

    def curve(self, which: Which = "evolved_context") -> list[Point]:
        """One point for every step at which all runs of the arm were evaluated, so that no seed comes and goes."""
        by_step = [{line["step"]: line for line in run.evaluations} for run in self.runs]
        points = []
        for step in sorted(set(by_step[0]).intersection(*by_step[1:])):
            lines = [lines_of_run[step] for lines_of_run in by_step]
            accuracy, ci95 = mean_accuracy(lines, which)
            rollouts = fmean(line["rollouts"]["fast"] + line["rollouts"]["slow"] for line in lines)
            points.append(Point(step, rollouts, accuracy, ci95, _mean_majority(lines)))
        return points


def load_run(path: str | Path) -> Run:
    """Read a run's folder, finished or not; raises :class:`RunError` where it has no evaluation yet."""
    folder = RunDirectory(path)
    config = folder.load_config()
    run = Run(folder.path, config, tuple(read_metrics(folder.metrics_path)), folder.summary_path.exists())
    if not run.evaluations:
        raise RunError(f"{folder.path}: no evaluation yet; wait for the first one, or leave this run out")
    return run


def load_arms(paths: Sequence[str | Path]) -> list[Arm]:
    """Read runs and group them: FST first, then RL, GEPA and others. A run given twice counts once."""
    if not paths:
        raise RunError("nothing to compare; give the folders of one or more runs")
    runs = [load_run(path) for path in {Path(path).resolve(): path for path in paths}.values()]
    labels = _labels(runs)
    grouped: dict[str, list[Run]] = {}
    for run, label in zip(runs, labels, strict=True):
        grouped.setdefault(label, []).append(run)
    arms = [Arm(label, tuple(members)) for label, members in grouped.items()]
    return sorted(arms, key=lambda arm: _ORDER.get(arm.method, len(_ORDER)))


def subject(arms: Sequence[Arm]) -> str:
    """What all arms have in common: task and model, as far as they do."""
    configs = [run.config for arm in arms for run in arm.runs]
    tasks, models = {_task_name(c) for c in configs}, {c.model.name for c in configs}
    return " · ".join(next(iter(names)) for names in (tasks, models) if len(names) == 1)


def mean_accuracy(lines: Sequence[Mapping[str, Any]], which: Which) -> tuple[float, Interval]:
    """Mean and 95% interval over runs of one ``evaluation`` line each.

    From per-problem results where all lines have them; else from the stored interval (one run) or the runs' means.
    A run that measured only its seed context (RL) has that as its evolved context too.
    """
    accuracies = [line["accuracy"] for line in lines]
    means = [a["seed_context"] if a.get(which) is None else a[which] for a in accuracies]
    problems = [(line.get("per_problem") or {}) for line in lines]
    values = [p.get(which) or p.get("seed_context") for p in problems]
    if all(values):
        return fmean(means), hierarchical_ci(values)
    stored = accuracies[0].get("ci95") or {}
    if len(lines) == 1 and (found := stored.get(which) or stored.get("seed_context")):
        return means[0], (found[0], found[1])
    return fmean(means), bootstrap_ci(means)


def _mean_majority(lines: Sequence[Mapping[str, Any]]) -> float | None:
    shares = [line.get("majority_answer_share") for line in lines]
    return fmean(shares) if None not in shares else None


def _labels(runs: Sequence[Run]) -> list[str]:
    """The method's name, and the settings in which runs of that method differ."""
    flat = [flatten(run.config.model_dump(mode="json")) for run in runs]
    several_tasks = len({_task_name(run.config) for run in runs}) > 1
    several_models = len({run.config.model.name for run in runs}) > 1
    labels = []
    for run, own in zip(runs, flat, strict=True):
        peers = [f for other, f in zip(runs, flat, strict=True) if other.config.method == run.config.method]
        differing = [k for k in {k: 0 for f in peers for k in f} if len({_key(f.get(k)) for f in peers}) > 1]
        parts = [_NAMES.get(run.config.method, run.config.method)]
        parts += [_task_name(run.config)] if several_tasks else []
        parts += [run.config.model.name] if several_models else []
        hidden = {*_NEVER_AN_ARM, "model.name"} | {k for k in differing if several_tasks and k.startswith("task.")}
        parts += [f"{k.rpartition('.')[2]} {own.get(k)}" for k in differing if k not in hidden]
        labels.append(", ".join(parts))
    return labels


def _key(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def _task_name(config: RunConfig) -> str:
    if config.schedule:
        return task_title(config)
    task = config.task
    name = task.name or Path(getattr(task, "path", "task")).stem
    return f"{name} ({task.convention.kind})" if task.convention else name
