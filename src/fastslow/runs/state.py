"""What a run remembers between steps, apart from weights, optimizer and random streams."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, fields
from typing import Any

from fastslow.fast.population import Population
from fastslow.types import Phase, Rollout

PHASES: tuple[Phase, ...] = ("fast", "slow", "evaluation")


def _per_phase() -> dict[str, Any]:
    return dict.fromkeys(PHASES, 0)


def _tokens() -> dict[str, dict[str, int]]:
    return {phase: {"prompt": 0, "completion": 0} for phase in PHASES}


@dataclass(slots=True)
class RunState:
    """``step``: slow steps done (the next batch's number). ``problems``: training problems seen by slow steps.

    ``rollouts``, ``tokens`` and ``seconds`` are counted by phase, the same way for every method. ``measured`` keeps
    the validation accuracy of each context (by id) under the weights of ``measured_step``, so that a resumed run
    repeats no evaluation that an unbroken one would not. ``skipped_steps`` had a NaN or exploding gradient, the last
    ``skipped_in_a_row`` of them without a good one between.
    """

    population: Population
    step: int = 0
    problems: int = 0
    rollouts: dict[str, int] = field(default_factory=_per_phase)
    tokens: dict[str, dict[str, int]] = field(default_factory=_tokens)
    seconds: dict[str, float] = field(default_factory=_per_phase)
    flat_groups: int = 0
    rescued_groups: int = 0
    scorer_errors: int = 0
    skipped_steps: int = 0
    skipped_in_a_row: int = 0
    evaluations: list[dict[str, Any]] = field(default_factory=list)
    measured: dict[str, dict[str, Any]] = field(default_factory=dict)
    measured_step: int = 0

    @property
    def training_rollouts(self) -> int:
        """Fast and slow together: what a comparison of methods holds equal."""
        return self.rollouts["fast"] + self.rollouts["slow"]

    def count(self, phase: Phase, rollouts: Sequence[Rollout]) -> None:
        self.rollouts[phase] += len(rollouts)
        self.tokens[phase]["prompt"] += sum(len(r.prompt_ids) for r in rollouts)
        self.tokens[phase]["completion"] += sum(len(r.completion_ids) for r in rollouts)
        self.scorer_errors += sum(r.error is not None for r in rollouts)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; :meth:`from_dict` reads it back."""
        plain = {f.name: deepcopy(getattr(self, f.name)) for f in fields(self) if f.name != "population"}
        return {**plain, "population": self.population.to_dict()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> RunState:
        return cls(**{**data, "population": Population.from_dict(data["population"])})
