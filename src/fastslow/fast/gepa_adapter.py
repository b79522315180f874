"""Our side of GEPA's public protocols: evaluation, reflection, sampling, acceptance, stopping (gepa 0.1.4).

Two ideas keep GEPA honest under moving weights:

* The old population enters as proposals. Each member comes with an :class:`Entry`, a pseudo problem that only this
  member solves; so GEPA's own acceptance lets it in, and its scoring, done just before under the current weights in
  one batch with the others, is handed over instead of being paid twice.
* A problem whose question a context shows is not rolled out under it and counts for nothing.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gepa.core.adapter import EvaluationBatch
from gepa.strategies.proposal_sampling import IndependentSampling, ProposalTask

from fastslow.fast.base import Evaluate, Record
from fastslow.fast.budget import Budget
from fastslow.fast.guards import ContextGuard, leaks
from fastslow.fast.lineage import NO_BUDGET, NO_IMPROVEMENT, Lineage
from fastslow.staleness import require_current
from fastslow.tasks.feedback import one_line
from fastslow.types import Context, Problem, Rollout

MERGE_SUBSAMPLE = 5
"""Problems on which GEPA tries a merge before scoring it in full; not settable there."""

PATIENCE = 8
"""Iterations in a row without one new candidate after which the phase ends: the reflector has nothing to say, and
every iteration spends rollouts on the parents."""

# GEPA draws a merge's ancestor with its mean score as the weight and raises where all weights are 0, which an empty
# seed context's mean often is. A power of two keeps sums of 0/1 rewards exact.
_FLOOR = 2.0**-20


@dataclass(frozen=True, slots=True)
class Entry:
    """The pseudo problem with which a member of the old population enters: only that member solves it."""

    member: Context


Instance = Problem | Entry
Outputs = list[Rollout | None]


def positive(reward: float) -> float:
    """A reward as GEPA may see it: above 0, in the same order."""
    return reward + _FLOOR if reward >= 0 else _FLOOR * math.exp(reward)


class Adapter:
    """Evaluates candidates for GEPA, several in one call of ``evaluate``; counts every rollout."""

    propose_new_texts = None

    def __init__(
        self, lineage: Lineage, guard: ContextGuard, roll_out: Evaluate, budget: Budget, anchor: Sequence[Problem]
    ) -> None:
        self.lineage = lineage
        self.guard = guard
        self.roll_out = roll_out
        self.budget = budget
        self.anchor = tuple(anchor)
        self.pool: dict[int, Context] = {}
        self.merge_parents: tuple[Context, ...] = ()
        self.merge: Context | None = None
        self._rescored: dict[str, Outputs] = {}

    def rescore(self, members: Sequence[Context]) -> None:
        """Score the old population on the anchor set, in one batch; GEPA gets these scores when it asks for them."""
        outputs = self.measure([(member, self.anchor) for member in members])
        for member, rollouts in zip(members, outputs, strict=True):
            self._rescored[member.id] = rollouts
            self.lineage.rescored(member, rewards_by_problem(rollouts))

    def evaluate(
        self, batch: list[Instance], candidate: dict[str, str], capture_traces: bool = False
    ) -> EvaluationBatch[Instance, Rollout | None]:
        """GEPA calls this for its first candidate and for merges; everything else comes through batch_evaluate."""
        known = self.lineage.find(candidate)
        if known is not None and known.id in self._rescored:
            return self.batch_evaluate([(candidate, batch)])[0]
        self.merge = self._admit_merge(candidate, known)
        if self.merge is None:
            refused = [float("-inf")] * len(batch)
            return EvaluationBatch(outputs=[None] * len(batch), scores=refused, num_metric_calls=0)
        return self.batch_evaluate([(candidate, batch)])[0]

    def batch_evaluate(
        self, items: list[tuple[dict[str, str], list[Instance]]]
    ) -> list[EvaluationBatch[Instance, Rollout | None]]:
        contexts = [self.lineage.context_of(candidate) for candidate, _ in items]
        results: list[EvaluationBatch[Instance, Rollout | None] | None] = [
            self._at_hand(context, batch) for context, (_, batch) in zip(contexts, items, strict=True)
        ]
        todo = [i for i, result in enumerate(results) if result is None]
        measured = self.measure([(contexts[i], items[i][1]) for i in todo])
        for i, rollouts in zip(todo, measured, strict=True):
            results[i] = _batch(items[i][1], rollouts, calls=sum(r is not None for r in rollouts))
        return [result for result in results if result is not None]

    def make_reflective_dataset(
        self, candidate: dict[str, str], eval_batch: EvaluationBatch, components_to_update: list[str]
    ) -> Mapping[str, Sequence[Mapping[str, Any]]]:
        """The records under one key; ``Reflection`` reads them back."""
        return {"records": [{"record": record} for record in eval_batch.trajectories]}

    def _at_hand(self, context: Context, batch: list[Instance]) -> EvaluationBatch | None:
        """An answer without rollouts: an entry, or the re-scoring handed over, once."""
        if batch and isinstance(batch[0], Entry):
            solved = [float(entry.member.id == context.id) for entry in batch]
            return EvaluationBatch(
                outputs=[None] * len(batch), scores=solved, trajectories=list(batch), num_metric_calls=0
            )
        rollouts = self._rescored.pop(context.id, None)
        return None if rollouts is None else _batch(batch, rollouts, calls=len(rollouts))

    def measure(self, jobs: Sequence[tuple[Context, Sequence[Problem]]]) -> list[Outputs]:
        """One rollout per (context, problem) not shown by the context, all in one call; None where it is shown."""
        clean = [[not leaks(context, problem) for problem in batch] for context, batch in jobs]
        pairs = [
            (context, problem)
            for (context, batch), marks in zip(jobs, clean, strict=True)
            for problem, is_clean in zip(batch, marks, strict=True)
            if is_clean
        ]
        self.budget.spend(len(pairs))
        rollouts = self.roll_out(pairs) if pairs else []
        if len(rollouts) != len(pairs):
            raise ValueError(f"evaluate returned {len(rollouts)} rollouts for {len(pairs)} pairs")
        for (context, problem), rollout in zip(pairs, rollouts, strict=True):
            require_current(f"a rollout of problem {problem.id!r}", rollout.weights_step, self.lineage.weights_step)
            if (rollout.context_id, rollout.problem_id) != (context.id, problem.id):
                raise ValueError(f"evaluate answered {(context.id, problem.id)} with a rollout of another pair")
        queue = iter(rollouts)
        return [[next(queue) if is_clean else None for is_clean in marks] for marks in clean]

    def _admit_merge(self, candidate: dict[str, str], known: Context | None) -> Context | None:
        parents = self.merge_parents
        merged = known or self.lineage.draft(candidate, parents, "merge")
        self.lineage.proposals += 1
        reason = self.guard.reject(merged, None, self.lineage.seen)
        if reason is not None:
            self.lineage.refuse(merged, parents, reason)
            return None
        self.lineage.adopt(merged, parents, "merge")
        return merged

    # What follows are GEPA's callbacks. It swallows what they raise, so they only note things down.

    def on_evaluation_start(self, event: Mapping[str, Any]) -> None:
        if event["candidate_idx"] is None:
            self.merge_parents = tuple(self.pool[i] for i in event["parent_ids"])

    def on_merge_rejected(self, event: Mapping[str, Any]) -> None:
        if self.merge is not None:
            self.lineage.reject(self.merge, self.merge_parents, "no improvement: the merge did worse than a parent")

    def on_valset_evaluated(self, event: Mapping[str, Any]) -> None:
        context = self.lineage.context_of(event["candidate"])
        self.pool[event["candidate_idx"]] = context
        if context.id not in self.lineage.scores:
            self.lineage.accept(context, rewards_by_problem(event["outputs_by_val_id"].values()))


def rewards_by_problem(rollouts: Any) -> dict[str, float]:
    return {r.problem_id: r.reward for r in rollouts if r is not None}


def _batch(batch: Sequence[Problem], rollouts: Outputs, calls: int) -> EvaluationBatch:
    return EvaluationBatch(
        outputs=list(rollouts),
        scores=[_FLOOR if r is None else positive(r.reward) for r in rollouts],
        trajectories=[
            Record(problem, rollout.text, rollout.reward, rollout.feedback)
            for problem, rollout in zip(batch, rollouts, strict=True)
            if rollout is not None
        ],
        num_metric_calls=calls,
    )


class Tasks:
    """GEPA's sampling strategy: first the old members' entries, then as many parents as the budget allows."""

    def __init__(self, adapter: Adapter, members: Sequence[Context], proposals: int, minibatch: int) -> None:
        self.adapter = adapter
        self.members = list(members)
        self.proposals = proposals
        self.minibatch = minibatch

    @property
    def room(self) -> int:
        """Proposals that fit: two minibatches each, and at least one full scoring."""
        left = self.adapter.budget.remaining - len(self.adapter.anchor)
        return max(0, min(self.proposals, left // (2 * self.minibatch)))

    def sample_tasks(
        self, state: Any, candidate_selector: Any, batch_sampler: Any, trainset: Any
    ) -> list[ProposalTask]:
        if self.members:
            entries, self.members = self.members, []
            root = state.program_candidates[0]
            return [ProposalTask(0, root, [-1 - i], [Entry(member)]) for i, member in enumerate(entries)]
        return IndependentSampling(self.room).sample_tasks(state, candidate_selector, batch_sampler, trainset)


class Improvement:
    """GEPA's acceptance: strictly better than the parent on the minibatch, over what neither of them shows."""

    def should_accept(self, proposal: Any, state: Any) -> bool:
        if is_entry(proposal):
            return True
        before, after = compared(proposal)
        # A child that shows its whole minibatch can't be judged on it; the anchor set will.
        return not after or math.fsum(after) > math.fsum(before)


