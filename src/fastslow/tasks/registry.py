"""From a task's config to a task: one registry line per type."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastslow.config import ReasoningGymTask, TaskConfig
from fastslow.tasks.base import Task
from fastslow.tasks.scoring import SafeTask, validate_task


def _reasoning_gym(config: ReasoningGymTask) -> Task:
    from fastslow.tasks.reasoning_gym import ReasoningGymSource  # takes seconds to import

    return ReasoningGymSource(config)


_BUILDERS: dict[type, Callable[[Any], Task]] = {
    ReasoningGymTask: _reasoning_gym,
}


def build_task(config: TaskConfig, check: bool = True) -> SafeTask:
    """Build, wrap and check a task; raises TaskError with one line that names the field and the mend.

    ``check`` scores the gold answers of a sample, each of which must give 1.
    """
    task = _BUILDERS[type(config)](config)
    if config.convention is not None:
        from fastslow.tasks.conventions import ConventionTask, make_convention

        task = ConventionTask(task, make_convention(config.convention, [p.answer for p in (*task.train, *task.val)]))
    safe = SafeTask(task, timeout=config.score_timeout)
    if check and getattr(config, "check_gold", True):
        validate_task(safe)
    return safe
