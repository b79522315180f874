"""The fast phase by GEPA (arXiv 2507.19457), through the public arguments of ``gepa.optimize`` alone.

GEPA runs afresh in every cycle: no state of its own survives (``run_dir=None``: it would be pickled), and no score,
since its evaluation cache knows nothing of weights (``cache_evaluation=False``).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import gepa

from fastslow.config import FastConfig
from fastslow.fast.base import Evaluate, FastReport, Reflector
from fastslow.fast.budget import Budget, Plan, plan
from fastslow.fast.gepa_adapter import (
    MERGE_SUBSAMPLE,
    Adapter,
    DebugLog,
    Improvement,
    Stopper,
    Tasks,
    WithinBudget,
)
from fastslow.fast.guards import MAX_EXAMPLES, ContextGuard
from fastslow.fast.lineage import Lineage, OnEvent
from fastslow.fast.pareto import best_first, select_population
from fastslow.fast.population import Population
from fastslow.fast.reflection import Reflection
from fastslow.fast.rescoring import confirm_newcomers, kept_for_rescoring
from fastslow.fast.zero_reward import fill_with_unproven, roots_of, search_from
from fastslow.seeds import derive_seed
from fastslow.types import Context, Problem


class GepaOptimizer:
    """A :class:`fastslow.fast.base.FastOptimizer`.

    ``count_tokens`` gives the tokens a context adds to every prompt. ``on_event`` hears the fate of every proposal
    (:class:`fastslow.fast.lineage.Lineage` lists the keys). A reflector with a ``set_pool`` method is handed the
    cycle's problems before it is asked. A proposal that shows a question of ``held_out``, the validation problems, is
    refused; nothing else learns of them. ``takes_unproven``: whether contexts without any reward may fill the
    population where none has one; not for a slow phase that takes a context's word for right.
    """

    def __init__(
        self,
        config: FastConfig,
        reflector: Reflector,
        count_tokens: Callable[[Context], int],
        *,
        on_event: OnEvent | None = None,
        held_out: Sequence[Problem] = (),
        takes_unproven: bool = True,
    ) -> None:
        self.held_out = held_out
        self.takes_unproven = takes_unproven
        self.config = config
        self.reflector = reflector
        self.count_tokens = count_tokens
        self.on_event = on_event

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
        """Spend at most ``budget`` metric calls (rollouts) on ``problems``; returns the K best of the frontier.

        The whole old population is scored again under the current weights, on the same problems as everything new;
        the returned scores were all measured in this call. A tight budget narrows both (see
        :func:`fastslow.fast.budget.plan`). A new context pushes an old one out only where fresh rollouts bear it out
        (:mod:`fastslow.fast.rescoring`). Where no context has a reward, the search starts again from the run's first
        contexts, and what ties gets a place, with the scores of its minibatch alone (:mod:`fastslow.fast.zero_reward`).
        The same arguments give the same result, as far as ``evaluate`` does.
        """
        if not problems:
            raise ValueError("a fast phase needs at least one problem")
        if budget < 1:
            raise ValueError(f"a fast phase needs at least one metric call, not {budget}")
        seed = derive_seed(seed, "fast", cycle)
        members = self._members(population)
        minibatch = min(self.config.minibatch, len(problems))
        reserve = kept_for_rescoring(budget, self.config.rescore)
        split = plan(budget - reserve, len(members), len(problems), self.config.proposals, minibatch)
        lineage = self._lineage(population, members, cycle, weights_step)
        guard = self._guard(problems)
        spending = Budget(budget, reserved=reserve)
        adapter = Adapter(lineage, guard, evaluate, spending, _anchor(problems, split, seed))

        members = members[: split.members]
        adapter.rescore(members)
        one_try = max(2 * minibatch, MERGE_SUBSAMPLE if self.config.merge else 0)
        start = search_from(adapter, population, members, one_try + len(adapter.anchor))
        old = list({c.id: c for c in (*members, *start)}.values())
        takes_pool = hasattr(self.reflector, "set_pool")
        if takes_pool:
            self.reflector.set_pool(problems)
        reflection = Reflection(self.reflector, lineage, guard, seed, problems if takes_pool else ())
        self._run(adapter, start, problems, reflection, minibatch, seed)

        chosen = select_population(lineage.scores, self.config.population)
        if self.takes_unproven:
            chosen = fill_with_unproven(lineage, chosen, {c.id for c in old}, self.config.population)
        if self.config.rescore:
            spending.reserved = 0
            chosen = confirm_newcomers(adapter, old, chosen, self.config.population, seed)
        known = {c.id: c for c in (*members, *lineage.archive.values())}
        evolved = Population(
            contexts=tuple(known[i] for i in best_first(chosen, lineage.scores)),
            archive=lineage.archive,
            scores=lineage.scores,
            weights_step=weights_step,
            cycle=cycle,
        )
        report = FastReport(
            metric_calls=spending.spent,
            proposals=lineage.proposals,
            accepted=lineage.accepted,
            rejected=lineage.proposals - lineage.accepted,
            unproven=lineage.unproven,
            reflection_calls=reflection.calls,
            reflection_tokens=reflection.tokens,
            reflection_seconds=reflection.seconds,
            reasons=dict(sorted(lineage.reasons.items())),
            reflections=tuple(reflection.log),
        )
        return evolved, report

    def _run(
        self,
        adapter: Adapter,
        members: Sequence[Context],
        problems: Sequence[Problem],
        reflection: Reflection,
        minibatch: int,
        seed: int,
    ) -> None:
        lineage = adapter.lineage
        # The weakest member is GEPA's root: a merge needs a common ancestor that is no better than its two parents.
        *others, root = best_first([m.id for m in members], lineage.scores)
        by_id = {m.id: m for m in members}
        tasks = Tasks(adapter, [by_id[i] for i in others], self.config.proposals, minibatch)
        components = list(self.config.components)
        result = gepa.optimize(
            seed_candidate=lineage.texts(by_id[root]),
            trainset=list(problems),
            valset=list(adapter.anchor),
            adapter=adapter,
            reflection_strategy=reflection,
            candidate_selection_strategy="pareto",
            frontier_type="instance",
            reflection_minibatch_size=minibatch,
            module_selector=lambda *_: list(components),
            use_merge=self.config.merge,
            merge_val_overlap_floor=min(MERGE_SUBSAMPLE, len(adapter.anchor)),
            stop_callbacks=[Stopper(adapter, tasks, self.config.merge)],
            logger=DebugLog(),
            callbacks=[adapter],
            track_best_outputs=False,
            cache_evaluation=False,
            seed=seed,
            acceptance_criterion=Improvement(),
            sampling_strategy=tasks,
            selection_strategy=WithinBudget(adapter),
        )
        unscored = [i for i, c in enumerate(result.candidates) if lineage.context_of(c).id not in lineage.scores]
        if unscored:
            raise RuntimeError(f"GEPA accepted candidates {unscored} whose full scores never arrived")

    def _members(self, population: Population) -> list[Context]:
        """The old population without doubles, best first as the last phase left it; its scores are stale by now."""
        return list({c.id: c for c in population.contexts}.values())

    def _lineage(self, population: Population, members: Sequence[Context], cycle: int, weights_step: int) -> Lineage:
        names = dict.fromkeys(self.config.components)
        for member in (*members, *roots_of(population)):
            names.update(dict.fromkeys(member.components))
        lineage = Lineage(list(names), population.archive, cycle, weights_step, self.on_event)
        for member in members:
            lineage.add_member(member)
        return lineage

    def _guard(self, problems: Sequence[Problem]) -> ContextGuard:
        most = getattr(self.config.reflector, "max_examples", MAX_EXAMPLES)
        return ContextGuard(self.count_tokens, self.config.max_context_tokens, problems, most, self.held_out)


def _anchor(problems: Sequence[Problem], split: Plan, seed: int) -> list[Problem]:
    """The problems every context is scored on: all, or a seeded subset in the lookahead's order."""
    if split.anchors >= len(problems):
        return list(problems)
    kept = random.Random(derive_seed(seed, "anchor")).sample(range(len(problems)), split.anchors)
    return [problems[i] for i in sorted(kept)]
