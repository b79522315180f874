"""Between GEPA and a :class:`Reflector`: seeds each call, screens each proposal, keeps the counts."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from gepa.proposer.reflective_mutation.reflection_lm import ReflectionProposal

from fastslow.fast.base import Proposal, Record, Reflector
from fastslow.fast.gepa_adapter import Entry
from fastslow.fast.guards import ContextGuard
from fastslow.fast.lineage import Lineage
from fastslow.seeds import derive_seed
from fastslow.types import Context

_LOG = logging.getLogger("fastslow.fast")

Job = tuple[dict[str, str], Mapping[str, Sequence[Mapping[str, Any]]], list[str]]


class Reflection:
    """GEPA's reflection strategy. A failing reflector costs its proposal and never the run.

    A reflector whose attribute ``concurrent`` is true (one that waits for a server) is asked for all proposals of an
    iteration at once, in threads; the seeds and the order of the answers don't depend on it.
    """

    def __init__(self, reflector: Reflector, lineage: Lineage, guard: ContextGuard, seed: int) -> None:
        self.reflector = reflector
        self.lineage = lineage
        self.guard = guard
        self.seed = seed
        self.calls = self.tokens = 0
        self.seconds = 0.0
        self._asked = 0

    def reflect(self, *job: Any) -> tuple[ReflectionProposal, Reflection]:
        return self.reflect_many([job])[0]

    def reflect_many(self, jobs: Sequence[Job]) -> list[tuple[ReflectionProposal, Reflection]]:
        texts: list[dict[str, str]] = [{} for _ in jobs]
        asked: list[tuple[int, Context, list[Record], list[str], int]] = []
        for i, (candidate, dataset, components) in enumerate(jobs):
            records = [row["record"] for row in dataset["records"]]
            if isinstance(records[0], Entry):
                texts[i] = self.lineage.texts(records[0].member)
                continue
            seed = derive_seed(self.seed, "reflection", self._asked)
            self._asked += 1
            asked.append((i, self.lineage.context_of(candidate), records, components, seed))
        for (i, parent, _, components, _), proposal in zip(asked, self._ask(asked), strict=True):
            texts[i] = self._screen(parent, components, proposal)
        return [(ReflectionProposal(new_texts=t), self) for t in texts]

    def _ask(self, asked: Sequence[tuple[int, Context, list[Record], list[str], int]]) -> list[Proposal]:
        if getattr(self.reflector, "concurrent", False) and len(asked) > 1:
            with ThreadPoolExecutor(len(asked)) as threads:
                return list(threads.map(lambda job: self._propose(*job[1:]), asked))
        return [self._propose(*job[1:]) for job in asked]

    def _propose(self, parent: Context, records: list[Record], components: list[str], seed: int) -> Proposal:
        try:
            return self.reflector.propose(parent, records, components, seed)
        except Exception as error:  # The fence around reflectors, which may be anybody's code.
            _LOG.warning("reflector %s failed", self.reflector.name, exc_info=True)
            return Proposal(None, f"reflector error: {type(error).__name__}: {error}")

    def _screen(self, parent: Context, components: Sequence[str], proposal: Proposal) -> dict[str, str]:
        """The texts that may be tried; empty, with the reason noted, where none may."""
        self.calls += proposal.calls
        self.tokens += proposal.tokens
        self.seconds += proposal.seconds
        self.lineage.proposals += 1
        if proposal.components is None:
            self.lineage.reject(None, [parent], proposal.reason or "no reason given")
            return {}
        texts = self.lineage.texts(parent)
        changed = {
            name: text
            for name, text in proposal.components.items()
            if name in components and isinstance(text, str) and text != texts[name]
        }
        child = {**texts, **changed}
        draft = self.lineage.find(child) or self.lineage.draft(child, [parent], proposal.reason)
        reason = self.guard.reject(draft, parent, self.lineage.seen)
        if reason is not None:
            self.lineage.reject(draft, [parent], reason)
            return {}
        self.lineage.adopt(draft, [parent], proposal.reason)
        return changed
