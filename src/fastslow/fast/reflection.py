"""Between GEPA and a :class:`Reflector`: seeds each call, screens each proposal, keeps the counts and every call."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, NamedTuple

from gepa.proposer.reflective_mutation.reflection_lm import ReflectionProposal

from fastslow.fast.base import Proposal, Record, ReflectionCall, Reflector
from fastslow.fast.gepa_adapter import Entry
from fastslow.fast.guards import ContextGuard
from fastslow.fast.lineage import Lineage
from fastslow.fast.reflect.prompt import text_hash
from fastslow.seeds import derive_seed
from fastslow.tasks.feedback import one_line
from fastslow.types import Context, Problem

_LOG = logging.getLogger("fastslow.fast")

Job = tuple[dict[str, str], Mapping[str, Sequence[Mapping[str, Any]]], list[str]]


class _Asked(NamedTuple):
    """One question to the reflector; ``job`` is its place among GEPA's."""

    job: int
    parent: Context
    records: list[Record]
    components: list[str]
    seed: int


class _Screened(NamedTuple):
    """``texts`` that may be tried, empty where none may; what :class:`ReflectionCall` says of it."""

    texts: dict[str, str]
    outcome: str
    reason: str
    proposed_id: str | None


class Reflection:
    """GEPA's reflection strategy. A failing reflector costs its proposal and never the run.

    A reflector whose attribute ``concurrent`` is true (one that waits for a server) is asked for all proposals of an
    iteration at once, in threads; the seeds and the order of the answers don't depend on it. ``pool``: the problems
    that the reflector may draw from beside its records. ``log`` keeps every call, in the order asked.
    """

    def __init__(
        self, reflector: Reflector, lineage: Lineage, guard: ContextGuard, seed: int, pool: Sequence[Problem] = ()
    ) -> None:
        self.reflector = reflector
        self.lineage = lineage
        self.guard = guard
        self.seed = seed
        self.pool = tuple(pool)
        self.calls = self.tokens = 0
        self.seconds = 0.0
        self.log: list[ReflectionCall] = []
        self._asked = 0

    def reflect(self, *job: Any) -> tuple[ReflectionProposal, Reflection]:
        return self.reflect_many([job])[0]

    def reflect_many(self, jobs: Sequence[Job]) -> list[tuple[ReflectionProposal, Reflection]]:
        texts: list[dict[str, str]] = [{} for _ in jobs]
        asked: list[_Asked] = []
        for i, (candidate, dataset, components) in enumerate(jobs):
            records = [row["record"] for row in dataset["records"]]
            if isinstance(records[0], Entry):
                texts[i] = self.lineage.texts(records[0].member)
                continue
            seed = derive_seed(self.seed, "reflection", self._asked)
            self._asked += 1
            asked.append(_Asked(i, self.lineage.context_of(candidate), records, components, seed))
        for question, proposal in zip(asked, self._ask(asked), strict=True):
            screened = self._screen(question.parent, question.components, proposal)
            texts[question.job] = screened.texts
            self._note(question, proposal, screened)
        return [(ReflectionProposal(new_texts=t), self) for t in texts]

    def _ask(self, asked: Sequence[_Asked]) -> list[Proposal]:
        if getattr(self.reflector, "concurrent", False) and len(asked) > 1:
            with ThreadPoolExecutor(len(asked)) as threads:
                return list(threads.map(self._propose, asked))
        return [self._propose(question) for question in asked]

    def _propose(self, question: _Asked) -> Proposal:
        started = time.monotonic()
        try:
            proposal = self.reflector.propose(*question[1:])
        except Exception as error:  # The fence around reflectors, which may be anybody's code.
            told = one_line(f"{type(error).__name__}: {error}")
            _LOG.warning("reflector %s failed: %s", self.reflector.name, told)
            _LOG.debug("reflector %s failed", self.reflector.name, exc_info=True)
            proposal = Proposal(None, f"reflector error: {told}")
        return proposal if proposal.seconds else replace(proposal, seconds=time.monotonic() - started)

    def _screen(self, parent: Context, components: Sequence[str], proposal: Proposal) -> _Screened:
        """What may be tried of the proposal; where nothing may, the reason is noted."""
        self.calls += proposal.calls
        self.tokens += proposal.tokens
        self.seconds += proposal.seconds
        self.lineage.proposals += 1
        if proposal.components is None:
            reason = proposal.reason or "no reason given"
            self.lineage.reject(None, [parent], reason)
            return _Screened({}, "failed", reason, None)
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
            self.lineage.refuse(draft, [parent], reason)
            return _Screened({}, "refused", reason, draft.id)
        self.lineage.adopt(draft, [parent], proposal.reason)
        return _Screened(changed, "proposed", proposal.reason, draft.id)

    def _note(self, question: _Asked, proposal: Proposal, screened: _Screened) -> None:
        prompt = proposal.prompt_hash or read_hash(question.parent, question.records, question.components, self.pool)
        who = {"reflector": self.reflector.name, "context_id": question.parent.id}
        for failed in proposal.failed:
            self.log.append(ReflectionCall(prompt, failed.tokens, failed.seconds, "retried", failed.reason, **who))
        tokens = proposal.tokens - sum(f.tokens for f in proposal.failed)
        seconds = max(0.0, proposal.seconds - sum(f.seconds for f in proposal.failed))
        _, outcome, reason, proposed_id = screened
        self.log.append(ReflectionCall(prompt, tokens, seconds, outcome, reason, **who, proposed_id=proposed_id))


def read_hash(
    context: Context, records: Sequence[Record], components: Sequence[str], pool: Sequence[Problem] = ()
) -> str:
    """:func:`text_hash` of all that a reflector without a prompt reads: equal hashes, equal questions (seed aside)."""
    read = {
        "context": dict(context.components),
        "components": list(components),
        "records": [[r.problem.id, r.problem.text, r.completion, r.reward, r.feedback] for r in records],
        "pool": [[p.id, p.text, p.answer] for p in pool],
    }
    return text_hash(json.dumps(read, sort_keys=True))
