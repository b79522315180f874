"""The winner is scored again before it replaces anyone. Behaviours locked:

* a child accepted on a minibatch enters only with scores from other rollouts than those that let it in;
* a newcomer that would push a member out is rolled out again, and only the fresh rewards decide; a tie is for it;
* it costs nothing where nobody is pushed out, or only members without any reward;
* it stays inside of the budget, of which a share is kept for it; the events tell the outcome.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
from fast_fakes import Evaluator, WordReflector, context, problems

from fastslow.config import FastConfig
from fastslow.fast.base import Proposal
from fastslow.fast.budget import Budget
from fastslow.fast.gepa_adapter import Adapter
from fastslow.fast.gepa_bridge import GepaOptimizer
from fastslow.fast.guards import ContextGuard
from fastslow.fast.lineage import Lineage
from fastslow.fast.pareto import select_population
from fastslow.fast.population import Population
from fastslow.fast.rescoring import confirm_newcomers, kept_for_rescoring

OLD = context("amber")  # solves 2 of the 8 problems
ANCHOR = problems(8)


class Phase:
    """A fast phase after its search: OLD was scored truly, the newcomers as given."""

    def __init__(self, newcomers: dict[str, float], budget: int = 100, old_scores: float | None = None) -> None:
        self.events: list[dict] = []
        self.evaluator = Evaluator(weights_step=5)
        self.lineage = Lineage(["instructions", "examples"], {}, 1, 5, self.events.append)
        guard = ContextGuard(lambda c: 1, 100, ANCHOR)
        self.adapter = Adapter(self.lineage, guard, self.evaluator, Budget(budget), ANCHOR)
        self.lineage.add_member(OLD)
        judge = Evaluator()
        self.lineage.scores[OLD.id] = {p.id: judge.reward(OLD, p) if old_scores is None else old_scores for p in ANCHOR}
        self.newcomers = [replace(context(text), parents=(OLD.id,)) for text in newcomers]
        for new, share in zip(self.newcomers, newcomers.values(), strict=True):
            self.lineage.proposals += 1
            self.lineage.adopt(new, [OLD], "new")
            self.lineage.accept(new, {p.id: float(i < share * 8) for i, p in enumerate(ANCHOR)})
        self.events.clear()

    def confirm(self, k: int = 1) -> list[str]:
        chosen = select_population(self.lineage.scores, k)
        return confirm_newcomers(self.adapter, [OLD], chosen, k, seed=3)


def test_a_lucky_winner_stays_out_and_the_event_tells_why() -> None:
    phase = Phase({"nothing at all": 1.0})  # it had 8 of 8, and truly solves none
    assert phase.confirm() == [OLD.id]
    (event,) = phase.events
    assert event["kind"] == "rejected" and event["parents"] == [OLD.id]
    assert event["reason"] == f"lucky: 1.00 -> 0.00 on fresh rollouts, where {OLD.id} has 0.25 and stays"
    assert phase.lineage.accepted == 0 and phase.lineage.reasons == {"lucky": 1}
    assert phase.evaluator.rollouts == len(ANCHOR)
    assert set(event["scores"].values()) == {0.0}


def test_a_winner_that_holds_is_confirmed_and_carries_its_fresh_scores() -> None:
    phase = Phase({"amber birch": 1.0})
    new = phase.newcomers[0]
    assert phase.confirm() == [new.id]
    assert [(e["kind"], e["reason"]) for e in phase.events] == [("confirmed", "1.00 -> 0.50 on fresh rollouts")]
    assert phase.lineage.scores[new.id] == {p.id: Evaluator().reward(new, p) for p in ANCHOR}
    assert phase.lineage.accepted == 1 and not phase.lineage.reasons


def test_a_tie_is_for_the_newcomer() -> None:
    phase = Phase({"birch": 1.0})  # truly as good as OLD, on other problems
    assert phase.confirm() == [phase.newcomers[0].id]


def test_it_costs_nothing_where_nobody_with_a_reward_is_pushed_out() -> None:
    for phase, k in ((Phase({"nothing": 1.0}), 2), (Phase({"nothing": 1.0}, old_scores=0.0), 1), (Phase({}), 1)):
        chosen = select_population(phase.lineage.scores, k)
        assert phase.confirm(k) == chosen
        assert phase.evaluator.rollouts == 0 and not phase.events


def test_a_small_rest_of_the_budget_makes_a_small_sample_of_distinct_problems() -> None:
    phase = Phase({"amber birch cedar dune": 1.0}, budget=5)
    phase.confirm()
    (call,) = phase.evaluator.calls
    assert len({p.id for _, p in call}) == len(call) == 5 and phase.adapter.budget.remaining == 0


def test_without_any_budget_nobody_is_replaced() -> None:
    phase = Phase({"amber birch cedar dune": 1.0}, budget=0)
    assert phase.confirm() == [OLD.id]
    assert phase.lineage.reasons == {"no budget left": 1} and phase.evaluator.rollouts == 0


@pytest.mark.parametrize(
    ("budget", "share", "kept"), [(144, 0.1, 14), (960, 0.1, 96), (12, 0.1, 1), (1, 0.1, 0), (50, 0, 0)]
)
def test_what_is_kept(budget: int, share: float, kept: int) -> None:
    assert kept_for_rescoring(budget, share) == kept


class Babbler(WordReflector):
    """Helps every other time; else it drops what helped."""

    def propose(self, context, records, components, seed):
        if seed % 2:
            return super().propose(context, records, components, seed)
        return Proposal({"instructions": f"babble {seed}", "examples": ""}, "babble", calls=1)


def evolve(evaluator: Evaluator, old: Population, events: list[dict], seed: int, **changes):
    optimizer = GepaOptimizer(
        FastConfig(population=1, merge=False, **changes), Babbler(), lambda c: 1, on_event=events.append
    )
    return optimizer.evolve(old, problems(), evaluator, 200, cycle=1, weights_step=0, seed=seed)


def test_in_a_whole_phase_every_newcomer_that_replaces_a_member_was_confirmed_on_rollouts_of_its_own() -> None:
    confirmed = lucky = 0
    for seed in range(20):
        events: list[dict] = []
        evaluator = Evaluator(noise=0.4)
        population, report = evolve(evaluator, Population((OLD,)), events, seed)[:2]
        kinds = {e["context"]["id"]: e["kind"] for e in events if e["context"]}
        assert report.metric_calls == evaluator.rollouts <= 200
        assert population.best.id == OLD.id or kinds[population.best.id] == "confirmed"
        confirmed += sum(e["kind"] == "confirmed" for e in events)
        lucky += sum(e["reason"].startswith("lucky") for e in events)
        for event in (e for e in events if e["kind"] == "confirmed"):
            mine = [[p.id for c, p in call if c.id == event["context"]["id"]] for call in evaluator.calls]
            mine = [ids for ids in mine if ids]
            # The minibatch that let it in, its full scoring, (it as a parent,) and the fresh rollouts at the very end.
            assert len(mine) >= 3 and len(mine[0]) == 3 and len(mine[1]) >= 5
            assert set(event["scores"]) == set(mine[-1]) and len(evaluator.calls[-1]) == len(mine[-1])
    assert confirmed > 2 and lucky > 0


def test_it_can_be_turned_off() -> None:
    events: list[dict] = []
    evolve(Evaluator(noise=0.3), Population((OLD,)), events, 0, rescore=0)
    assert not any(e["kind"] == "confirmed" or e["reason"].startswith("lucky") for e in events)
