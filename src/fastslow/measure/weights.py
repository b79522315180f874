"""Measurements that load weights: drift, retention and attribution of one or more runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import Any

from fastslow.config import RunConfig
from fastslow.config_io import parse_config
from fastslow.errors import RunError
from fastslow.evaluation.accuracy import measure_accuracy
from fastslow.evaluation.attribution import Attribution, CellValues, ContextName, Weights, attribute, measure_cells
from fastslow.evaluation.drift import Drift, drift_by_problem, drift_ci
from fastslow.evaluation.likelihood import answer_loglik, text_loglik
from fastslow.evaluation.passages import PASSAGES
from fastslow.evaluation.retention import TEXT, Measure, Retained, Snapshot, compare_snapshots, suite_for
from fastslow.evaluation.variance import VarianceReport, groups_from_rows, variance_report
from fastslow.measure.result import Measured, Say, arms_of, as_data, difference, interval, silent
from fastslow.measure.sources import NOTHING, OpenRun, open_run, sample_problems
from fastslow.policy.model import Policy
from fastslow.runs.ledger_query import query_rollouts
from fastslow.seeds import derive_seed
from fastslow.tasks.base import Task
from fastslow.tasks.registry import build_task
from fastslow.types import Context

_SUITE_PROBLEMS = 32
_SUITE_TOKENS = 24
"""Tokens that a reply to a task of the retention suite may take at least: its answers may be longer than the run's."""


def drift_of_runs(
    runs: Sequence[str | Path],
    n: int = 4,
    problems: int | None = None,
    released: bool = False,
    overrides: Sequence[str] = (),
    say: Say = silent,
) -> Measured:
    """KL(π_train ‖ π_base) on held-out prompts, with and without the evolved context; ``n`` replies a problem.

    ``released``: π_base is the model as released, also where the run started from other weights.
    """
    rows, data = [], []
    for arm in arms_of(runs):
        found: dict[str, list[Drift]] = {}
        for run in (open_run(r.path, overrides) for r in arm.runs):
            say(f"{run.path}: drift at weights step {run.weights_step}")
            for name, drift in _drifts(run, n, problems, released).items():
                found.setdefault(name, []).append(drift)
        for name, drifts in found.items():
            mean, ci95 = fmean(d.mean for d in drifts), drift_ci(drifts)
            count, tokens = len(drifts[0].per_problem), sum(d.tokens for d in drifts)
            rows.append([arm.label, name, str(count), str(n), str(len(drifts)), f"{mean:.4f}", interval(ci95, 4)])
            data.append({"arm": arm.label, "context": name, "problems": count, "n": n, "seeds": len(drifts),
                         "tokens": tokens, "kl": mean, "ci95": list(ci95)})  # fmt: skip
    header = ["arm", "context", "problems", "n", "seeds", "KL, nats a token", "95% interval"]
    base = "the model as released" if released else "the weights that training started from"
    return Measured(f"Drift from {base}", header, rows, {"base": base, "drift": data})


def _drifts(run: OpenRun, n: int, problems: int | None, released: bool) -> dict[str, Drift]:
    task = build_task(run.config.task)
    policy = run.trained_policy()
    policy.attach_base(run.base_policy(released).causal_lm)
    contexts = {"seed": task.seed_context, "evolved": run.population.best}
    if not task.seed_context.is_empty:
        contexts["none"] = NOTHING
    seed = derive_seed(run.config.seed, "drift")
    held_out = task.val[:problems]
    return {
        name: drift_by_problem(policy, sample_problems(policy, run.config, task, held_out, [context], n, seed))
        for name, context in contexts.items()
    }


def attribution_of_runs(
    runs: Sequence[str | Path],
    n: int = 4,
    problems: int | None = None,
    overrides: Sequence[str] = (),
    say: Say = silent,
) -> Measured:
    """The four cells {base, trained} x {seed, evolved} of each arm, what each channel adds, and where the reward
    variance inside groups comes from."""
    rows, data = [], []
    for arm in arms_of(runs):
        cells: list[CellValues] = []
        for run in (open_run(r.path, overrides) for r in arm.runs):
            say(f"{run.path}: four cells at weights step {run.weights_step}")
            cells.append(_cells(run, n, problems))
        found = attribute(cells)
        variance = variance_of_runs([r.path for r in arm.runs])
        rows += _attribution_rows(arm.label, found, n, variance)
        data.append(_attribution_data(arm.label, found, n, variance))
    header = ["arm", "what", "problems", "n", "seeds", "value", "95% interval"]
    notes = (
        "Effects are differences of accuracies, paired by problem. Rescued: a group has a signal although the rollouts "
        "of each context alone have none; one context with all G rollouts might have had one as well.",
    )
    return Measured("Attribution: weights and context", header, rows, {"attribution": data}, notes)


def variance_of_runs(paths: Sequence[Path]) -> VarianceReport | None:
    """Reward variance inside the groups of the runs' slow phases, from their ledgers; None without a slow step."""
    ledgers = [query_rollouts(p, "phase = 'slow'") for p in paths]
    groups = [groups_from_rows(rows) for rows in ledgers]
    return variance_report(groups) if any(groups) else None


