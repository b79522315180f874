"""Protocols of the fast weights: who proposes a context (Reflector), who evolves the population (FastOptimizer).

Nothing here or below imports torch: rollouts arrive scored, through the ``evaluate`` callable.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from fastslow.fast.population import Population
from fastslow.types import Context, Problem, Rollout

Evaluate = Callable[[Sequence[tuple[Context, Problem]]], list[Rollout]]
"""Sample and score one rollout per (context, problem) pair, all in one batch, under the current weights."""


@dataclass(frozen=True, slots=True)
class Record:
    """What a reflector reads about one rollout of the context it is asked to improve."""

    problem: Problem
    completion: str
    reward: float
    feedback: str


@dataclass(frozen=True, slots=True)
class FailedTry:
    """A try of a reflector that failed and was repeated, and why; ``seconds`` include the wait after it."""

    tokens: int
    seconds: float
    reason: str


@dataclass(frozen=True, slots=True)
class Proposal:
    """New texts for some components, or None with the reason why there are none. ``tokens`` were spent on it.

    ``prompt_hash`` (:func:`fastslow.fast.reflect.prompt.text_hash`) names the prompt of a reflector that wrote one;
    ``failed`` are its tries before the last. ``calls``, ``tokens`` and ``seconds`` count all tries.
    """

    components: Mapping[str, str] | None
    reason: str
    calls: int = 0
    tokens: int = 0
    seconds: float = 0.0
    prompt_hash: str = ""
    failed: tuple[FailedTry, ...] = ()


@dataclass(frozen=True, slots=True)
class ReflectionCall:
    """One call of a reflector, as the ledger keeps it.

    ``outcome``: ``proposed`` (a context that may be tried), ``refused`` (by a guard), ``failed`` (no usable text) or
    ``retried`` (a try that was repeated). ``context_id``: the context it was asked to improve; ``proposed_id``: the
    context it proposed, if any. ``prompt_hash``: of the prompt, or of all that was read where there is none.
    """

    prompt_hash: str
    tokens: int
    seconds: float
    outcome: str
    reason: str = ""
    reflector: str = ""
    context_id: str = ""
    proposed_id: str | None = None


class Reflector(Protocol):
    """Reads records of a context and proposes new component texts. Never raises for one bad reply."""

    name: str

    def propose(self, context: Context, records: Sequence[Record], components: Sequence[str], seed: int) -> Proposal:
        """Edit the named components of ``context`` in place ("incremental"); keep what works."""
        ...


@dataclass(frozen=True, slots=True)
class FastReport:
    """What one fast phase did: counts for metrics, and every candidate's fate for the lineage.

    ``unproven``: how many of the ``rejected`` got a place after all (:mod:`fastslow.fast.zero_reward`).
    """

    metric_calls: int
    proposals: int
    accepted: int
    rejected: int
    reflection_calls: int = 0
    reflection_tokens: int = 0
    reflection_seconds: float = 0.0
    reasons: Mapping[str, int] = field(default_factory=dict)
    reflections: tuple[ReflectionCall, ...] = ()
    unproven: int = 0


class FastOptimizer(Protocol):
    """Evolves a population under the current weights."""

    def evolve(
        self,
        population: Population,
        problems: Sequence[Problem],
        evaluate: Evaluate,
        budget: int,
        *,
        cycle: int,
        weights_step: int,
        seed: int,
    ) -> tuple[Population, FastReport]:
        """Spend at most ``budget`` metric calls (rollouts) on ``problems``, the lookahead."""
        ...
