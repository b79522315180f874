"""Several tasks in one run, one after the other: problems that can't be mixed up, and who may learn from which."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from fastslow.config import RunConfig, TaskConfig
from fastslow.errors import TaskError
from fastslow.tasks.base import Task
from fastslow.tasks.registry import build_task
from fastslow.tasks.scoring import SafeTask
from fastslow.types import Context, Problem, Score


@dataclass(frozen=True, slots=True)
class StageTask:
    """A stage as the loop sees it: slow steps ``start`` to ``end``, the last not included.

    ``number`` is its place in the schedule and ``task`` that of its task among the different ones, from 0; a task that
    comes back has the number, the name and the problems that it had. ``end`` is None for the last stage: the run's own
    end may still move.
    """

    number: int
    name: str
    task: int
    start: int
    end: int | None
    train: Sequence[Problem]
    val: Sequence[Problem]


def stages_of(task: Task) -> tuple[StageTask, ...]:
    """The stages of a scheduled task; any other task is one stage without an end."""
    if isinstance(task, ScheduledTask):
        return task.stages
    return (StageTask(0, task.name, 0, 0, None, task.train, task.val),)


def stage_at(stages: Sequence[StageTask], step: int) -> StageTask:
    """The stage of slow step ``step``."""
    return next(s for s in stages if s.end is None or step < s.end)


def build_run_task(config: RunConfig, check: bool = True) -> SafeTask | ScheduledTask:
    """The task of a run, or the tasks of its schedule; raises TaskError as :func:`build_task` does."""
    if not config.schedule:
        return build_task(config.task, check)
    tasks = config.tasks
    built = [build_task(task, check) for task in tasks]
    plan = [(tasks.index(stage.task), stage.steps) for stage in config.schedule]
    return ScheduledTask(built, task_names(tasks), plan)


def task_names(tasks: Sequence[TaskConfig]) -> list[str]:
    """A name for each of a run's different tasks: its own, with its convention, and a number where two are alike."""
    found: Counter[str] = Counter()
    names = []
    for task in tasks:
        name = task.name or getattr(task, "path", "task")
        name = f"{name} ({task.convention.kind})" if task.convention else name
        found[name] += 1
        names.append(name if found[name] == 1 else f"{name} #{found[name]}")
    return names


class ScheduledTask:
    """The :class:`~fastslow.tasks.base.Task` protocol over all tasks of a schedule.

    Problem ids of every task but the first get the task's number in front, so that the same dataset under another
    convention has ids of its own. A training problem whose question is a validation problem of any task is left out:
    else a context could hold, and the weights could see, what another task is measured on.
    """

    def __init__(self, tasks: Sequence[SafeTask], names: Sequence[str], plan: Sequence[tuple[int, int]]) -> None:
        """``plan``: (place in ``tasks``, slow steps) of each stage. Raises TaskError where nothing is left to train."""
        self.tasks, self.names = tuple(tasks), tuple(names)
        self.name = " -> ".join(names[task] for task, _ in plan)
        self.seed_context: Context = tasks[0].seed_context
        self._source: dict[str, tuple[SafeTask, Problem]] = {}
        held_out = {_question(p) for task in tasks for p in task.val}
        notes: list[str] = []
        train, val = [], []
        for number, task in enumerate(tasks):
            kept = [p for p in task.train if _question(p) not in held_out]
            if not kept:
                raise TaskError(
                    f"schedule: every training problem of {names[number]} is a validation problem of another stage; "
                    "give the stages of one dataset the same seed, train_size and val_size"
                )
            if len(kept) < len(task.train):
                dropped = len(task.train) - len(kept)
                notes.append(f"{names[number]}: {dropped} training problems are validation problems of another stage")
            train.append(self._own(number, task, kept))
            val.append(self._own(number, task, task.val))
            notes += task.notes
        self.train = tuple(p for part in train for p in part)
        self.val = tuple(p for part in val for p in part)
        self.notes = tuple(notes)
        ends = [sum(steps for _, steps in plan[: i + 1]) for i in range(len(plan))]
        self.stages = tuple(
            StageTask(
                i, names[task], task, end - steps, end if i + 1 < len(plan) else None, train[task], val[task]
            )
            for i, ((task, steps), end) in enumerate(zip(plan, ends, strict=True))
        )  # fmt: skip

    @property
    def errors(self) -> Counter[str]:
        """Failures of all scorers, by message."""
        return sum((task.errors for task in self.tasks), Counter())

    def score(self, problem: Problem, completion: str) -> Score:
        """The score by the problem's own task."""
        task, original = self._source[problem.id]
        return task.score(original, completion)

    def _own(self, number: int, task: SafeTask, problems: Sequence[Problem]) -> tuple[Problem, ...]:
        own = tuple(replace(p, id=f"{number + 1}/{p.id}") if number else p for p in problems)
        for mine, original in zip(own, problems, strict=True):
            if mine.id in self._source:
                raise TaskError(f"schedule: problem id {mine.id!r} stands for two problems; rename one in the data")
            self._source[mine.id] = (task, original)
        return own


def _question(problem: Problem) -> tuple[str, ...]:
    return (*(str(m["content"]) for m in problem.messages), problem.text)