def _cells(run: OpenRun, n: int, problems: int | None) -> CellValues:
    task = build_task(run.config.task)
    contexts: dict[ContextName, Context] = {"seed": task.seed_context, "evolved": run.population.best}
    loaded: dict[Weights, Policy] = {}

    def evaluate(weights: Weights, context: ContextName) -> dict[str, float]:
        if weights not in loaded:
            loaded.clear()  # one set of weights at a time
            loaded[weights] = run.base_policy() if weights == "base" else run.trained_policy()
        policy, seed = loaded[weights], derive_seed(run.config.seed, "attribution")
        rollouts = sample_problems(policy, run.config, task, task.val[:problems], [contexts[context]], n, seed)
        return measure_accuracy(rollouts).per_problem

    return measure_cells(evaluate)


def _attribution_rows(label: str, found: Attribution, n: int, variance: VarianceReport | None) -> list[list[str]]:
    counts = [str(found.problems), str(n), str(found.seeds)]
    rows = []
    for (weights, context), cell in found.cells.items():
        rows.append([label, f"{weights} weights, {context} context", *counts, f"{cell.mean:.3f}", interval(cell.ci95)])
    for name, effect in found.effects.items():
        rows.append([label, name, *counts, *difference(effect)])
    if variance is not None:
        counts = [f"{variance.groups} groups", "", str(found.seeds)]
        share = "" if variance.between_share is None else f"{variance.between_share:.3f}"
        rows += [
            [label, "reward variance in a group", *counts, f"{variance.total:.4f}", ""],
            [label, "  of it between contexts", *counts, share, interval(variance.between_share_ci95)],
            [label, "flat groups", *counts, f"{variance.flat_share:.3f}", interval(variance.flat_share_ci95)],
            [label, "rescued groups", *counts, f"{variance.rescued_share:.3f}", interval(variance.rescued_share_ci95)],
        ]
    return rows


def _attribution_data(label: str, found: Attribution, n: int, variance: VarianceReport | None) -> dict[str, Any]:
    return {
        "arm": label,
        "problems": found.problems,
        "n": n,
        "seeds": found.seeds,
        "cells": {f"{w}/{c}": as_data(e) for (w, c), e in found.cells.items()},
        "effects": {name: as_data(e) for name, e in found.effects.items()},
        "variance": None if variance is None else asdict(variance),
    }


def retention_of_runs(
    runs: Sequence[str | Path],
    tasks: Sequence[str] | None = None,
    n: int = 4,
    problems: int = _SUITE_PROBLEMS,
    released: bool = False,
    overrides: Sequence[str] = (),
    say: Say = silent,
) -> Measured:
    """Accuracy and answer likelihood on Reasoning Gym presets that were never trained, and the likelihood of plain
    English, before and after each run's training, with the empty context."""
    arms = arms_of(runs)
    opened = {arm.label: [open_run(r.path, overrides) for r in arm.runs] for arm in arms}
    trained = [run.config.task.name for members in opened.values() for run in members]
    names = list(tasks) if tasks else suite_for(trained)
    if known := sorted(set(names) & set(trained)):
        raise RunError(f"--tasks: {known[0]} was trained on; retention needs tasks that were not")
    suite = {name: build_task(_suite_config(name, problems).task) for name in names}
    before: dict[str, Snapshot] = {}  # runs that start from the same weights share it
    rows, data = [], []
    for label, members in opened.items():
        starts, ends = [], []
        for run in members:
            settings = (
                None if released else run.config.model.init_from,
                run.config.sampling,
                run.config.slow.truncated,
            )
            key = f"{run.config.model.name} {settings}"
            if key not in before:
                say(f"{run.path}: the suite before training")
                before[key] = _snapshot(run.base_policy(released), run.config, suite, n)
            say(f"{run.path}: the suite at weights step {run.weights_step}")
            starts.append(before[key])
            ends.append(_snapshot(run.trained_policy(), run.config, suite, n))
        found = compare_snapshots(starts, ends)
        rows += [_retention_row(label, r, n) for r in found]
        data += [{"arm": label, **asdict(r)} for r in found]
    header = ["arm", "task", "measure", "problems", "n", "seeds", "before", "after", "difference", "95% interval"]
    notes = (
        "Log-likelihood: nats per token, of gold answers and of plain English. No evolved context, no trained task.",
    )
    return Measured("Retention", header, rows, {"samples": n, "retention": data}, notes)


def _suite_config(name: str, problems: int) -> RunConfig:
    return parse_config({"task": {"name": name, "train_size": 1, "val_size": problems}}, where="--tasks")


def _snapshot(policy: Policy, config: RunConfig, suite: dict[str, Task], n: int) -> Snapshot:
    sampling = config.sampling
    longer = sampling.model_copy(update={"max_new_tokens": max(sampling.max_new_tokens, _SUITE_TOKENS)})
    config = config.model_copy(update={"sampling": longer})
    found: dict[tuple[str, Measure], dict[str, float]] = {}
    for name, task in suite.items():
        rollouts = sample_problems(policy, config, task, task.val, [NOTHING], n, derive_seed(0, "retention"))
        found[name, "accuracy"] = measure_accuracy(rollouts).per_problem
        found[name, "log-likelihood"] = answer_loglik(policy, task.val, NOTHING)
    found[TEXT, "log-likelihood"] = text_loglik(policy, PASSAGES)
    return found


def _retention_row(label: str, r: Retained, n: int) -> list[str]:
    values = [f"{r.before:.3f}", f"{r.after:.3f}", *difference(r.difference)]
    samples = str(n) if r.measure == "accuracy" else ""
    return [label, r.task, r.measure, str(r.n), samples, str(r.seeds), *values]
