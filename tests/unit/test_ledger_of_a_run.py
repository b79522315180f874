"""What a run leaves in its ledger. Locks: every rollout's context is there; every context has its parents, why it was
proposed and what became of it; the lineage has no circle; every call of the reflector is a row; what is in use."""

from __future__ import annotations

import graphlib
from collections import Counter

import pytest
from fast_fakes import SilentReflector, WordReflector
from ledger_fakes import fake_run

from fastslow.fast.base import FailedTry, Proposal, Record
from fastslow.fast.population import Population, context_to_dict
from fastslow.fast.reflect.prompt import text_hash
from fastslow.fast.reflection import read_hash
from fastslow.report.contexts import was_accepted
from fastslow.runs.fates import LEFT_OUT, OUTCOMES, OUTSCORED, UNJUDGED, Fates
from fastslow.runs.ledger_query import ContextHistory, KnownFate, open_ledger, read_contexts
from fastslow.runs.metrics import read_metrics
from fastslow.types import Context, Problem


@pytest.fixture(scope="module", params=["fst", "gepa"])
def ran(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ledger") / request.param
    return fake_run(folder, request.param), folder


def rows(folder, table: str) -> list[dict]:
    with open_ledger(folder) as db:
        return [dict(r) for r in db.execute(f"SELECT * FROM {table} ORDER BY 1")]


def test_every_context_that_was_rolled_out_is_there_with_its_text(ran):
    loop, folder = ran
    known = {c.id: c for c in read_contexts(folder)}
    assert {r["context_id"] for r in rows(folder, "rollouts")} <= set(known)
    for context in loop.state.population.archive.values():
        found = known[context.id]
        assert dict(found.components) == dict(context.components) and found.parents == context.parents
        assert (found.birth_cycle, found.reason) == (context.birth_cycle, context.reason)


def test_what_is_in_use_is_the_population(ran):
    loop, folder = ran
    assert {c.id for c in read_contexts(folder) if c.in_use} == {c.id for c in loop.state.population.contexts}


def test_every_fate_is_told_and_explained(ran):
    loop, folder = ran
    fates = rows(folder, "contexts")
    assert (fates[0]["id"], fates[0]["outcome"]) == (loop.task.seed_context.id, "seed")
    seen = Counter(f["outcome"] for f in fates)
    assert set(seen) <= set(OUTCOMES) and seen["seed"] == 1
    assert min(seen["accepted"], seen["rejected"], seen["refused"], seen["dropped"], seen["rescored"]) > 0
    for fate in fates:
        assert fate["reason"], fate
        assert bool(fate["outcome_reason"]) != (fate["outcome"] in ("seed", "rescored", "accepted"))
        if fate["outcome"] not in ("seed", "rescored", "dropped") and fate["id"] != loop.task.seed_context.id:
            assert fate["parents"] != "[]"
    metrics = [line for line in read_metrics(folder / "metrics.jsonl") if line["kind"] == "fast"]
    accepted = {(f["cycle"], f["id"]) for f in fates if f["outcome"] == "accepted"}
    taken_back = {(f["cycle"], f["id"]) for f in fates if f["outcome"] == "rejected"} & accepted
    assert len(accepted - taken_back) == sum(line["accepted"] for line in metrics)
    failed = sum(r["outcome"] == "failed" for r in rows(folder, "reflections"))
    assert seen["rejected"] + seen["refused"] + failed == sum(line["rejected"] for line in metrics)


def test_the_lineage_has_no_circle_and_leads_back_to_the_seed(ran):
    loop, folder = ran
    parents = {c.id: c.parents for c in read_contexts(folder)}
    order = list(graphlib.TopologicalSorter(parents).static_order())  # raises CycleError
    assert set(order) == set(parents) and [i for i, p in parents.items() if not p] == [loop.task.seed_context.id]
    assert any(len(p) == 2 for p in parents.values()), "no crossing in this run"


def test_rewards_are_the_means_of_the_rollouts(ran):
    _, folder = ran
    stored = rows(folder, "rollouts")
    for context in read_contexts(folder):
        for phase in ("fast", "slow", "evaluation"):
            rewards = [r["reward"] for r in stored if (r["context_id"], r["phase"]) == (context.id, phase)]
            assert (phase in context.rewards) == bool(rewards)
            if rewards:
                assert context.rewards[phase].n == len(rewards)
                assert context.rewards[phase].mean == pytest.approx(sum(rewards) / len(rewards))


def test_fast_rollouts_belong_to_the_cycle_that_asked_for_them(ran):
    _, folder = ran
    for row in rows(folder, "rollouts"):
        if row["phase"] != "evaluation":
            assert row["cycle"] == row["step"] // 2


def test_the_seed_context_of_a_run_without_fast_phases_is_there(tmp_path):
    loop = fake_run(tmp_path / "rl", "rl")
    (context,) = read_contexts(tmp_path / "rl")
    assert context.id == loop.task.seed_context.id and context.in_use
    assert not rows(tmp_path / "rl", "reflections")


def test_every_call_of_the_reflector_is_a_row_linked_to_what_it_read_and_proposed(tmp_path):
    calls = []

    class Listening(WordReflector):
        def propose(self, context, records, components, seed):
            calls.append((context, list(records), list(components)))
            missed = [r.problem.id for r in records if r.reward < 1]
            new = {"instructions": f"{context.instructions} {missed[0]}".strip()} if missed else None
            return Proposal(new, "try it" if missed else "nothing missed", calls=1, tokens=10)

    fake_run(tmp_path / "run", reflector=Listening())
    stored, contexts = rows(tmp_path / "run", "reflections"), {c.id for c in read_contexts(tmp_path / "run")}
    assert len(stored) == len(calls) > 5
    for row, (context, records, components) in zip(stored, calls, strict=True):
        assert (row["reflector"], row["context_id"], row["tokens"]) == ("word", context.id, 10)
        assert row["prompt_hash"] == read_hash(context, records, components) and row["seconds"] >= 0
        assert row["outcome"] in ("proposed", "refused", "failed")
        assert (row["proposed_id"] in contexts) == (row["outcome"] != "failed")
    assert len({row["outcome"] for row in stored}) > 1


def test_failures_and_repeated_tries_are_rows_with_their_reasons_and_shares(tmp_path):
    class Stuttering:
        name = "stuttering"

        def propose(self, context, records, components, seed):
            tries = (FailedTry(3, 0.25, "endpoint error 503: busy"), FailedTry(0, 0.5, "endpoint timed out"))
            return Proposal(
                None, "empty reply", calls=3, tokens=10, seconds=1.0, prompt_hash=text_hash("p"), failed=tries
            )

    fake_run(tmp_path / "a", reflector=Stuttering(), population=1)
    stored = rows(tmp_path / "a", "reflections")
    assert stored and len(stored) % 3 == 0
    told = [(r["outcome"], r["reason"], r["tokens"], r["seconds"], r["prompt_hash"]) for r in stored[:3]]
    prompt = text_hash("p")
    assert told == [
        ("retried", "endpoint error 503: busy", 3, 0.25, prompt),
        ("retried", "endpoint timed out", 0, 0.5, prompt),
        ("failed", "empty reply", 7, 0.25, prompt),
    ]
    fake_run(tmp_path / "b", reflector=SilentReflector(RuntimeError("down")), population=1)
    stored = rows(tmp_path / "b", "reflections")
    assert stored and {(r["outcome"], r["reason"]) for r in stored} == {
        ("failed", "reflector error: RuntimeError: down")
    }


def test_what_is_read_is_hashed_to_the_letter():
    context, problem = Context({"instructions": "a"}), Problem("p", "Why?", "b")
    base = read_hash(context, [Record(problem, "c", 0.0, "d")], ["instructions"])
    others = [
        read_hash(Context({"instructions": "A"}), [Record(problem, "c", 0.0, "d")], ["instructions"]),
        read_hash(context, [Record(problem, "C", 0.0, "d")], ["instructions"]),
        read_hash(context, [Record(problem, "c", 0.5, "d")], ["instructions"]),
        read_hash(context, [Record(problem, "c", 0.0, "\ud800")], ["instructions"]),
        read_hash(context, [Record(problem, "c", 0.0, "d")], ["examples"]),
        read_hash(context, [Record(problem, "c", 0.0, "d")], ["instructions"], [problem]),
    ]
    assert len({base, *others}) == 7 and len(base) == 16
    assert base == read_hash(context, [Record(problem, "c", 0.0, "d")], ["instructions"])


def event(kind: str, context: Context | None, reason: str = "") -> dict:
    return {"kind": kind, "context": None if context is None else context_to_dict(context), "reason": reason}


def test_contexts_that_leave_or_are_never_judged_say_so():
    a, b, c, d, e = (Context({"instructions": t}, reason=t) for t in "abcde")
    fates = Fates()
    fates.start(Population((a, b)))
    for kind, context, reason in (
        ("rescored", a, ""), ("proposed", c, ""), ("proposed", d, ""), ("accepted", c, "c"), ("failed", None, "silent"),
        ("refused", a, "already tried in this cycle"),
    ):  # fmt: skip
        fates.hear(event(kind, context, reason))
    told = [(f.context.id, f.outcome, f.reason) for f in fates.settle(Population((c, e)))]
    assert told == [
        (a.id, "rescored", ""),
        (c.id, "accepted", ""),
        (a.id, "refused", "already tried in this cycle"),
        (e.id, "accepted", ""),  # from an optimizer that told nothing of it
        (d.id, "proposed", UNJUDGED),
        (a.id, "dropped", OUTSCORED),
        (b.id, "dropped", LEFT_OUT),
    ]
    assert [f.outcome for f in fates.settle(Population((c, e)))] == []  # nothing is told twice


def test_a_rejected_context_that_gets_a_place_after_all_is_in_use_until_it_is_dropped():
    a, b = (Context({"instructions": t}, reason=t) for t in "ab")
    fates = Fates()
    fates.start(Population((a,)))
    for kind, context, reason in (
        ("rescored", a, ""),
        ("proposed", b, ""),
        ("rejected", b, "no"),
        ("unproven", b, "tied"),
    ):
        fates.hear(event(kind, context, reason))
    told = [(f.context.id, f.outcome, f.reason) for f in fates.settle(Population((b,)))]
    assert told == [
        (a.id, "rescored", ""),
        (b.id, "rejected", "no"),
        (b.id, "unproven", "tied"),
        (a.id, "dropped", OUTSCORED),
    ]

    def history(*outcomes: str) -> ContextHistory:
        return ContextHistory(b.id, {}, (), 0, "", [KnownFate(i, outcome, "") for i, outcome in enumerate(outcomes)])

    assert history("rejected", "unproven").in_use and was_accepted(history("rejected", "unproven"))
    assert not history("rejected", "unproven", "rescored", "dropped").in_use
    assert not history("unproven", "rejected").in_use and not was_accepted(history("rejected"))
