"""Plasticity of runs: fresh RL on a second task from the base model and from each run's weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fastslow.config import RunConfig
from fastslow.config_io import load_config, override_config, parse_config
from fastslow.engines.local import train
from fastslow.errors import ConfigError, RunError
from fastslow.evaluation.curves import Curves, curves_from_lines
from fastslow.evaluation.plasticity import BASE, Plasticity, compare_plasticity
from fastslow.measure.result import Measured, Say, arms_of, as_data, difference, interval, silent
from fastslow.measure.sources import OpenRun, open_run
from fastslow.runs.checkpoint import keep_last_weights
from fastslow.runs.directory import RunDirectory
from fastslow.runs.metrics import read_metrics

Train = Callable[..., Any]
"""``train(config, folder, resume=...)``, as engines have it."""


def plasticity_of_runs(
    runs: Sequence[str | Path],
    task: str,
    out: str | Path,
    steps: int | None = None,
    seeds: int = 1,
    overrides: Sequence[str] = (),
    say: Say = silent,
    train: Train = train,
) -> Measured:
    """Train ``seeds`` probes from every run, and as many from the base model as from the arm with most runs.

    Each is a run of its own under ``out``; the i-th probe of an arm has seed i, and is compared with base's i-th. All
    have one config but for ``model.init_from`` and the seed: the first run's, with ``method: rl``, the second ``task``
    (a Reasoning Gym name, or a config file whose task is taken), ``steps`` and ``overrides``. A probe that is finished
    is read, not repeated; one that was interrupted goes on.
    """
    arms = arms_of(runs)
    opened = {arm.label: [open_run(r.path) for r in arm.runs] for arm in arms}
    first = next(iter(opened.values()))[0]
    config = probe_config(first.config, task, steps, overrides)
    _check_models(config, [run for members in opened.values() for run in members])
    starts: dict[str, list[str | None]] = {BASE: [None] * max(map(len, opened.values()))}
    starts |= {label: [str(run.checkpoint) for run in members] for label, members in opened.items()}
    curves = {label: _probe(label, sources, config, Path(out), seeds, say, train) for label, sources in starts.items()}
    found = compare_plasticity(curves)
    header = ["start", "seeds", "problems", "first", "final, 95% interval", "over base, 95% interval",
              "area, 95% interval", "over base, 95% interval"]  # fmt: skip
    data = {
        "task": task,
        "steps": config.steps,
        "probes": [_data(p, curves[p.label]) for p in found],
    }
    notes = (
        f"Fresh RL on {task}, {config.steps} steps, from each start; curves in {out}. Area: mean accuracy over the "
        "budget. Over base: paired by problem; below 0 a start learns worse than the base model.",
    )
    return Measured("Plasticity", header, [_row(p) for p in found], data, notes)


def probe_config(config: RunConfig, task: str, steps: int | None, overrides: Sequence[str]) -> RunConfig:
    """``config`` as a fresh RL run on ``task``; the whole budget is in ``steps``."""
    path = Path(task)
    chosen = load_config(path).task.model_dump(mode="json") if path.suffix in (".yaml", ".yml") else task
    data = config.model_dump(mode="json")
    data |= {"task": chosen, "schedule": None, "method": "rl", "name": "probe", "max_rollouts": None}
    data["checkpoint_every"] = 0
    data["model"]["init_from"] = None
    data.pop("engine", None)  # probes are trained here, on the local engine
    if steps is not None:
        data["steps"] = steps
    probe = override_config(parse_config(data, where="--task"), overrides)
    if probe.method != "rl" or probe.model.init_from is not None:
        raise ConfigError("--set: a probe is plain RL from each start; method and model.init_from can't be set")
    return probe


def _check_models(config: RunConfig, runs: Sequence[OpenRun]) -> None:
    for run in runs:
        if (run.config.model.name, run.config.model.revision) != (config.model.name, config.model.revision):
            raise RunError(f"{run.path}: trained {run.config.model.name}, others {config.model.name}; probe one model")
        if run.config.task.name and run.config.task.name == config.task.name:
            raise RunError(f"--task: {run.path} was trained on {config.task.name}; choose a task that is new to it")


def _probe(
    label: str,
    sources: Sequence[str | None],
    config: RunConfig,
    out: Path,
    seeds: int,
    say: Say,
    train: Train,
) -> Curves:
    lines = []
    for seed in range(seeds * len(sources)):
        number = seed % len(sources)
        source = sources[number]
        model = config.model.model_copy(update={"init_from": source})
        one = config.model_copy(update={"model": model, "seed": seed})
        run = number if source is not None and len(sources) > 1 else None
        lines.append(_finished(one, out / _folder(label, run, seed), say, train))
    try:
        return curves_from_lines(label, lines, "seed_context")
    except ValueError as error:
        raise RunError(f"{out}: {error}; remove the probes there, or choose another --out") from None


def _finished(config: RunConfig, folder: Path, say: Say, train: Train) -> list[dict[str, Any]]:
    """The metrics of the probe, run now unless it is there already."""
    run = RunDirectory(folder)
    if run.summary_path.exists():
        if run.load_config() != config:
            raise RunError(f"{folder}: a probe of another config is here; remove it, or choose another --out")
    else:
        say(f"{folder}: {config.steps} steps of RL on {config.task.name}")
        train(config, folder, resume=run.config_path.exists())
        keep_last_weights(run.checkpoints)
    return read_metrics(run.metrics_path)


def _folder(label: str, number: int | None, seed: int) -> str:
    plain = "".join(c if c.isalnum() else "-" for c in label.lower()).strip("-")
    return f"{plain}{'' if number is None else f'-run{number}'}-seed{seed}"


def _row(p: Plasticity) -> list[str]:
    cells = [f"{p.final.mean:.3f} {interval(p.final.ci95)}", " ".join(difference(p.final_minus_base)).strip()]
    cells += [f"{p.area.mean:.3f} {interval(p.area.ci95)}", " ".join(difference(p.area_minus_base)).strip()]
    return [p.label, str(p.seeds), str(p.problems), f"{p.initial.mean:.3f}", *cells]


def _data(p: Plasticity, curves: Curves) -> dict[str, Any]:
    named = {k: as_data(getattr(p, k)) for k in ("initial", "final", "area", "final_minus_base", "area_minus_base")}
    accuracy = curves.accuracy_SP.tolist()
    cost = {"steps": list(curves.steps), "rollouts": curves.rollouts_SP.tolist(), "accuracy": accuracy}
    return {**asdict(p), **named, "curves": cost}
