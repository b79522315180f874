"""The fast phase by GEPA. Behaviours locked here:

* metric calls are rollouts, one for one, and never pass the budget;
* the whole old population is scored again, first, in one batch, and no older score comes back;
* the same inputs and seed give the same output, in any process and with any thread;
* lineage has no cycles, and every proposal's fate is told;
* a reflector that fails, raises or proposes rubbish costs proposals, never the run;
* a merge through an ancestor of mean 0 doesn't raise (gepa 0.1.4 draws it with weight 0).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from fast_fakes import WORDS, Evaluator, SilentReflector, WordReflector, context, problems
from hypothesis import given, settings
from hypothesis import strategies as st

from fastslow.config import EndpointReflector, FastConfig
from fastslow.fast.base import Proposal
from fastslow.fast.gepa_adapter import PATIENCE, positive
from fastslow.fast.gepa_bridge import GepaOptimizer
from fastslow.fast.population import Population
from fastslow.types import Context

SEED = Population((context(),))
TRIO = Population((context("amber"), context("birch"), context(examples="### Question\nq\n### Answer\ncedar")))


def words(c: Context) -> int:
    return len(" ".join(c.components.values()).split())


def evolve(population=SEED, evaluator=None, reflector=None, budget=200, config=None, n=16, seed=0, step=5, events=None):
    evaluator = evaluator or Evaluator()
    evaluator.weights_step = step
    on_event = None if events is None else events.append
    optimizer = GepaOptimizer(config or FastConfig(), reflector or WordReflector(), words, on_event=on_event)
    result = optimizer.evolve(population, problems(n), evaluator, budget, cycle=2, weights_step=step, seed=seed)
    return *result, evaluator


def test_it_finds_contexts_that_solve_more_than_the_seed() -> None:
    population, report, _ = evolve(budget=400)
    assert len(population.contexts) == 4
    assert population.mean_score(population.contexts[0]) >= 0.75
    means = [population.mean_score(c) for c in population.contexts]
    assert means == sorted(means, reverse=True)
    assert report.accepted > 0 and report.proposals == report.accepted + report.rejected
    assert report.reflection_tokens == 10 * report.reflection_calls > 0
    assert population.weights_step == 5 and population.cycle == 2


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 260), st.integers(1, 20), st.integers(0, 5), st.sampled_from([SEED, TRIO]), st.booleans())
def test_metric_calls_are_rollouts_and_never_pass_the_budget(budget, n, seed, population, noisy) -> None:
    evaluator = Evaluator(noise=0.3 * noisy)
    evolved, report, _ = evolve(population, evaluator, budget=budget, n=n, seed=seed)
    assert report.metric_calls == evaluator.rollouts <= budget
    # Equal terms: everything returned was scored on the same problems.
    assert len({frozenset(row) for row in evolved.scores.values()}) == 1
    assert {c.id for c in evolved.contexts} <= set(evolved.scores)


def test_an_ample_budget_is_used_up_to_less_than_one_more_proposal() -> None:
    # A reflector that always has something new, and rewards that never reach 1 on a whole minibatch.
    _, report, _ = evolve(evaluator=Evaluator(noise=0.5), budget=500)
    assert 450 - report.metric_calls < 16 + 2 * 3 * 2  # a tenth is kept for re-scoring


def test_the_whole_old_population_is_scored_first_in_one_batch() -> None:
    _, _, evaluator = evolve(TRIO, budget=300)
    first = evaluator.calls[0]
    expected = [(c.id, p.id) for c in TRIO.contexts for p in problems()]
    assert sorted((c.id, p.id) for c, p in first) == sorted(expected)
    # Handed over to GEPA, not paid twice: no later call covers a member on the whole anchor set.
    for member in TRIO.contexts:
        assert max(sum(c.id == member.id for c, _ in call) for call in evaluator.calls[1:]) <= 2 * 3


def test_old_scores_order_the_members_and_never_come_back() -> None:
    stale = {c.id: {p.id: 99.0 for p in problems()} for c in TRIO.contexts} | {"gone": {"p0": 99.0}}
    old = Population(TRIO.contexts, scores=stale, weights_step=4)
    # Under the new weights the words hurt: every old score is wrong.
    population, _, _ = evolve(old, Evaluator(sign=-1, weights_step=5), step=5)
    assert population.weights_step == 5 and "gone" not in population.scores
    judge = Evaluator(sign=-1)
    by_id = {p.id: p for p in problems()}
    for context_id, row in population.scores.items():
        assert row == {i: judge.reward(population.archive[context_id], by_id[i]) for i in row}


def test_a_tight_budget_keeps_the_members_that_the_last_phase_put_first() -> None:
    old = Population((TRIO.contexts[1], TRIO.contexts[2], TRIO.contexts[0]))
    population, _, evaluator = evolve(old, budget=30, config=FastConfig(rescore=0))
    # 30 calls: (30 - 2 * 6) // (1 + 2) = 6 problems are a third of 16, for one member; two would get 4.
    assert {c.id for c, _ in evaluator.calls[0]} == {TRIO.contexts[1].id}
    assert TRIO.contexts[0].id in population.archive


def test_several_accepted_candidates_are_scored_in_one_call() -> None:
    _, report, evaluator = evolve(budget=400)
    assert report.accepted >= 2
    assert any(len({c.id for c, _ in call}) == 2 and len(call) == 2 * 16 for call in evaluator.calls[1:])


def fingerprint(**kwargs) -> str:
    population, report, _ = evolve(TRIO, Evaluator(noise=0.2), **kwargs)
    return json.dumps([population.to_dict(), report.proposals, report.metric_calls, dict(report.reasons)])


def test_same_inputs_and_seed_same_output() -> None:
    assert fingerprint(seed=3) == fingerprint(seed=3)
    assert len({fingerprint(seed=s) for s in range(4)}) == 4


def test_same_output_in_another_process_with_another_hash_seed() -> None:
    code = "from test_fast_gepa import fingerprint; print(fingerprint(seed=3, budget=300))"
    here = fingerprint(seed=3, budget=300)
    for hash_seed in ("1", "2"):
        env = {**os.environ, "PYTHONHASHSEED": hash_seed}
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=Path(__file__).parent, env=env, capture_output=True, text=True, check=True
        )
        assert done.stdout.strip() == here


def test_the_fast_weights_never_import_torch() -> None:
    code = (
        "import sys, fastslow.fast.gepa_bridge, fastslow.fast.reflect.feedback, fastslow.fast.reflect.endpoint; "
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_a_concurrent_reflector_gives_the_same_as_one_asked_in_turn() -> None:
    threaded = WordReflector()
    threaded.concurrent = True
    assert fingerprint(seed=1, reflector=threaded) == fingerprint(seed=1)


def test_lineage_has_no_cycles_and_every_fate_is_told() -> None:
    events: list[dict] = []
    population, report, _ = evolve(TRIO, Evaluator(noise=0.1), budget=500, events=events)
    population, report2, _ = evolve(population, Evaluator(noise=0.1), budget=500, seed=1, events=events)
    json.dumps(events)
    kinds = [e["kind"] for e in events]
    lucky = sum(e["kind"] == "rejected" and e["reason"].startswith("lucky: ") for e in events)
    assert kinds.count("accepted") - lucky == report.accepted + report2.accepted
    assert sum(map(kinds.count, ("rejected", "refused", "failed"))) == report.rejected + report2.rejected
    assert sum(report2.reasons.values()) == report2.rejected

    archive = population.archive
    assert {e["context"]["id"] for e in events if e["kind"] == "accepted"} <= set(archive)

    def depth(context_id: str, above: tuple[str, ...] = ()) -> int:
        assert context_id not in above, "a context descends from itself"
        parents = archive[context_id].parents
        return 1 + max((depth(p, (*above, context_id)) for p in parents), default=0)

    assert max(depth(i) for i in archive) > 2
    assert all(c.birth_cycle == 2 for c in archive.values() if c.parents)


def test_a_text_that_an_earlier_cycle_knew_keeps_its_lineage() -> None:
    every = " ".join(WORDS)
    child = Context({"instructions": every, "examples": ""}, (context().id,), 1, "say all")
    # The old population holds a descendant of the dropped child, which is proposed again from it.
    descendant = Context({"instructions": "nothing", "examples": ""}, (child.id,), 1, "say nothing")

    class Again:
        name = "again"

        def propose(self, *_):
            return Proposal({"instructions": every}, "again")

    old = Population((descendant,), archive={child.id: child})
    events: list[dict] = []
    population, _, _ = evolve(old, reflector=Again(), events=events)
    told = [e["context"] for e in events if e["context"] and e["context"]["id"] == child.id]
    assert told and all(e["parents"] == list(child.parents) for e in told)
    assert population.archive[child.id].parents == child.parents
    assert child.id in population.scores


def test_a_merge_joins_two_parents() -> None:
    events: list[dict] = []
    for seed in range(4):
        evolve(budget=600, seed=seed, events=events)
    merges = [e for e in events if e["reason"] == "merge" and e["kind"] == "accepted"]
    assert merges
    born = {e["context"]["id"]: e["context"] for e in events if e["context"]}
    for event in merges:
        left, right = (born[i]["components"] for i in event["context"]["parents"])
        for name, text in event["context"]["components"].items():
            assert text in (left[name], right[name])
        assert event["context"]["components"] not in (left, right)
    without: list[dict] = []
    evolve(budget=600, config=FastConfig(merge=False), events=without)
    assert not any(e["reason"] == "merge" for e in without)


def test_old_members_are_merged_through_the_weakest_of_them() -> None:
    """Without any reflection: "" is the ancestor, and each of the others changed another part of it."""
    amber, cedar = context("amber"), context("", "### Question\nq\n### Answer\ncedar")
    population, report, _ = evolve(Population((amber, cedar, context())), reflector=SilentReflector(), budget=300)
    assert report.accepted == 1
    merged = population.contexts[0]
    assert merged.components == {"instructions": "amber", "examples": cedar.examples}
    assert set(merged.parents) == {amber.id, cedar.id} and merged.reason == "merge"
    assert population.mean_score(merged) == 0.5


def test_no_proposal_is_started_that_could_not_be_scored_in_full() -> None:
    for budget in range(40, 260, 7):
        _, report, _ = evolve(budget=budget, config=FastConfig(proposals=1))
        assert "no budget left" not in report.reasons


@pytest.mark.parametrize(
    ("reflector", "reason"),
    [
        (SilentReflector(), "no idea"),
        (SilentReflector(ValueError("boom")), "reflector error"),
    ],
)
def test_a_failing_reflector_never_ends_the_run(reflector: SilentReflector, reason: str) -> None:
    population, report, evaluator = evolve(TRIO, reflector=reflector, budget=5000, config=FastConfig(merge=False))
    assert {c.id for c in population.contexts} == {c.id for c in TRIO.contexts}
    assert report.accepted == 0 and report.reasons == {reason: report.proposals}
    assert reflector.calls == report.proposals
    # It gives up soon instead of spending all rollouts on the parents.
    assert evaluator.rollouts <= 3 * 16 + (PATIENCE + 1) * 2 * 3


def test_a_solved_task_stops_early() -> None:
    population, report, evaluator = evolve(Population((context(" ".join(WORDS)),)), budget=5000)
    assert population.mean_score(population.best) == 1.0
    assert report.proposals == 0 and evaluator.rollouts < 16 + 100


def test_rubbish_is_refused_with_its_reason() -> None:
    class Rubbish:
        name = "rubbish"
        texts = ("x " * 600, "", "amber", 7)
        count = 0

        def propose(self, *_):
            self.count += 1
            if self.count % 5 == 0:
                return Proposal({"examples": "no headings"}, "?")
            return Proposal({"instructions": self.texts[self.count % 4], "unknown": "x"}, "?")

    population, report, _ = evolve(Population((context("amber"),)), reflector=Rubbish(), budget=2000)
    assert set(report.reasons) == {"token cap", "empty context", "unchanged", "examples can't be read"}
    assert [c.id for c in population.contexts] == [context("amber").id]


def test_a_problem_that_the_context_shows_is_not_rolled_out() -> None:
    shown = problems()[3]
    cheat = context("", f"### Question\n{shown.text}\n### Answer\nx")
    population, _, evaluator = evolve(Population((cheat,)))
    assert not any(c.id == cheat.id and p.id == shown.id for call in evaluator.calls for c, p in call)
    assert shown.id not in population.scores[cheat.id] and len(population.scores[cheat.id]) == 15


def test_components_beyond_the_config_are_left_alone_and_ids_survive() -> None:
    bare = Context({"instructions": "amber", "style": "plain"})
    population, _, _ = evolve(
        Population((bare,)), config=FastConfig(components=["instructions"], reflector=EndpointReflector(model="m"))
    )
    assert bare.id in population.scores
    for c in population.contexts:
        assert c.components.get("style") == "plain" and "examples" not in c.components


def test_errors_of_the_evaluator_come_through() -> None:
    class Broken(Evaluator):
        def __call__(self, pairs):
            if len(self.calls) == 2:
                raise MemoryError("out of memory")
            return super().__call__(pairs)

    class Forgetful(Evaluator):
        def __call__(self, pairs):
            return []

    with pytest.raises(MemoryError):
        evolve(evaluator=Broken())
    with pytest.raises(ValueError, match="0 rollouts for 16 pairs"):
        evolve(evaluator=Forgetful())


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="at least one metric call"):
        evolve(budget=0)
    with pytest.raises(ValueError, match="at least one problem"):
        evolve(n=0)


def test_nothing_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    evolve()
    assert capsys.readouterr() == ("", "")


@given(st.floats(-1e3, 1e3), st.floats(-1e3, 1e3))
def test_gepa_sees_rewards_in_the_same_order_and_none_below_zero(x: float, y: float) -> None:
    assert (x < y) <= (positive(x) <= positive(y))
    assert positive(x) >= 0 and positive(0.0) > positive(-0.5) > 0
