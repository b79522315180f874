"""``fastslow eval``: accuracy of a run's newest weights, or of a model as it is, on a task's validation problems."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fastslow.config import RunConfig
from fastslow.config_io import override_config, parse_config
from fastslow.errors import ConfigError, RunError
from fastslow.evaluation.accuracy import Accuracy, measure_accuracy
from fastslow.fast.population import Population, context_from_dict
from fastslow.policy.loading import load_policy
from fastslow.policy.model import Policy
from fastslow.policy.sampler import build_sampler
from fastslow.rollouts import score_rollout
from fastslow.runs.checkpoint import load_latest
from fastslow.runs.directory import RunDirectory
from fastslow.seeds import derive_seed
from fastslow.tasks.base import Task
from fastslow.tasks.registry import build_task
from fastslow.types import Context, Request


@dataclass(frozen=True, slots=True)
class Evaluation:
    task: str
    context: str
    accuracy: Accuracy


def evaluate_source(
    source: str, task: str | None, context: str, n: int, problems: int | None, overrides: Sequence[str]
) -> Evaluation:
    """Evaluate ``source``, a run folder or a model, with ``n`` samples per validation problem.

    ``context``: ``evolved`` (a run's best, chosen on training problems), ``seed``, ``none``, or a JSON file with a
    context (``{"components": {...}}``, as in a run's ``contexts/``).
    """
    run = RunDirectory(source) if (Path(source) / "config.yaml").is_file() else None
    config = _config(run, source, task, overrides)
    built = build_task(config.task)
    policy = load_policy(config.model)
    population = _load_run(run, policy, config) if run is not None else None
    chosen = _context(context, built, population)
    sampler = build_sampler(policy, config.sampling)
    chosen_problems = built.val[:problems]
    requests = [Request(chosen, p, n, derive_seed(config.seed, "eval", p.id)) for p in chosen_problems]
    rollouts = [
        score_rollout(
            built,
            request,
            i,
            completion,
            phase="evaluation",
            weights_step=policy.weights_step,
            truncated=config.slow.truncated,
        )
        for request, completions in zip(requests, sampler.sample(requests), strict=True)
        for i, completion in enumerate(completions)
    ]
    return Evaluation(built.name, f"{context} ({chosen.id})", measure_accuracy(rollouts, seed=config.seed))


def _config(run: RunDirectory | None, source: str, task: str | None, overrides: Sequence[str]) -> RunConfig:
    if run is not None:
        config = run.load_config()
        extra = [f"task.name={task}"] if task else []
        return override_config(config, [*extra, *overrides])
    if task is None:
        raise ConfigError("--task: needed to evaluate a model, for example --task chain_sum")
    return override_config(parse_config({"model": {"name": source}, "task": task}), overrides)


def _load_run(run: RunDirectory, policy: Policy, config: RunConfig) -> Population:
    """Put the run's newest weights into ``policy``; returns its population."""
    found = load_latest(run.checkpoints)
    if found is None:
        raise RunError(f"{run.path}: no checkpoint yet; let the run reach its first one")
    import torch

    _, tensors, saved = found
    named = policy.trainable()
    with torch.no_grad():
        for name, tensor in tensors.get("weights", {}).items():
            named[name].copy_(tensor)
    policy.weights_step = int(saved["learner"]["updates"])
    return Population.from_dict(saved["state"]["population"])


def _context(name: str, task: Task, population: Population | None) -> Context:
    if name == "none":
        return Context({"instructions": "", "examples": ""}, reason="none")
    if name == "seed" or (name == "evolved" and population is None):
        return task.seed_context
    if name == "evolved":
        assert population is not None
        return population.best
    try:
        data = json.loads(Path(name).read_text(encoding="utf-8"))
        return context_from_dict(data) if "id" in data else Context(data["components"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"--context {name}: not seed, evolved, none or a file with a context ({error})") from None
