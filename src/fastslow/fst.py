"""Fast-Slow Training (arXiv 2605.12484): two channels learn the same task at two speeds.

    every T slow steps: fast phase   GEPA evolves the population Φ on the problems of the next T batches
    each slow step:                  G rollouts per problem, G/K under each of K contexts; one advantage per problem,
                                     across contexts; CISPO moves θ
    every few steps:                 evaluate on validation problems, which reach no context, reflector or gradient

``method: rl`` is the same loop with the seed context alone and no fast phase; ``gepa`` has no slow phase;
``fst-distill`` has another learner. In a schedule the task changes at a step, and nothing else does: weights,
population and counters go on, and a cycle begins.
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from typing import Any

from fastslow.config import RunConfig
from fastslow.errors import RunError
from fastslow.evaluation.accuracy import Accuracy, accuracy_pair, measure_accuracy
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
from fastslow.tasks.schedule import StageTask, stage_at, stages_of
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
        self.stages = stages_of(task)

    def run(self) -> RunState:
        """Train to the end of the config (or of its rollout budget), from wherever ``state`` stands."""
        self.recorder.begin(self)
        while True:
            if self.evaluation_due():
                self.evaluate()
            self.recorder.boundary(self, save=self.done())
            if self.done():
                return self.state
            stage = stage_at(self.stages, self.state.step)
            if self.optimizer is not None and (self.state.step - stage.start) % self.config.fast.every == 0:
                self.fast_phase(stage)
            if self.config.method == "gepa":
                self.state.step += self._batches_ahead(stage)
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
        """At the start, every ``evaluation.every`` steps, at a stage's end and at the run's, once each."""
        state, every = self.state, self.config.evaluation.every
        if state.evaluations and state.evaluations[-1]["step"] == state.step:
            return False
        switch = any(state.step == stage.start for stage in self.stages)  # the first stage's is the run's start
        return switch or self.done() or bool(every and state.step % every == 0)

    def fast_phase(self, stage: StageTask) -> None:
        """Evolve Φ on the lookahead, the problems of the stage's next T batches, under the current weights.

        At a switch the old population is where the search starts, and it is scored anew, on the new task; where none of
        it earns anything there, the search starts from the seed context.
        """
        assert self.optimizer is not None
        state, started = self.state, time.perf_counter()
        cycle, batches = self.cycle_at(state.step), self._batches_ahead(stage)
        ahead = [p for t in range(batches) for p in self.batch(state.step + t)]
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

        budget = self.config.fast_budget_of(batches)
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
        """Validation accuracy under the seed context and under the best evolved one, chosen on training problems.

        In a schedule every stage's task is measured each time; the run's own number is that of the stage just trained.
        """
        state, started = self.state, time.perf_counter()
        now = stage_at(self.stages, max(0, state.step - 1))
        found = {
            stage.name: (self.measure(self.task.seed_context, stage), self.measure(state.population.best, stage))
            for stage in self.stages
        }
        seed_context, evolved = found[now.name]
        state.seconds["evaluation"] += time.perf_counter() - started
        entry = {"step": state.step, "problems": state.problems, "rollouts": dict(state.rollouts)}
        entry |= accuracy_pair(seed_context, evolved)
        entry["majority_answer_share"] = evolved.majority_answer_share
        if len(self.stages) > 1:
            entry |= {"stage": now.name, "stages": {name: accuracy_pair(*pair) for name, pair in found.items()}}
        state.evaluations.append(entry)
        stages = (now.name, found) if len(self.stages) > 1 else ()
        self.recorder.evaluation(self, seed_context, evolved, *stages)

    def measure(self, context: Context, stage: StageTask) -> Accuracy:
        """mean@n accuracy of a context. The same weights and context give the same numbers, so they are kept."""
        state, step = self.state, self.sampler.weights_step
        if state.measured_step != step:
            state.measured, state.measured_step = {}, step
        key = f"{stage.task}/{context.id}" if stage.task else context.id
        if key not in state.measured:
            n, problems = self.config.evaluation.n, self.validation(stage)
            requests = [Request(context, p, n, self.seed("evaluation", p.id)) for p in problems]
            accuracy = measure_accuracy(self.rollouts("evaluation", requests), seed=self.config.seed)
            state.measured[key] = accuracy.to_dict()
        return Accuracy.from_dict(state.measured[key])

    def validation(self, stage: StageTask) -> Sequence[Problem]:
        """The stage's validation problems that evaluations use."""
        return stage.val[: self.config.evaluation.problems]

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
        stage = stage_at(self.stages, step)
        size = self._batch_size(stage)
        epoch, index = divmod(step - stage.start, len(stage.train) // size)
        order = list(range(len(stage.train)))
        path = ("data", stage.number, epoch) if stage.number else ("data", epoch)
        random.Random(self.seed(*path)).shuffle(order)
        return [stage.train[i] for i in order[index * size : (index + 1) * size]]

    def cycle_at(self, step: int) -> int:
        """The number of the cycle that ``step`` is in; every stage begins one."""
        every, stage = self.config.fast.every, stage_at(self.stages, step)
        before = sum(-(-(s.end - s.start) // every) for s in self.stages[: stage.number] if s.end is not None)
        return before + (step - stage.start) // every

    def _batches_ahead(self, stage: StageTask) -> int:
        """T, or fewer where the stage ends before; a run's own end may move, so the last stage has none."""
        left = self.config.fast.every if stage.end is None else stage.end - self.state.step
        return min(self.config.fast.every, left)

    def _batch_size(self, stage: StageTask) -> int:
        return min(self.config.slow.problems_per_step, len(stage.train))

    @property
    def _slow_spend(self) -> int:
        """Rollouts of one slow step."""
        stage = stage_at(self.stages, self.state.step)
        return 0 if self.config.method == "gepa" else self.config.slow.group_size * self._batch_size(stage)

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
