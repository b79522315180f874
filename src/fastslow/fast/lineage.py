"""Who came from whom in one fast phase, and what became of every proposal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fastslow.fast.population import context_to_dict
from fastslow.types import Context

NO_IMPROVEMENT = "no improvement: on the minibatch"
NO_BUDGET = "no budget left: to score it in full"
Event = dict[str, Any]
OnEvent = Callable[[Event], None]


class Lineage:
    """Knows every context of the phase by its texts, counts fates and tells them to ``on_event``.

    An event is JSON-ready: ``kind`` (``rescored``, ``proposed``, ``accepted``, ``confirmed`` by fresh rollouts,
    ``rejected`` after rollouts, ``refused`` by a guard before any, or ``failed``), ``cycle``, ``weights_step``,
    ``context`` (as :func:`context_to_dict`; None where none came about), ``parents``, ``scores`` (problem id -> reward,
    where measured) and ``reason``. ``unproven`` is told of a rejected context that gets a place after all, since no
    context has a reward. ``tied``: the minibatch rewards of rejected contexts that did no worse than their parent;
    ``unproven``: how many of them got a place, and count as rejected all the same.
    """

    def __init__(
        self,
        names: Sequence[str],
        archive: Mapping[str, Context],
        cycle: int,
        weights_step: int,
        on_event: OnEvent | None = None,
    ) -> None:
        self.names = tuple(names)
        self.archive = dict(archive)
        self.cycle = cycle
        self.weights_step = weights_step
        self.on_event = on_event
        self.seen: set[str] = set()
        self.scores: dict[str, dict[str, float]] = {}
        self.tied: dict[str, dict[str, float]] = {}
        self.reasons: Counter[str] = Counter()
        self.proposals = self.accepted = self.unproven = 0
        self._by_text: dict[tuple[str, ...], Context] = {}

    def texts(self, context: Context) -> dict[str, str]:
        """The context as GEPA's candidate: every component named, in one order."""
        return {name: context.components.get(name, "") for name in self.names}

    def find(self, candidate: Mapping[str, str]) -> Context | None:
        return self._by_text.get(tuple(candidate[name] for name in self.names))

    def context_of(self, candidate: Mapping[str, str]) -> Context:
        found = self.find(candidate)
        if found is None:
            raise RuntimeError("GEPA asked about a candidate that was never proposed")
        return found

    def add_member(self, context: Context) -> None:
        """A member of the old population, or a root; kept as it is, lineage included."""
        self._by_text.setdefault(tuple(self.texts(context).values()), context)
        self.seen.add(context.id)

    def draft(self, candidate: Mapping[str, str], parents: Sequence[Context], reason: str) -> Context:
        """A context with these texts. One that an earlier cycle knew keeps its lineage from then, so no cycle forms."""
        new = Context(dict(candidate), tuple(p.id for p in parents), self.cycle, reason)
        return self.archive.get(new.id, new)

    def adopt(self, context: Context, parents: Sequence[Context], reason: str) -> None:
        """Takes a drafted context in; from now on :meth:`find` knows it."""
        self._by_text[tuple(self.texts(context).values())] = context
        self.seen.add(context.id)
        self._tell("proposed", context, parents, reason)

    def rescored(self, context: Context, scores: Mapping[str, float]) -> None:
        self.scores[context.id] = dict(scores)
        self._tell("rescored", context, (), "", scores)

    def accept(self, context: Context, scores: Mapping[str, float]) -> None:
        self.scores[context.id] = dict(scores)
        self.archive.setdefault(context.id, context)
        self.accepted += 1
        self._tell("accepted", context, (), context.reason, scores)

    def confirm(self, context: Context, scores: Mapping[str, float], reason: str) -> None:
        """Fresh rollouts bear out an accepted context; on their problems they count instead of the old ones."""
        self.scores[context.id] |= scores
        self._tell("confirmed", context, (), reason, scores)

    def take_back(self, context: Context, scores: Mapping[str, float], reason: str) -> None:
        """Fresh rollouts don't bear out an accepted context: it is rejected after all."""
        self.scores[context.id] |= scores
        self.accepted -= 1
        self.reject(context, (), reason, scores)

    def give_a_place(self, context_id: str, reason: str) -> None:
        """A rejected context among ``tied`` enters the population after all, with the scores of its minibatch."""
        context = next(c for c in self._by_text.values() if c.id == context_id)
        self.scores[context_id] = self.tied[context_id]
        self.archive.setdefault(context_id, context)
        self.unproven += 1
        self._tell("unproven", context, (), reason, self.scores[context_id])

    def reject(
        self,
        context: Context | None,
        parents: Sequence[Context],
        reason: str,
        scores: Mapping[str, float] | None = None,
    ) -> None:
        """``context`` is None where the reflector gave none; the part of ``reason`` before a colon is counted."""
        self.reasons[reason.split(":", 1)[0].strip()] += 1
        self._tell("failed" if context is None else "rejected", context, parents, reason, scores)

    def refuse(self, context: Context, parents: Sequence[Context], reason: str) -> None:
        """A guard let no rollout be spent on ``context``; the reason is counted as those of rejections are."""
        self.reasons[reason.split(":", 1)[0].strip()] += 1
        self._tell("refused", context, parents, reason)

    def _tell(
        self,
        kind: str,
        context: Context | None,
        parents: Sequence[Context],
        reason: str,
        scores: Mapping[str, float] | None = None,
    ) -> None:
        if self.on_event is None:
            return
        self.on_event(
            {
                "kind": kind,
                "cycle": self.cycle,
                "weights_step": self.weights_step,
                "context": None if context is None else context_to_dict(context),
                "parents": [p.id for p in parents] or list(context.parents if context else ()),
                "scores": dict(scores or {}),
                "reason": reason,
            }
        )
