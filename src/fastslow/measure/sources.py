"""A run or a model, opened for measuring: its config, its task, its contexts, its weights before and after."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fastslow.config import ModelConfig, RunConfig
from fastslow.config_io import override_config
from fastslow.fast.population import Population
from fastslow.policy.model import Policy
from fastslow.policy.sampler import build_sampler
from fastslow.rollouts import score_rollout
from fastslow.runs.checkpoint import load_checkpoint
from fastslow.runs.directory import RunDirectory
from fastslow.runs.start import find_checkpoint, load_started_policy
from fastslow.seeds import derive_seed
from fastslow.tasks.base import Task
from fastslow.types import Context, Problem, Request, Rollout

NOTHING = Context({"instructions": "", "examples": ""}, reason="none")


@dataclass(frozen=True, slots=True)
class OpenRun:
    """A run at one checkpoint. ``config`` has the overrides; ``weights_step``: optimizer steps taken."""

    path: Path
    checkpoint: Path
    config: RunConfig
    population: Population
    weights_step: int

    def trained_policy(self) -> Policy:
        """The run's weights as one model: adapters, where it trained any, are merged."""
        policy = load_started_policy(_of(self.config.model, str(self.checkpoint)))
        policy.weights_step = self.weights_step
        return policy

    def base_policy(self, released: bool = False) -> Policy:
        """The weights that the run started from, or with ``released`` the model's own, before any training."""
        return load_started_policy(self.base_model(released))

    def base_model(self, released: bool = False) -> ModelConfig:
        return _of(self.config.model, None if released else self.config.model.init_from)

    def mixture(self) -> tuple[Context, ...]:
        """The contexts of the population, each as often as the slow phase uses it."""
        if self.config.population_trains:
            return self.population.in_use(self.config.contexts_in_use)
        return self.population.contexts


def is_run(source: str | Path) -> bool:
    """A run's folder, or a checkpoint inside one."""
    path = Path(source)
    inside = (path / "manifest.json").is_file() and RunDirectory(path.parent.parent).config_path.is_file()
    return inside or RunDirectory(path).config_path.is_file()


def open_run(source: str | Path, overrides: Sequence[str] = ()) -> OpenRun:
    """A run's newest checkpoint, or the checkpoint given; raises :class:`~fastslow.errors.RunError` with one line."""
    checkpoint = find_checkpoint(source)
    run = RunDirectory(checkpoint.parent.parent)
    config = override_config(run.load_config(), overrides)
    _, saved = load_checkpoint(checkpoint, only=())
    population = Population.from_dict(saved["state"]["population"])
    return OpenRun(run.path, checkpoint, config, population, int(saved["learner"].get("updates", 0)))


def sample_problems(
    policy: Policy,
    config: RunConfig,
    task: Task,
    problems: Sequence[Problem],
    contexts: Sequence[Context],
    n: int,
    seed: int,
) -> list[Rollout]:
    """``n`` scored rollouts of every problem under each of ``contexts``; the same ``seed``, the same random streams
    whatever the weights and the context, so that comparisons are paired."""
    sampler = build_sampler(policy, config.sampling)
    requests = [
        Request(context, p, n, derive_seed(seed, "eval", p.id, *([k] if k else [])))
        for k, context in enumerate(contexts)
        for p in problems
    ]
    return [
        score_rollout(
            task,
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


def _of(model: ModelConfig, init_from: str | None) -> ModelConfig:
    """The model with other starting weights, and without new adapters on top."""
    return model.model_copy(update={"init_from": init_from, "lora": None})
