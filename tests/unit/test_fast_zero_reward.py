"""A fast phase without any reward. Behaviours locked:

* where no member has a reward, the search starts from the contexts that the run began with, and from no member;
* with a reward anywhere it starts from the members, and nothing that only tied gets in;
* where nothing is found, what tied fills the population; old failures take what is left; K is never passed;
* candidates that earned something on a minibatch come before those that didn't;
* the budget holds, and the events tell who got a place and why.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
from fast_fakes import Evaluator, WordReflector, context, problems

from fastslow.config import FastConfig
from fastslow.fast.base import FastReport, Proposal
from fastslow.fast.gepa_bridge import GepaOptimizer
from fastslow.fast.lineage import Lineage
from fastslow.fast.population import Population
from fastslow.fast.zero_reward import fill_with_unproven
from fastslow.types import Context

SEED = context("Answer.")
FAILED = replace(context("Answer. With a long habit."), parents=(SEED.id,))


class Numberer(WordReflector):
    """Writes texts that solve nothing, each of its own; keeps what it was asked about."""

    def __init__(self) -> None:
        super().__init__()
        self.parents: list[Context] = []

    def propose(self, context, records, components, seed):
        self.parents.append(context)
        return Proposal({"instructions": f"{context.instructions} number {len(self.parents)}"}, "number")


def evolve(
    old: Population, reflector: WordReflector, evaluator: Evaluator | None = None, budget: int = 150, k: int = 4
) -> tuple[Population, FastReport, list[dict]]:
    events: list[dict] = []
    optimizer = GepaOptimizer(FastConfig(population=k), reflector, lambda c: 1, on_event=events.append)
    evolved, report = optimizer.evolve(
        old, problems(), evaluator or Evaluator(), budget, cycle=1, weights_step=0, seed=3
    )
    return evolved, report, events


def population(*members: Context) -> Population:
    return Population(members, archive={c.id: c for c in (SEED, *members)})


def test_the_search_starts_from_the_root_where_every_member_fails() -> None:
    reflector = Numberer()
    evaluator = Evaluator()
    _, report, events = evolve(population(FAILED), reflector, evaluator)
    assert {c.id for c in reflector.parents} == {SEED.id}
    assert [e["context"]["id"] for e in events if e["kind"] == "rescored"] == [FAILED.id, SEED.id]
    assert report.metric_calls == evaluator.rollouts <= 150


def test_a_root_among_the_members_is_not_scored_twice() -> None:
    reflector, evaluator = Numberer(), Evaluator()
    _, _, events = evolve(population(FAILED, SEED), reflector, evaluator)
    assert {c.id for c in reflector.parents} == {SEED.id}
    assert len([e for e in events if e["kind"] == "rescored"]) == 2


def test_one_reward_anywhere_and_the_search_goes_on_from_the_members() -> None:
    reflector = Numberer()
    works = replace(context("amber"), parents=(SEED.id,))
    evolved, _, events = evolve(population(works, FAILED), reflector)
    assert SEED.id not in {c.id for c in reflector.parents}
    assert [c.id for c in evolved.contexts] == [works.id]
    assert "unproven" not in {e["kind"] for e in events}


def test_a_search_from_the_root_finds_what_the_failed_members_hid() -> None:
    evolved, _, _ = evolve(population(FAILED), WordReflector(), budget=300)
    assert evolved.mean_score(evolved.best) > 0
    assert all("long habit" not in c.instructions for c in evolved.contexts)


def test_what_ties_fills_the_population_where_nothing_is_found() -> None:
    evolved, report, events = evolve(population(FAILED), Numberer())
    assert len(evolved.contexts) == 4
    assert {SEED.id, FAILED.id}.isdisjoint(c.id for c in evolved.contexts)
    places = [e for e in events if e["kind"] == "unproven"]
    assert {e["context"]["id"] for e in places} == {c.id for c in evolved.contexts}
    assert all(e["reason"].startswith("unproven:") and set(e["scores"].values()) == {0.0} for e in places)
    assert report.accepted == 4 and report.accepted + report.rejected == report.proposals
    assert all(evolved.scores[c.id] and evolved.archive[c.id] == c for c in evolved.contexts)


def test_old_failures_take_what_places_are_left() -> None:
    evolved, _, events = evolve(population(FAILED), Numberer(), budget=60)
    new = [e for e in events if e["kind"] == "unproven"]
    assert 0 < len(new) < 4
    placed = {c.id for c in evolved.contexts}
    assert {e["context"]["id"] for e in new} < placed and placed & {FAILED.id, SEED.id} and len(placed) == 4


def test_a_budget_too_small_for_the_root_stays_with_the_members() -> None:
    reflector = Numberer()
    _, report, events = evolve(population(FAILED), reflector, budget=30)
    assert SEED.id not in {e["context"]["id"] for e in events if e["kind"] == "rescored"}
    assert {c.id for c in reflector.parents} <= {FAILED.id} and report.metric_calls <= 30


@pytest.mark.parametrize("rewards", [(0.0, 0.0, 0.0), (-1.0, -1.0, -1.0)])
def test_the_order_of_places(rewards: tuple[float, ...]) -> None:
    lineage = Lineage(["instructions"], {}, 1, 0)
    by_name = {name: Context({"instructions": name}) for name in ("old", "accepted", "tie", "lucky tie", "late tie")}
    for c in by_name.values():
        lineage.adopt(c, [], "")
    ids = {name: c.id for name, c in by_name.items()}
    zeros = {f"p{i}": r for i, r in enumerate(rewards)}
    lineage.scores = {ids["old"]: zeros, ids["accepted"]: zeros}
    for name in ("tie", "late tie"):
        lineage.tie(by_name[name], [], zeros)
    lineage.tie(by_name["lucky tie"], [], {**zeros, "p0": 1.0})
    chosen = [ids["old"], ids["accepted"]]

    def names(k: int) -> list[str]:
        again = Lineage(["instructions"], {}, 1, 0)
        again.scores, again.tied, again._by_text = dict(lineage.scores), dict(lineage.tied), lineage._by_text
        found = fill_with_unproven(again, chosen, {ids["old"]}, k)
        return [next(n for n, i in ids.items() if i == f) for f in found]

    assert names(5) == ["accepted", "lucky tie", "tie", "late tie", "old"]
    assert names(3) == ["accepted", "lucky tie", "tie"]
    assert names(1) == ["accepted"]
