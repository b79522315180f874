"""Scores of rollouts: TRL's reward functions behind a fence, a task as a reward function, and feedback in words."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any

from fastslow.tasks.base import Task
from fastslow.trl.problems import INDEX
from fastslow.types import Score

TEXT, CONTEXT = "fst_text", "fst_context"
"""Columns that reward functions get beside the dataset's: the reply without its stop string, and the context's id."""

FeedbackFunc = Callable[..., list[str]]
"""Called as a reward function is (``prompts``, ``completions``, every column), and with ``rewards``; returns what a
person could learn from each rollout. The fast weights read it."""


class Fences:
    """Around plain reward functions: what one raises is kept until all processes can hear of it together, instead of
    leaving the others to wait forever. Reward models pass as they are."""

    def __init__(self) -> None:
        self._error: Exception | None = None

    def around(self, function: Any) -> Any:
        if isinstance(function, str) or not callable(function) or hasattr(function, "parameters"):
            return function
        return self._async(function) if inspect.iscoroutinefunction(function) else self._plain(function)

    def take(self) -> Exception | None:
        """What was raised since the last call."""
        error, self._error = self._error, None
        return error

    def _plain(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def fenced(*, prompts: Sequence[Any], **columns: Any) -> Any:
            try:
                return function(prompts=prompts, **columns)
            except Exception as error:  # a user's code; ends the run on all processes a moment later
                self._error = error
                return [None] * len(prompts)

        return _named(fenced, function)

    def _async(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        async def fenced(*, prompts: Sequence[Any], **columns: Any) -> Any:
            try:
                return await function(prompts=prompts, **columns)
            except Exception as error:  # see above
                self._error = error
                return [None] * len(prompts)

        return fenced


class TaskReward:
    """A task as a reward function of TRL. ``scores`` keeps the feedback of the rollouts scored last."""

    __name__ = "task"

    def __init__(self, task: Task) -> None:
        self.task = task
        self.scores: list[Score] = []

    def __call__(self, *, prompts: Sequence[Any], **columns: Any) -> list[float]:
        self.scores = [
            self.task.score(self.task.train[index], text)
            for index, text in zip(columns[INDEX], columns[TEXT], strict=True)
        ]
        return [score.reward for score in self.scores]


def call_feedback(
    function: FeedbackFunc, rows: Sequence[dict[str, Any]], completions: Sequence[Any], rewards: Sequence[float]
) -> list[str]:
    """Feedback for each row; raises ``ValueError`` where the function returns another number of texts."""
    columns = {key: [row[key] for row in rows] for key in rows[0] if key != "prompt"} if rows else {}
    prompts = [row["prompt"] for row in rows]
    texts = function(prompts=prompts, completions=list(completions), rewards=list(rewards), **columns)
    if len(texts) != len(rows):
        raise ValueError(f"the feedback function returned {len(texts)} texts for {len(rows)} rollouts")
    return [str(text) for text in texts]


def _named(fenced: Callable[..., Any], function: Any) -> Callable[..., Any]:
    fenced.__name__ = getattr(function, "__name__", type(function).__name__)
    return fenced
