"""``fastslow eval``: accuracy of a run's newest weights, or of a model as it is, on a task's validation problems."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fastslow.config import RunConfig
from fastslow.config_io import override_config, parse_config
from fastslow.errors import ConfigError
from fastslow.evaluation.accuracy import Accuracy, measure_accuracy
from fastslow.evaluation.drift import Drift, drift_by_problem
from fastslow.fast.population import context_from_dict
from fastslow.measure.sources import NOTHING, OpenRun, is_run, open_run, sample_problems
from fastslow.runs.start import load_started_policy
from fastslow.tasks.base import Task
from fastslow.tasks.registry import build_task
from fastslow.types import Context

POPULATION = "population"


@dataclass(frozen=True, slots=True)
class Evaluation:
    """``n``: samples per problem, over all contexts; ``contexts``: how many of them took part. ``drift``: KL to the
    weights before training on the same replies, where asked for."""

    task: str
    context: str
    accuracy: Accuracy
    n: int
    contexts: int = 1
    drift: Drift | None = None


def evaluate_source(
    source: str,
    task: str | None,
    context: str,
    n: int,
    problems: int | None,
    overrides: Sequence[str],
    drift: bool = False,
) -> Evaluation:
    """Evaluate ``source``, a run folder, a checkpoint of a run or a model, with ``n`` samples per validation problem.

    ``context``: ``evolved`` (a run's best, chosen on training problems), ``seed``, ``none``, ``population`` (each of
    the K contexts on its share of the samples, ``n`` rounded up to a multiple of K), or a JSON file with a context
    (``{"components": {...}}``, as in a run's ``contexts/``).
    """
    named = [f"task.name={task}"] if task else []
    run = open_run(source, [*named, *overrides]) if is_run(source) else None
    if run is None and drift:
        raise ConfigError("--drift: needs a run; a model as it is has not moved")
    config = run.config if run is not None else _model_config(source, task, overrides)
    built = build_task(config.task)
    policy = run.trained_policy() if run is not None else load_started_policy(config.model)
    chosen = _contexts(context, built, run)
    share = -(-n // len(chosen))
    rollouts = sample_problems(policy, config, built, built.val[:problems], chosen, share, config.seed)
    moved = None
    if drift and run is not None:
        policy.attach_base(run.base_policy().causal_lm)
        moved = drift_by_problem(policy, rollouts)
    name = f"{context} ({chosen[0].id})" if context != POPULATION else f"{context} ({len(chosen)} contexts)"
    accuracy = measure_accuracy(rollouts, seed=config.seed)
    return Evaluation(built.name, name, accuracy, share * len(chosen), len(chosen), moved)


def _model_config(source: str, task: str | None, overrides: Sequence[str]) -> RunConfig:
    if task is None:
        raise ConfigError("--task: needed to evaluate a model, for example --task chain_sum")
    return override_config(parse_config({"model": {"name": source}, "task": task}), overrides)


def _contexts(name: str, task: Task, run: OpenRun | None) -> tuple[Context, ...]:
    if name == "none":
        return (NOTHING,)
    if name == "seed" or (name in ("evolved", POPULATION) and run is None):
        return (task.seed_context,)
    if name == "evolved":
        assert run is not None
        return (run.population.best,)
    if name == POPULATION:
        assert run is not None
        return run.mixture()
    try:
        data = json.loads(Path(name).read_text(encoding="utf-8"))
        return (context_from_dict(data) if "id" in data else Context(data["components"]),)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"--context {name}: not seed, evolved, population, none or a file with a context ({error})"
        ) from None
