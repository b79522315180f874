"""A fast phase without any reward. Behaviours locked:

* where no member has a reward, the search starts from the contexts that the run began with, and from no member;
* with a reward anywhere it starts from the members, and nothing that only tied gets in;
* where nothing is found, what tied fills the population; old failures take what is left; K is never passed;
* candidates that earned something on a minibatch come before those that didn't, accepted ones before all;
* partial credit below 0 counts as a reward, and a context that can't be judged as one that may be good;
* a slow phase that takes a context's word for right gets no unproven ones;
* the budget holds, and the events tell who got a place and why.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
from fast_fakes import WORDS, Evaluator, WordReflector, context, problems

from fastslow.config import FastConfig
from fastslow.fast.base import FastReport, Proposal
from fastslow.fast.budget import Budget
from fastslow.fast.gepa_adapter import Adapter
from fastslow.fast.gepa_bridge import GepaOptimizer
from fastslow.fast.guards import ContextGuard
from fastslow.fast.lineage import NO_BUDGET, Lineage
from fastslow.fast.population import Population
from fastslow.fast.zero_reward import fill_with_unproven, search_from
from fastslow.types import Context, Problem

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
    old: Population,
    reflector: WordReflector,
    evaluator: Evaluator | None = None,
    budget: int = 150,
    n: int = 16,
    takes_unproven: bool = True,
    **settings,
) -> tuple[Population, FastReport, list[dict]]:
    events: list[dict] = []
    optimizer = GepaOptimizer(
        FastConfig(population=4, **settings), reflector, lambda c: 1, on_event=events.append,
        takes_unproven=takes_unproven,
    )  # fmt: skip
    evolved, report = optimizer.evolve(
        old, problems(n), evaluator or Evaluator(), budget, cycle=1, weights_step=0, seed=3
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
    assert (report.accepted, report.unproven) == (0, 4) and report.rejected == report.proposals
    assert sum(report.reasons.values()) == report.rejected
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


class Graded(Evaluator):
    """Partial credit below 0: -1, and 0.2 more for every word that the context holds."""

    def reward(self, context: Context, problem: Problem) -> float:
        return -1.0 + 0.2 * sum(word in context.instructions for word in WORDS)


def test_partial_credit_below_zero_is_a_reward() -> None:
    works = replace(context("amber birch"), parents=(SEED.id,))
    evolved, _, events = evolve(population(works, FAILED), Numberer(), Graded())
    assert "unproven" not in {e["kind"] for e in events} and works.id in {c.id for c in evolved.contexts}
    evolved, _, events = evolve(population(FAILED), Numberer(), Graded())  # all at -1: nothing to lose
    assert "unproven" in {e["kind"] for e in events}


def test_a_context_that_shows_every_problem_can_not_be_judged_and_stays() -> None:
    shown = "\n\n".join(f"### Question\n{p.text}\n### Answer\n{p.answer}" for p in problems(4))
    judge = replace(context("", shown), parents=(SEED.id,))
    evolved, _, events = evolve(population(judge, FAILED), Numberer(), n=4)
    assert judge.id in {c.id for c in evolved.contexts} and "unproven" not in {e["kind"] for e in events}


def test_a_teacher_is_never_unproven() -> None:
    evolved, report, _ = evolve(population(SEED), Numberer(), takes_unproven=False)
    assert [c.id for c in evolved.contexts] == [SEED.id] and report.unproven == 0


@pytest.mark.parametrize("budget", range(40, 60))
@pytest.mark.parametrize("minibatch", [1, 2, 3])
def test_a_root_is_paid_for_only_where_a_proposal_still_fits(budget: int, minibatch: int) -> None:
    settings = {"budget": budget, "minibatch": minibatch, "merge": True, "proposals": 1}
    _, report, events = evolve(population(FAILED), Numberer(), **settings)
    scored = {e["context"]["id"] for e in events if e["kind"] == "rescored"}
    assert report.metric_calls <= budget and (SEED.id not in scored or report.proposals)


def test_a_root_with_a_reward_is_only_pushed_out_by_what_is_borne_out() -> None:
    root = context("amber")
    old = Population((FAILED,), archive={root.id: root, FAILED.id: FAILED})
    evolved, _, events = evolve(old, WordReflector(), Evaluator(noise=0.2), budget=300)
    left = root.id not in {c.id for c in evolved.contexts}
    assert not left or any(e["kind"] == "confirmed" for e in events)
    assert FAILED.id not in {c.id for c in evolved.contexts}


@pytest.mark.parametrize(("root", "kept"), [(context("amber"), 10), (SEED, 0)])
def test_what_is_kept_for_scoring_again_stays_where_a_root_has_a_reward_to_lose(root: Context, kept: int) -> None:
    lineage = Lineage(["instructions", "examples"], {}, 1, 0)
    lineage.add_member(FAILED)
    guard = ContextGuard(lambda c: 1, 100, problems())
    adapter = Adapter(lineage, guard, Evaluator(), Budget(100, reserved=10), problems())
    adapter.rescore([FAILED])
    old = Population((FAILED,), archive={root.id: root, FAILED.id: FAILED})
    assert search_from(adapter, old, [FAILED], iteration=22) == [root]
    assert adapter.budget.reserved == kept


class Flat(Evaluator):
    """The same reward for everything."""

    def reward(self, context: Context, problem: Problem) -> float:
        return 0.5


def test_equal_rewards_above_zero_are_rewards() -> None:
    evolved, report, _ = evolve(population(FAILED), Numberer(), Flat())
    assert report.unproven == 0 and FAILED.id in {c.id for c in evolved.contexts}


def test_children_of_a_root_keep_all_of_its_components() -> None:
    root = Context({"instructions": "Answer.", "examples": "", "style": "plain"})
    evolved, _, _ = evolve(Population((FAILED,), archive={root.id: root, FAILED.id: FAILED}), Numberer())
    assert {c.components.get("style") for c in evolved.contexts} == {"plain"}


class FirstTryLucky(Evaluator):
    """A new context solves its first problems, and no later ones."""

    def __call__(self, pairs):
        known = {c.id for call in self.calls for c, _ in call} | {SEED.id}
        rollouts = super().__call__(pairs)
        return [
            replace(r, reward=float(c.id not in known)) for r, (c, _) in zip(rollouts, pairs, strict=True)
        ]  # fmt: skip


def test_what_improved_and_could_not_be_scored_in_full_gets_a_place_before_what_tied() -> None:
    evolved, _, events = evolve(population(SEED), Numberer(), FirstTryLucky(), budget=50, proposals=4)
    late = {e["context"]["id"] for e in events if e["kind"] == "rejected" and e["reason"] == NO_BUDGET}
    assert late and late <= {c.id for c in evolved.contexts}


@pytest.mark.parametrize("rewards", [(0.0, 0.0, 0.0), (-1.0, -1.0, -1.0)])
def test_the_order_of_places(rewards: tuple[float, ...]) -> None:
    lineage = Lineage(["instructions"], {}, 1, 0)
    by_name = {name: Context({"instructions": name}) for name in ("old", "accepted", "tie", "lucky tie", "late tie")}
    for c in by_name.values():
        lineage.adopt(c, [], "")
    ids = {name: c.id for name, c in by_name.items()}
    zeros = {f"p{i}": r for i, r in enumerate(rewards)}
    lineage.scores = {ids["old"]: zeros, ids["accepted"]: zeros}
    lineage.tied = {ids["tie"]: zeros, ids["late tie"]: zeros, ids["lucky tie"]: {**zeros, "p0": 1.0}}
    chosen = [ids["old"]]  # where K cut them among equals, accepted ones may not be among the chosen

    def names(k: int) -> list[str]:
        again = Lineage(["instructions"], {}, 1, 0)
        again.scores, again.tied, again._by_text = dict(lineage.scores), dict(lineage.tied), lineage._by_text
        found = fill_with_unproven(again, chosen, {ids["old"]}, k)
        return [next(n for n, i in ids.items() if i == f) for f in found]

    assert names(5) == ["accepted", "lucky tie", "tie", "late tie", "old"]
    assert names(3) == ["accepted", "lucky tie", "tie"]
    assert names(1) == ["accepted"]
