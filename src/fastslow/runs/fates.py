"""What becomes of every context in a fast phase, from the optimizer's events and the populations around it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fastslow.fast.population import Population, context_from_dict
from fastslow.types import Context

OUTCOMES = ("seed", "rescored", "accepted", "confirmed", "unproven", "rejected", "refused", "dropped", "proposed")
"""seed: the run began with it. rescored: of the old population, or the run's first, scored again. accepted: scored in
full, a candidate for the population. confirmed: fresh rollouts bear it out. unproven: rejected, and in the population
after all, since no context has a reward. rejected: no better than its parent in rollouts, or not borne out by fresh
ones. refused: by a guard, before any rollout. dropped: left the population, or never got into it. proposed: the phase
ended before it was judged."""

_WITH_REASON = ("confirmed", "unproven", "rejected", "refused")
OUTSCORED = "not among the best: the frontier's K contexts are others"
LEFT_OUT = "not scored again: the budget of the fast phase was too small"
UNJUDGED = "not judged: the fast phase ended first"


@dataclass(frozen=True, slots=True)
class Fate:
    """What became of a context in one cycle (one of ``OUTCOMES``), and why."""

    context: Context
    outcome: str
    reason: str = ""


class Fates:
    """Collects the fates of one cycle after the other."""

    def __init__(self) -> None:
        self._before: tuple[Context, ...] = ()
        self._heard: list[Fate] = []
        self._pending: dict[str, Context] = {}

    def start(self, population: Population) -> None:
        """The population at hand before the next fast phase."""
        self._before = population.contexts

    def hear(self, event: Mapping[str, Any]) -> None:
        """An event of :class:`fastslow.fast.lineage.Lineage`; a failed proposal brought no context about."""
        if event["context"] is None:
            return
        context, kind = context_from_dict(event["context"]), event["kind"]
        if kind == "proposed":
            self._pending[context.id] = context
            return
        if kind in ("accepted", "rejected"):
            self._pending.pop(context.id, None)
        self._heard.append(Fate(context, kind, event["reason"] if kind in _WITH_REASON else ""))

    def settle(self, population: Population) -> list[Fate]:
        """All fates of the cycle that led to ``population``, those heard first; the next cycle starts from it."""
        heard, before = self._heard, {c.id: c for c in self._before}
        scored: dict[str, Context] = {}
        for fate in heard:
            if fate.outcome in ("rescored", "accepted", "unproven"):
                scored[fate.context.id] = fate.context
            elif fate.outcome == "rejected":  # accepted first, and then not borne out by fresh rollouts
                scored.pop(fate.context.id, None)
        stay = {c.id: c for c in population.contexts}
        fates = list(heard)
        # An optimizer that tells no events still leaves a lineage.
        fates += [Fate(c, "accepted") for i, c in stay.items() if i not in before and i not in scored]
        fates += [Fate(c, "proposed", UNJUDGED) for c in self._pending.values()]
        for i, context in {**before, **scored}.items():
            if i not in stay:
                fates.append(Fate(context, "dropped", OUTSCORED if i in scored else LEFT_OUT))
        self._heard, self._pending = [], {}
        self.start(population)
        return fates
