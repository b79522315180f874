"""From a task's config to a task: one registry line per type."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from fastslow.config import FileTask, ReasoningGymTask, TaskConfig
from fastslow.tasks.base import Task
from fastslow.tasks.scoring import SafeTask, validate_task


def _reasoning_gym(config: ReasoningGymTask) -> Task:
    from fastslow.tasks.reasoning_gym import ReasoningGymSource  # takes seconds to import

    return ReasoningGymSource(config)


def _file(config: FileTask) -> Task:
    from fastslow.tasks.files import FileSource

    return FileSource(config)


_BUILDERS: dict[type, Callable[[Any], Task]] = {
    ReasoningGymTask: _reasoning_gym,
    FileTask: _file,
}


def build_task(config: TaskConfig, check: bool = True) -> SafeTask:
    """Build, wrap and check a task; raises TaskError with one line that names the field and the mend.

    ``check`` scores the gold answers of a sample, each of which must give 1.
    """
    task = _BUILDERS[type(config)](config)
    if config.convention is not None:
        from fastslow.tasks.conventions import ConventionTask, make_convention

        task = ConventionTask(task, make_convention(config.convention, [p.answer for p in (*task.train, *task.val)]))
    safe = SafeTask(task, config.score_timeout, config.reward_range)
    if check and getattr(config, "check_gold", True):
        validate_task(safe)
    return safe


@dataclass(frozen=True, slots=True)
class TaskInfo:
    """One line of ``fastslow tasks``: a dataset with one example of its small size (or default, where none is set)."""

    name: str
    question: str
    answer: str | None
    has_small: bool


def list_tasks(search: str = "") -> list[TaskInfo]:
    """Reasoning Gym datasets whose name contains ``search``, with one example each; all of them take some seconds.

    Files are named by their path instead.
    """
    return list(_task_infos(search))


def _task_infos(search: str) -> Iterator[TaskInfo]:
    from fastslow.tasks.presets import small_preset
    from fastslow.tasks.rg_datasets import dataset_names, example_entry

    for name in (n for n in dataset_names() if search in n):
        if name == "composite":
            text, answer = "(a mixture: set task.config.datasets to a list of {name, weight, config})", None
        else:
            entry = example_entry(name)
            text, answer = entry["question"].strip(), entry["answer"]
        yield TaskInfo(name, text, answer, bool(small_preset(name)))
