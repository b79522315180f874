"""Nothing made under other weights is used as current. Each test plants something stale and shows it refused, or
measured again: rollouts at the learner and at the fast phase, a population's scores, an evaluation, GEPA's cache, the
sampler's keys and values."""

from __future__ import annotations

from dataclasses import replace

import gepa
import pytest
import torch
from fast_fakes import Evaluator, WordReflector, context, problems
from loop_fakes import FakeLearner, FakeOptimizer, FakeTask, NotedRecorder, ScriptedSampler
from test_learner import groups_of, learner_of, weights
from tiny_models import save_tiny, tiny_policy

from fastslow.config import FastConfig
from fastslow.config_io import parse_config
from fastslow.fast.gepa_bridge import GepaOptimizer
from fastslow.fast.population import Population
from fastslow.fst import FastSlowTraining
from fastslow.policy.context_store import ContextStore
from fastslow.staleness import StaleError, require_current
from fastslow.types import Group

STALE = r"made under the weights of step {}, but the weights are those of step {}; sample and score again"


def test_the_line_names_both_steps() -> None:
    require_current("a score", 3, 3)
    with pytest.raises(StaleError, match="a score: " + STALE.format(3, 4)):
        require_current("a score", 3, 4)


@pytest.mark.parametrize("shift", [-1, 1])
def test_the_learner_refuses_rollouts_of_other_weights_even_a_single_one(tmp_path, shift: int) -> None:
    policy = tiny_policy(save_tiny(tmp_path / "model"))
    learner = learner_of(policy)
    learner.update(groups_of(policy))
    fresh = groups_of(policy)
    last = fresh[-1].rollouts
    stale = (*last[:-1], replace(last[-1], weights_step=1 + shift))
    before = weights(policy)
    with pytest.raises(StaleError, match=STALE.format(1 + shift, 1)):
        learner.update([*fresh[:-1], Group(fresh[-1].problem_id, stale)])
    assert learner.updates == policy.weights_step == 1
    assert all(torch.equal(p, before[n]) for n, p in policy.trainable().items())
    assert learner.update(fresh)["grad_norm"] > 0


def optimizer() -> GepaOptimizer:
    return GepaOptimizer(FastConfig(), WordReflector(), lambda c: 1)


def test_the_fast_phase_refuses_rollouts_of_other_weights() -> None:
    with pytest.raises(StaleError, match=STALE.format(4, 5)):
        optimizer().evolve(
            Population((context(),)), problems(), Evaluator(weights_step=4), 60, cycle=1, weights_step=5, seed=0
        )


def test_the_fast_phase_refuses_an_answer_to_another_question() -> None:
    class Shuffled(Evaluator):
        def __call__(self, pairs):
            return super().__call__(pairs)[::-1]

    with pytest.raises(ValueError, match="with a rollout of another pair"):
        optimizer().evolve(Population((context(),)), problems(), Shuffled(), 60, cycle=1, weights_step=0, seed=0)


def test_scores_planted_in_the_old_population_decide_nothing() -> None:
    """Not who is re-scored, not who is best, and none of them comes back."""
    members = (context("amber"), context("birch"), context("cedar"))

    def evolved(planted: float) -> Population:
        scores = {c.id: {p.id: planted * i for p in problems()} for i, c in enumerate(members)}
        old = Population(members, scores=scores, weights_step=4, cycle=0)
        assert old.best == members[0]
        return optimizer().evolve(old, problems(), Evaluator(weights_step=5), 40, cycle=1, weights_step=5, seed=0)[0]

    assert evolved(99.0).to_dict() == evolved(-99.0).to_dict() == evolved(0.0).to_dict()
    assert all(0 <= r <= 1 for row in evolved(99.0).scores.values() for r in row.values())


def test_gepa_keeps_no_scores_between_phases_nor_inside_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its cache knows nothing of weights, so it must stay off; a phase under other weights measures all anew."""
    asked: list[dict] = []
    whole = gepa.optimize
    monkeypatch.setattr(gepa, "optimize", lambda **kwargs: (asked.append(kwargs), whole(**kwargs))[1])
    shared, old = optimizer(), Population((context("amber"),))
    first, _ = shared.evolve(old, problems(), Evaluator(weights_step=1), 120, cycle=0, weights_step=1, seed=0)
    turned = Evaluator(weights_step=2, sign=-1)  # under the new weights, every reward is the opposite
    second, _ = shared.evolve(first, problems(), turned, 120, cycle=0, weights_step=2, seed=0)
    assert [k["cache_evaluation"] for k in asked] == [False, False] and all("run_dir" not in k for k in asked)
    by_id = {p.id: p for p in problems()}
    for context_id, row in second.scores.items():
        assert row == {i: turned.reward(second.archive[context_id], by_id[i]) for i in row}
    assert second.weights_step == 2


def loop(**changes) -> FastSlowTraining:
    config = parse_config(
        {
            "task": "chain_sum",
            "steps": 4,
            "fast": {"population": 3, "every": 2, "budget": 20},
            "slow": {"group_size": 6, "problems_per_step": 4},
            **changes,
        }
    )
    learner = FakeLearner()
    return FastSlowTraining(config, FakeTask(), ScriptedSampler(learner), learner, FakeOptimizer(3), NotedRecorder())


def test_a_population_scored_under_other_weights_is_not_taken() -> None:
    class Lagging(FakeOptimizer):
        def evolve(self, *args, **kwargs):
            population, report = super().evolve(*args, **kwargs)
            return replace(population, weights_step=population.weights_step - 1), report

    training = loop()
    training.optimizer = Lagging(3)
    before = training.state.population
    with pytest.raises(StaleError, match="the evolved population: " + STALE.format(-1, 0)):
        training.fast_phase(training.stages[0])
    assert training.state.population is before and not training.recorder.of("fast")


def test_a_planted_evaluation_of_other_weights_is_measured_again() -> None:
    training = loop()
    training.evaluate()
    true = training.state.evaluations[-1]["accuracy"]
    seed_context = training.task.seed_context.id
    honest = training.state.measured[seed_context]
    lie = {**honest, "mean": 0.999}
    training.learner.weights_step = 7
    training.state.measured, training.state.measured_step = {seed_context: lie}, 6
    training.evaluate()
    assert training.state.evaluations[-1]["accuracy"] == true
    assert training.state.measured_step == 7 and training.state.measured[seed_context] == honest


def test_the_sampler_s_keys_and_values_are_forgotten_with_the_weights() -> None:
    store, x = ContextStore(), torch.zeros(1, 2, 3)
    store.refresh(4)
    store.put((1, 2), 0, x, x)
    store.refresh(4)
    assert store.missing([(1, 2)]) == []
    store.refresh(5)
    assert store.missing([(1, 2)]) == [(1, 2)]
