"""Fast-Slow Training (arXiv 2605.12484): two channels learn the same task at two speeds.

    every T slow steps: fast phase   GEPA evolves the population Φ on the problems of the next T batches
    each slow step:                  G rollouts per problem, G/K under each of K contexts; one advantage per problem,
                                     across contexts; CISPO moves θ
    every few steps:                 evaluate on validation problems, which reach no context, reflector or gradient

``method: rl`` is the same loop with the seed context alone and no fast phase; ``gepa`` has no slow phase.
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from typing import Any

from fastslow.config import RunConfig
from fastslow.errors import RunError
from fastslow.evaluation.accuracy import Accuracy, measure_accuracy
from fastslow.fast.base import FastOptimizer, FastReport
from fastslow.fast.population import Population
from fastslow.policy.base import Sampler
from fastslow.rollouts import score_rollout
from fastslow.runs.recorder import Recorder
from fastslow.runs.state import RunState
from fastslow.seeds import derive_seed
from fastslow.slow.base import SlowLearner
from fastslow.staleness import require_current
from fastslow.tasks.base import Task
from fastslow.types import Completion, Context, Group, Phase, Problem, Request, Rollout, group_rollouts


class FastSlowTraining:
    """The loop over exchangeable parts. All that a checkpoint must hold is ``state``, the learner's and the RNGs'."""

    def __init__(
        self,
        config: RunConfig,
        task: Task,
        sampler: Sampler,
        learner: SlowLearner,
        optimizer: FastOptimizer | None,
        recorder: Recorder,
        state: RunState | None = None,
    ) -> None:
        self.config, self.task = config, task
        self.sampler, self.learner, self.optimizer = sampler, learner, optimizer
        self.recorder = recorder
        self.state = state or RunState(population=Population((task.seed_context,)))

    def run(self) -> RunState:
        """Train to the end of the config (or of its rollout budget), from wherever ``state`` stands."""
        self.recorder.begin(self)
        while True:
            if self.evaluation_due():
                self.evaluate()
            self.recorder.boundary(self, save=self.done())
            if self.done():
                return self.state
            if self.optimizer is not None and self.state.step % self.config.fast.every == 0:
                self.fast_phase()
            if self.config.method == "gepa":
                self.state.step += self.config.fast.every
            else:
                self.slow_step()
            self.recorder.note(self)

    def done(self) -> bool:
        """The steps are done, or the rollout budget has no room for one more phase."""
        if self.state.step >= self.config.steps:
            return True
        if self.config.max_rollouts is None:
            return False
        return self.config.max_rollouts - self.state.training_rollouts < max(1, self._slow_spend)

    def evaluation_due(self) -> bool:
        """At the start, every ``evaluation.every`` steps and at the end, once each."""
        state, every = self.state, self.config.evaluation.every
        if state.evaluations and state.evaluations[-1]["step"] == state.step:
            return False
        return state.step == 0 or self.done() or bool(every and state.step % every == 0)

    def fast_phase(self) -> None:
        """Evolve Φ on the lookahead, the problems of the next T batches, under the current weights."""
        assert self.optimizer is not None
        state, started = self.state, time.perf_counter()
        cycle = state.step // self.config.fast.every
        ahead = [p for t in range(self.config.fast.every) for p in self.batch(state.step + t)]
        lookahead = list({p.id: p for p in ahead}.values())
        calls = 0

        def evaluate(pairs: Sequence[tuple[Context, Problem]]) -> list[Rollout]:
            nonlocal calls
            requests = [
                Request(context, problem, 1, self.seed("fast", cycle, calls + i))
                for i, (context, problem) in enumerate(pairs)
            ]
            calls += len(requests)
            return self.rollouts("fast", requests)

        budget = self.config.fast_budget
        if self.config.max_rollouts is not None:
            budget = min(budget, self.config.max_rollouts - state.training_rollouts - self._slow_spend)
        if budget < 1:
            return
        evolved, report = self.optimizer.evolve(
            state.population,
            lookahead,
            evaluate,
            budget,
            cycle=cycle,
            weights_step=self.sampler.weights_step,
            seed=self.config.seed,
        )
        require_current("the evolved population", evolved.weights_step, self.sampler.weights_step)
        state.population = evolved
        self._record_fast(cycle, report, time.perf_counter() - started)

    def slow_step(self) -> None:
        """One batch of problems, G rollouts each across the population, one optimizer step."""
        state, started = self.state, time.perf_counter()
        contexts = state.population.in_use(self.config.contexts_in_use)
        share = self.config.slow.group_size // len(contexts)
        requests = [
            Request(context, problem, share, self.seed("slow", state.step, problem.id, k))
            for problem in self.batch(state.step)
            for k, context in enumerate(contexts)
        ]
        rollouts = self.rollouts("slow", requests)
        groups = group_rollouts(rollouts, self.config.slow.group_size)
        sampled = time.perf_counter()
        self.recorder.begin_update()
        metrics = self.learner.update(groups)
        state.step += 1
        self._record_slow(groups, metrics, sampled - started, time.perf_counter() - started)

    def evaluate(self) -> None:
        """Validation accuracy under the seed context and under the best evolved one, chosen on training problems."""
        state, started = self.state, time.perf_counter()
        problems = self.task.val[: self.config.evaluation.problems]
        seed_context = self.measure(self.task.seed_context, problems)
        evolved = self.measure(state.population.best, problems)
        state.seconds["evaluation"] += time.perf_counter() - started
        state.evaluations.append(
            {
                "step": state.step,
                "problems": state.problems,
                "rollouts": dict(state.rollouts),
                "accuracy": {"seed_context": seed_context.mean, "evolved_context": evolved.mean},
                "ci95": {"seed_context": seed_context.ci95, "evolved_context": evolved.ci95},
                "majority_answer_share": evolved.majority_answer_share,
            }
        )
        self.recorder.evaluation(self, seed_context, evolved)

    def measure(self, context: Context, problems: Sequence[Problem]) -> Accuracy:
        """mean@n accuracy of a context. The same weights and context give the same numbers, so they are kept."""
        state, step = self.state, self.sampler.weights_step
        if state.measured_step != step:
            state.measured, state.measured_step = {}, step
        if context.id not in state.measured:
            n = self.config.evaluation.n
            requests = [Request(context, p, n, self.seed("evaluation", p.id)) for p in problems]
            accuracy = measure_accuracy(self.rollouts("evaluation", requests), seed=self.config.seed)
            state.measured[context.id] = accuracy.to_dict()
        return Accuracy.from_dict(state.measured[context.id])

    def held_out_rollouts(self, context: Context, problems: Sequence[Problem]) -> list[Rollout]:
        """One scored rollout per validation problem, outside of the run's counts: for measurements after the run."""
        requests = [Request(context, p, 1, self.seed("held-out", p.id)) for p in problems]
        completions = self.sampler.sample(requests)
        return [self._score("evaluation", r, 0, c) for r, (c,) in zip(requests, completions, strict=True)]

    def rollouts(self, phase: Phase, requests: Sequence[Request]) -> list[Rollout]:
        """Sample and score; every rollout is stamped, counted and recorded."""
        completions = self.sampler.sample(requests)
        rollouts = [
            self._score(phase, request, i, completion)
            for request, samples in zip(requests, completions, strict=True)
            for i, completion in enumerate(samples)
        ]
        self.state.count(phase, rollouts)
        self.recorder.rollouts(phase, self.state, rollouts)
        return rollouts

    def _score(self, phase: Phase, request: Request, sample: int, completion: Completion) -> Rollout:
        return score_rollout(
            self.task,
            request,
            sample,
            completion,
            phase=phase,
            weights_step=self.sampler.weights_step,
            truncated=self.config.slow.truncated,
        )

    def batch(self, step: int) -> list[Problem]:
        """The problems of slow step ``step``: a pure function of it, so the data position needs no saving."""
        size = self._batch_size
        per_epoch = len(self.task.train) // size
        epoch, index = divmod(step, per_epoch)
        order = list(range(len(self.task.train)))
        random.Random(self.seed("data", epoch)).shuffle(order)
        return [self.task.train[i] for i in order[index * size : (index + 1) * size]]

    @property
    def _batch_size(self) -> int:
        return min(self.config.slow.problems_per_step, len(self.task.train))

    @property
    def _slow_spend(self) -> int:
        """Rollouts of one slow step."""
        return 0 if self.config.method == "gepa" else self.config.slow.group_size * self._batch_size

    def seed(self, *path: str | int) -> int:
        return derive_seed(self.config.seed, *path)

    def _record_fast(self, cycle: int, report: FastReport, seconds: float) -> None:
        self.state.seconds["fast"] += seconds
        self.recorder.fast(self.state, cycle, report, seconds)

    def _record_slow(self, groups: Sequence[Group], metrics: dict[str, float], sampling: float, seconds: float) -> None:
        state = self.state
        state.problems += len(groups)
        state.seconds["slow"] += seconds
        state.flat_groups += int(metrics["flat_groups"])
        state.rescued_groups += int(metrics["rescued_groups"])
        skipped = int(metrics.get("skipped_steps", 0))
        state.skipped_steps += skipped
        state.skipped_in_a_row = state.skipped_in_a_row + 1 if skipped else 0
        rewards = [r for g in groups for r in g.rewards]
        values: dict[str, Any] = {"reward": sum(rewards) / len(rewards), **metrics}
        self.recorder.slow(state, values, sampling, seconds)
        if state.skipped_in_a_row >= self.config.slow.max_skipped_steps:
            raise RunError(
                f"{state.skipped_in_a_row} updates in a row were skipped (gradient norm {metrics['grad_norm']:g}), and "
                f"the weights are still those of weights step {self.sampler.weights_step}; raise "
                "slow.max_skipped_steps to go past them, or start anew with a lower slow.lr"
            )
