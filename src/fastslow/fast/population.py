"""The population Φ: the K contexts in use and the archive of all ever seen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from fastslow.types import Context


@dataclass(frozen=True, slots=True)
class Population:
    """``contexts``: in use, best first. ``archive``: all ever seen, by id (lineage). ``scores``: context id ->
    problem id -> reward, measured under the weights of ``weights_step`` and of no other step."""

    contexts: tuple[Context, ...]
    archive: Mapping[str, Context] = field(default_factory=dict)
    scores: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    weights_step: int = 0
    cycle: int = 0

    def __post_init__(self) -> None:
        if not self.contexts:
            raise ValueError("a population needs at least one context")
        present = {c.id: self.archive.get(c.id, c) for c in self.contexts}
        object.__setattr__(self, "archive", {**self.archive, **present})

    @property
    def best(self) -> Context:
        """The first of ``contexts``: the last fast phase's choice, by the training problems of that phase.

        The choice stands until the next phase; the scores behind it are not looked at again, since they grow stale with
        the first slow step.
        """
        return self.contexts[0]

    def mean_score(self, context: Context) -> float:
        """Mean reward under the weights of ``weights_step``; -inf where the context wasn't scored."""
        rewards = self.scores.get(context.id)
        return fmean(rewards.values()) if rewards else float("-inf")

    def in_use(self, k: int) -> tuple[Context, ...]:
        """Exactly ``k`` contexts for the slow phase: fewer than ``k`` are repeated, best first."""
        return tuple(self.contexts[i % len(self.contexts)] for i in range(k))

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; :meth:`from_dict` reads it back to an equal population."""
        return {
            "contexts": [c.id for c in self.contexts],
            "archive": [context_to_dict(c) for c in self.archive.values()],
            "scores": {k: dict(v) for k, v in self.scores.items()},
            "weights_step": self.weights_step,
            "cycle": self.cycle,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Population:
        archive = {c.id: c for c in (context_from_dict(d) for d in data["archive"])}
        return cls(
            contexts=tuple(archive[i] for i in data["contexts"]),
            archive=archive,
            scores=data["scores"],
            weights_step=data["weights_step"],
            cycle=data["cycle"],
        )


def context_to_dict(context: Context) -> dict[str, Any]:
    return {
        "id": context.id,
        "components": dict(context.components),
        "parents": list(context.parents),
        "birth_cycle": context.birth_cycle,
        "reason": context.reason,
    }


def context_from_dict(data: Mapping[str, Any]) -> Context:
    context = Context(data["components"], tuple(data["parents"]), data["birth_cycle"], data["reason"])
    if context.id != data["id"]:
        raise ValueError(f"context {data['id']} does not match its own text (hash {context.id})")
    return context