class WithinBudget:
    """GEPA's selection: the accepted proposals with the largest gains, as many as the budget can score in full."""

    def __init__(self, adapter: Adapter) -> None:
        self.adapter = adapter

    def select(self, proposals: list[Any], state: Any, acceptance_criterion: Any) -> list[Any]:
        entries = [p for p in proposals if is_entry(p)]
        children = [p for p in proposals if not is_entry(p)]
        passed = [p for p in children if acceptance_criterion.should_accept(p, state)]
        passed.sort(key=_gain, reverse=True)
        fits = passed[: self.adapter.budget.remaining // len(self.adapter.anchor)]
        kept, good = {id(p) for p in fits}, {id(p) for p in passed}
        for proposal in children:
            if id(proposal) in kept:
                continue
            lineage = self.adapter.lineage
            context = lineage.context_of(proposal.candidate)
            parents = [self.adapter.pool[i] for i in proposal.parent_program_ids]
            after = rewards_by_problem(proposal.eval_after.outputs)
            reason = NO_BUDGET if id(proposal) in good else NO_IMPROVEMENT
            lineage.reject(context, parents, reason, after)
            if after and _gain(proposal) >= 0:
                lineage.tied[context.id] = after
        return [*entries, *fits]


def is_entry(proposal: Any) -> bool:
    """Whether a GEPA proposal is an old member entering, rather than something new."""
    return any(isinstance(t, Entry) for t in proposal.eval_before.trajectories or ())


def compared(proposal: Any) -> tuple[list[float], list[float]]:
    """True rewards (before, after) on the minibatch problems that both parent and child were rolled out on."""
    pairs = zip(proposal.eval_before.outputs, proposal.eval_after.outputs, strict=True)
    both = [(a.reward, b.reward) for a, b in pairs if a is not None and b is not None]
    return [a for a, _ in both], [b for _, b in both]


def _gain(proposal: Any) -> float:
    before, after = compared(proposal)
    return math.fsum(after) - math.fsum(before)


class Stopper:
    """GEPA's stop callback: the next iteration might not fit, or the reflector has fallen silent."""

    def __init__(self, adapter: Adapter, tasks: Tasks, merge: bool) -> None:
        self.adapter = adapter
        self.tasks = tasks
        self.merge = merge
        self.idle = 0
        self._tried = 0

    def __call__(self, state: Any) -> bool:
        if self.tasks.members:
            return False
        tried = len(self.adapter.lineage.seen)
        self.idle = 0 if tried > self._tried else self.idle + 1
        self._tried = tried
        merge_fits = self.adapter.budget.remaining >= MERGE_SUBSAMPLE + len(self.adapter.anchor) or not self.merge
        return self.tasks.room < 1 or not merge_fits or self.idle > PATIENCE


class DebugLog:
    """GEPA's logger, quiet: its lines go to the ``fastslow.fast.gepa`` logger at level DEBUG."""

    def __init__(self) -> None:
        self._logger = logging.getLogger("fastslow.fast.gepa")

    def log(self, message: str) -> None:
        self._logger.debug("%s", one_line(str(message), 2000))
