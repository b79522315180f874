"""The loop on fakes. Locks: exactly G rollouts a problem, split over K; the methods differ only as they say; equal
counting; budgets; what validation problems may reach; data order by seed alone; stamps."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from loop_fakes import FakeLearner, FakeOptimizer, FakeTask, NotedRecorder, ScriptedSampler

from fastslow.config import RunConfig
from fastslow.config_io import parse_config
from fastslow.fast.base import Proposal
from fastslow.fast.gepa_bridge import GepaOptimizer
from fastslow.fast.reflect.feedback import FeedbackReflector
from fastslow.fst import FastSlowTraining

G, K, B, T = 6, 3, 4, 2  # group, population, problems a batch, steps a cycle


def config(**changes) -> RunConfig:
    data = {
        "task": "chain_sum",
        "steps": 6,
        "fast": {"population": K, "every": T, "budget": 20},
        "slow": {"group_size": G, "problems_per_step": B},
        "evaluation": {"every": 2, "n": 2},
    }
    for key, value in changes.items():
        data[key] = {**data[key], **value} if isinstance(data.get(key), dict) and isinstance(value, dict) else value
    return parse_config(data)


def make(settings: RunConfig, task=None, optimizer="fake", period: int = 2, cut_period: int = 0) -> FastSlowTraining:
    learner = FakeLearner()
    sampler = ScriptedSampler(learner, period, cut_period)
    if settings.method == "rl":
        optimizer = None
    elif optimizer == "fake":
        optimizer = FakeOptimizer(settings.fast.population)
    return FastSlowTraining(settings, task or FakeTask(), sampler, learner, optimizer, NotedRecorder())


def with_gepa(settings: RunConfig, reflector) -> FastSlowTraining:
    loop = make(settings, optimizer=None)
    loop.optimizer = GepaOptimizer(
        settings.fast, reflector, loop.sampler.context_tokens, on_event=loop.recorder.context_event
    )
    return loop


def run(settings: RunConfig, **kwargs) -> FastSlowTraining:
    loop = make(settings, **kwargs)
    loop.run()
    return loop


def signature(loop: FastSlowTraining) -> list:
    """Everything but the seconds."""
    rollouts = [
        (r.phase, r.problem_id, r.context_id, r.weights_step, r.seed, r.text) for r in loop.recorder.all_rollouts
    ]
    state = {k: v for k, v in loop.state.to_dict().items() if k != "seconds"}
    return [rollouts, state]


def test_every_problem_has_exactly_g_rollouts_split_evenly_over_k_contexts():
    loop = run(config())
    assert len(loop.learner.calls) == 6
    for step, groups in enumerate(loop.learner.calls):
        assert [g.problem_id for g in groups] == [p.id for p in loop.batch(step)]
        for group in groups:
            assert len(group.rollouts) == G
            by_context = [r.context_id for r in group.rollouts]
            in_use = min(K, step // T + 2)  # the fake adds one context a cycle to the seed
            assert len(set(by_context)) == in_use
            if in_use == K:
                assert all(by_context.count(c) == G // K for c in set(by_context))
            # The prompts differ by context; the group is the problem's all the same.
            assert len({r.prompt_ids for r in group.rollouts}) == in_use


def test_fewer_contexts_than_k_are_repeated_with_draws_of_their_own():
    loop = run(config(steps=1, fast={"budget": 1}))
    for group in loop.learner.calls[0]:
        assert len({r.seed for r in group.rollouts}) == G


def test_rl_uses_the_seed_context_alone_and_never_evolves():
    loop = run(config(method="rl"))
    assert loop.optimizer is None and not loop.recorder.of("fast")
    assert {r.context.id for r in loop.sampler.requests} == {loop.task.seed_context.id}
    assert loop.state.rollouts == {"fast": 0, "slow": 6 * B * G, "evaluation": 4 * 5 * 2}
    assert len(loop.learner.calls) == 6


def test_gepa_never_calls_the_learner_and_counts_steps_in_cycles():
    loop = run(config(method="gepa"))
    assert not loop.learner.calls and not loop.recorder.of("slow")
    assert [c["cycle"] for c in loop.optimizer.calls] == [0, 1, 2]
    assert loop.state.rollouts["slow"] == 0 and loop.state.problems == 0 and loop.state.step == 6


def test_rollouts_and_tokens_are_counted_by_phase_the_same_way():
    loop = run(config())
    state, noted = loop.state, loop.recorder.all_rollouts
    for phase in ("fast", "slow", "evaluation"):
        mine = [r for r in noted if r.phase == phase]
        assert state.rollouts[phase] == len(mine) > 0
        assert state.tokens[phase]["completion"] == 3 * len(mine)
        assert state.tokens[phase]["prompt"] == sum(len(r.prompt_ids) for r in mine)
    assert state.rollouts["fast"] == sum(e[2].metric_calls for e in loop.recorder.of("fast"))
    assert state.rollouts["slow"] == 6 * B * G and state.problems == 6 * B
    assert state.training_rollouts == state.rollouts["fast"] + state.rollouts["slow"]
    assert sum(r.n for r in loop.sampler.requests) == len(noted)
    assert state.rescued_groups == 6 and all(seconds > 0 for seconds in state.seconds.values())


@pytest.mark.parametrize("method", ["fst", "rl", "gepa"])
@settings(max_examples=25, deadline=None)
@given(cap=st.integers(1, 260), budget=st.integers(1, 60))
def test_the_rollout_budget_is_never_exceeded_and_well_used(method, cap, budget):
    loop = run(config(method=method, max_rollouts=cap, steps=600, fast={"budget": budget}, evaluation={"every": 0}))
    spent = loop.state.training_rollouts
    assert spent <= cap
    assert cap - spent < (1 if method == "gepa" else B * G)
    assert loop.recorder.of("evaluation")[-1][1] == loop.state.step


def test_a_fast_phase_is_cut_so_that_its_slow_step_still_fits():
    loop = run(config(max_rollouts=B * G + 5, steps=50, fast={"budget": 20}))
    assert [c["budget"] for c in loop.optimizer.calls] == [5]
    assert loop.state.rollouts == {"fast": 5, "slow": B * G, "evaluation": loop.state.rollouts["evaluation"]}


@pytest.mark.parametrize(
    "every, steps, expected",
    [(2, 6, [0, 2, 4, 6]), (4, 6, [0, 4, 6]), (0, 6, [0, 6]), (1, 2, [0, 1, 2]), (6, 6, [0, 6])],
)
@pytest.mark.parametrize("method", ["fst", "rl"])
def test_evaluation_at_the_start_every_n_steps_and_at_the_end_once_each(method, every, steps, expected):
    loop = run(config(method=method, steps=steps, evaluation={"every": every}))
    assert [e[1] for e in loop.recorder.of("evaluation")] == expected
    assert [e["step"] for e in loop.state.evaluations] == expected


def test_evaluation_takes_n_samples_of_each_problem_and_the_same_ones_each_time():
    loop = run(config(evaluation={"n": 3, "problems": 4}))
    asked = [[r for r in call] for call in loop.sampler.calls if call[0].problem.id.startswith("val")]
    assert all([r.problem.id for r in call] == [p.id for p in loop.task.val[:4]] for call in asked)
    assert {r.n for call in asked for r in call} == {3}
    assert len({tuple(r.seed for r in call) for call in asked}) == 1


def test_the_same_context_under_the_same_weights_is_measured_once():
    loop = run(config(method="gepa"))
    by_context = [call[0].context.id for call in loop.sampler.calls if call[0].problem.id.startswith("val")]
    assert len(by_context) == len(set(by_context))
    assert len(loop.state.evaluations) == 4


def test_validation_problems_reach_no_context_optimizer_reflector_or_gradient():
    seen: list[str] = []

    class Eavesdropper(FeedbackReflector):
        def set_pool(self, problems):
            seen.extend(p.id for p in problems)
            super().set_pool(problems)

        def propose(self, context, records, components, seed):
            seen.extend(r.problem.id for r in records)
            return super().propose(context, records, components, seed)

    settings = config(fast={"budget": 60, "reflector": "feedback"})
    loop = with_gepa(settings, Eavesdropper.from_config(settings.fast.reflector))
    loop.run()
    val = {p.id for p in loop.task.val}
    trained = {r.problem_id for groups in loop.learner.calls for g in groups for r in g.rollouts}
    assert seen and not val & set(seen)
    assert trained and not val & trained
    for rollout in loop.recorder.all_rollouts:
        assert (rollout.problem_id in val) == (rollout.phase == "evaluation")
    for scores in loop.state.population.scores.values():
        assert not val & set(scores)
    texts = " ".join(t for c in loop.state.population.archive.values() for t in c.components.values())
    assert "of train" in texts and "of val" not in texts  # examples were composed, of training problems alone


def test_lookahead_is_the_problems_of_the_next_batches():
    loop = run(config(steps=8))
    for cycle, call in enumerate(loop.optimizer.calls):
        expected = [p.id for t in range(T) for p in loop.batch(cycle * T + t)]
        assert [p.id for p in call["problems"]] == list(dict.fromkeys(expected))
        assert call["cycle"] == cycle and call["budget"] == 20


def test_the_fast_phase_runs_under_the_weights_of_its_step():
    loop = run(config())
    moved = [sum(not all(g.is_flat for g in groups) for groups in loop.learner.calls[: c * T]) for c in range(3)]
    assert [c["weights_step"] for c in loop.optimizer.calls] == moved and moved[-1] > 0


def test_truncated_replies_earn_nothing_or_keep_their_reward_to_be_masked():
    zero = run(config(slow={"truncated": "zero"}), period=1, cut_period=2)
    cut = [r for r in zero.recorder.all_rollouts if r.finish_reason == "length"]
    whole = [r for r in zero.recorder.all_rollouts if r.finish_reason == "stop"]
    assert cut and whole
    assert {r.reward for r in cut} == {0.0} and {r.reward for r in whole} == {1.0}
    assert all("cut off" in r.feedback for r in cut) and not any("cut off" in r.feedback for r in whole)
    masked = run(config(slow={"truncated": "mask"}), period=1, cut_period=2)
    assert {r.reward for r in masked.recorder.all_rollouts} == {1.0}


@given(seed=st.integers(0, 2**32), train=st.integers(1, 40), size=st.integers(1, 12))
@settings(max_examples=50, deadline=None)
def test_batches_cover_an_epoch_without_repeats_by_seed_alone(seed, train, size):
    task = FakeTask(train, 1)
    settings = config(method="rl", seed=seed, slow={"problems_per_step": size, "group_size": 2})
    loop, again = make(settings, task), make(settings, task)
    size = min(size, train)
    steps = train // size
    for epoch in range(2):
        batches = [loop.batch(epoch * steps + i) for i in range(steps)]
        assert all(len(b) == size for b in batches)
        ids = [p.id for b in batches for p in b]
        assert len(ids) == len(set(ids)) == steps * size
    for step in reversed(range(2 * steps)):  # in any order, from any state
        assert again.batch(step) == loop.batch(step)


@pytest.mark.parametrize("method", ["fst", "rl", "gepa"])
def test_the_same_seed_gives_the_same_run_and_another_seed_other_data(method):
    first, second, other = (run(config(method=method, seed=s)) for s in (3, 3, 4))
    assert signature(first) == signature(second)
    assert [p.id for p in first.batch(0)] != [p.id for p in other.batch(0)]
    assert not {r.seed for r in first.recorder.all_rollouts} & {r.seed for r in other.recorder.all_rollouts}


def test_every_training_draw_has_a_stream_of_its_own():
    loop = run(config())
    seeds = [r.seed for r in loop.recorder.all_rollouts if r.phase != "evaluation"]
    assert len(seeds) == len(set(seeds))


@pytest.mark.parametrize("error", [RuntimeError("down"), ValueError("bad\nreply")])
def test_a_failing_reflector_does_not_end_a_run(error):
    class Failing:
        name = "failing"

        def propose(self, context, records, components, seed):
            raise error

    loop = with_gepa(config(fast={"budget": 40}), Failing())
    state = loop.run()
    assert state.step == 6 and len(loop.learner.calls) == 6
    assert list(state.population.archive) == [loop.task.seed_context.id]
    assert any("reflector error" in reason for e in loop.recorder.of("fast") for reason in e[2].reasons)


def test_a_silent_reflector_leaves_the_seed_context():
    class Silent:
        name = "silent"

        def propose(self, context, records, components, seed):
            return Proposal(None, "no idea")

    loop = with_gepa(config(method="gepa", fast={"budget": 40}), Silent())
    assert [c.id for c in loop.run().population.contexts] == [loop.task.seed_context.id]


def test_every_rollout_is_stamped_with_its_weights_and_context():
    loop = run(config())
    assert loop.learner.weights_step > 1
    known = loop.state.population.archive
    assert {r.context_id for r in loop.recorder.all_rollouts} <= set(known)
    for step, groups in enumerate(loop.learner.calls):
        before = sum(not all(g.is_flat for g in call) for call in loop.learner.calls[:step])
        assert {r.weights_step for g in groups for r in g.rollouts} == {before}


def test_weights_and_state_are_told_to_disagree_only_during_an_update():
    events = [e[0] for e in run(config()).recorder.events if e[0] in ("begin_update", "slow", "note", "boundary")]
    assert events[:5] == ["boundary", "begin_update", "slow", "note", "boundary"]
    assert events[-1] == "boundary"


def test_the_last_boundary_alone_is_saved_by_force():
    saves = [(e[1], e[2]) for e in run(config()).recorder.of("boundary")]
    assert saves == [(s, s == 6) for s in range(7)]
