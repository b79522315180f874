"""The Task protocol: where problems and scores come from. Never imports torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from fastslow.types import Context, Problem, Score


@runtime_checkable
class Task(Protocol):
    """A named source of problems with a scorer.

    ``train`` and ``val`` are disjoint and fixed by the task's seed. ``score`` raises for no single
    reply: see :class:`fastslow.tasks.scoring.SafeTask`, which every built task is wrapped in.
    """

    name: str
    train: Sequence[Problem]
    val: Sequence[Problem]
    seed_context: Context

    def score(self, problem: Problem, completion: str) -> Score:
        """Reward (higher is better, 1.0 = solved) and feedback that a person could learn from."""
        ...
