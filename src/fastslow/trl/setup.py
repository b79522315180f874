"""What the trainer is built from: checks, prompts, the settings of the fast phase and the reflector."""

from __future__ import annotations

import json
from typing import Any

from datasets import Dataset
from pydantic import BaseModel, ValidationError

from fastslow.config import FastConfig, PromptConfig
from fastslow.errors import ConfigError
from fastslow.fast.base import Reflector
from fastslow.fast.reflect import build_reflector
from fastslow.fast.reflect.policy import Generate
from fastslow.tasks.base import Task
from fastslow.trl.config import FSTConfig
from fastslow.trl.problems import Problems, schedule, task_dataset

ReflectorLike = Reflector | BaseModel | dict[str, Any] | str | None


def refuse_unsupported(arguments: dict[str, Any]) -> None:
    """Several turns, tools and other rollout hooks would bypass the contexts."""
    for name in ("rollout_func", "tools", "environment_factory"):
        if arguments.get(name):
            raise ConfigError(f"{name}: FSTTrainer samples by itself, one turn per rollout; leave it out")


def check_dataset(dataset: Any, task: Task | None) -> Dataset:
    """The dataset of training problems: the one given, or the task's."""
    if dataset is None and task is None:
        raise ConfigError("train_dataset or task: one of them is needed")
    if dataset is not None and task is not None:
        raise ConfigError("train_dataset and task: give one of them; a task brings its own problems")
    if task is not None:
        return task_dataset(task)
    if not isinstance(dataset, Dataset):
        raise ConfigError(
            "train_dataset: must be a datasets.Dataset, not a stream: the fast phase looks ahead at the next problems"
        )
    return dataset


def plan_batches(args: FSTConfig, problems: Problems) -> list[int]:
    """Problems of every batch, in order, to the end of the last cycle, whose fast phase looks ahead past the run's end
    as if the run were to go on. Fixes ``args.max_steps`` where epochs are given."""
    per_batch, steps = args.problems_per_batch, args.steps_per_batch
    if args.max_steps > 0:
        batches = -(-args.max_steps // steps)
    else:
        batches = max(1, int(args.num_train_epochs * (len(problems) // max(1, per_batch))))
        args.max_steps = batches * steps
    batches = -(-batches // args.fast_every) * args.fast_every
    seed = args.seed if args.data_seed is None else args.data_seed
    order = schedule(len(problems), per_batch, batches, seed, args.shuffle_dataset)
    args.shuffle_dataset = False  # the order above is the run's; TRL's sampler must not shuffle it once more
    return order


def rows_to_train(args: FSTConfig) -> int:
    """Problems that the run's own batches take; what the last cycle looks ahead at beyond them is not trained on."""
    return -(-args.max_steps // args.steps_per_batch) * args.problems_per_batch


def prompt_config(problems: Problems, given: PromptConfig | None) -> PromptConfig:
    """Chat prompts stay chats and text stays text; where prompts bring a system message, contexts leave it alone."""
    config = given or PromptConfig()
    if config.style == "auto" and problems.task is None:
        config = config.model_copy(update={"style": "chat" if problems.are_chats else "text"})
    if config.instructions == "auto" and problems.has_system_turns:
        config = config.model_copy(update={"instructions": "user"})
    return config


def fast_config(args: FSTConfig, reflector: ReflectorLike) -> FastConfig:
    """``num_contexts``, ``fast_every``, ``fast_budget`` and ``fast_options`` as the settings of a fast phase."""
    options = json.loads(args.fast_options) if isinstance(args.fast_options, str) else args.fast_options or {}
    data = {"population": args.num_contexts, "every": args.fast_every, "budget": args.fast_budget, **options}
    if isinstance(reflector, BaseModel):
        data["reflector"] = reflector.model_dump()
    elif isinstance(reflector, (dict, str)):
        data["reflector"] = reflector
    try:
        return FastConfig.model_validate(data)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"])
        raise ConfigError(f"fast_options or reflector: {field}: {first['msg']}") from None


def make_reflector(reflector: ReflectorLike, config: FastConfig, generate: Generate) -> Reflector | None:
    """The reflector itself, built where its settings or its name were given; None: the contexts stay as they are."""
    if reflector is None or hasattr(reflector, "propose"):
        return reflector  # type: ignore[return-value]
    return build_reflector(config.reflector, generate)
