"""Writes down what the loop does: metrics, ledger, population snapshots, checkpoints and progress.

At every step boundary the positions of all files are noted, so that a stop in the middle of a phase, by signal or by
error, can still save the boundary before it: between :meth:`Recorder.begin_update` and :meth:`Recorder.note` weights
and state disagree, so a signal waits there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from fastslow.config import RunConfig
from fastslow.errors import RunError
from fastslow.evaluation.accuracy import Accuracy, accuracy_pair
from fastslow.fast.base import FastOptimizer, FastReport
from fastslow.runs.checkpoint import load_latest, save_checkpoint
from fastslow.runs.directory import RunDirectory
from fastslow.runs.fates import Fate, Fates
from fastslow.runs.ledger import Ledger
from fastslow.runs.metrics import MetricsWriter
from fastslow.runs.rng import rng_state, set_rng_state
from fastslow.runs.signals import StopSignals
from fastslow.runs.state import RunState
from fastslow.slow.base import SlowLearner
from fastslow.tasks.base import Task
from fastslow.tasks.problems import majority_share
from fastslow.types import Phase, Rollout


class Training(Protocol):
    """What of the loop a checkpoint holds; :class:`fastslow.fst.FastSlowTraining` is one."""

    config: RunConfig
    task: Task
    state: RunState
    learner: SlowLearner
    optimizer: FastOptimizer | None

    def cycle_at(self, step: int) -> int: ...


class Progress(Protocol):
    """Shows a person what happens."""

    def show(self, kind: str, state: RunState, values: Mapping[str, Any]) -> None: ...

    def note(self, text: str) -> None:
        """Something worth a line of its own: a split that was cut, scorers that failed."""
        ...


class Recorder:
    """One run's writer. ``progress`` hears of every phase.

    ``boundary_updates``: the learner's updates at the last boundary, where it counts them. While they are the same, the
    weights are still those of that boundary.
    """

    def __init__(
        self,
        run: RunDirectory,
        checkpoint_every: int,
        keep: int,
        progress: Progress | None = None,
        signals: StopSignals | None = None,
    ) -> None:
        self.run, self.checkpoint_every, self.keep, self.progress = run, checkpoint_every, keep, progress
        self.signals = signals or StopSignals()
        self.metrics = MetricsWriter(run.metrics_path)
        self.ledger = Ledger(run.ledger_path)
        self._fates = Fates()
        self._cycle_at: Callable[[int], int] = int
        self._boundary: dict[str, Any] | None = None
        self.saved_step: int | None = None
        self.boundary_updates: int | None = None
        self._stored: dict[tuple[str, int], int] = {}  # rollouts in the ledger, by (phase, step)

    def close(self) -> None:
        self.metrics.close()
        self.ledger.close()

    def begin(self, loop: Training) -> None:
        """The loop starts, or goes on: a new ledger gets the seed context."""
        self._cycle_at = loop.cycle_at
        if not self.ledger.position()["contexts"]:
            self.ledger.add_contexts(0, [Fate(loop.task.seed_context, "seed")])
        self._fates.start(loop.state.population)

    def resume(self, learner: SlowLearner, reflector: Any = None) -> RunState | None:
        """Load the newest checkpoint and cut every file back to it; None where there is none yet.

        A reflector that counts its spending (``get_state`` / ``set_state``) goes on from what it had spent.
        """
        found = load_latest(self.run.checkpoints)
        if found is None:
            self.metrics.rewind(0)
            self.ledger.rewind(None)
            self.run.rewind_populations(-1)
            return None
        path, tensors, saved = found
        if "optimizer" not in tensors:
            raise RunError(
                f"{path}: only the weights of this finished run were kept, so it can't go on; start a new "
                f"run with model.init_from={self.run.path}"
            )
        learner.load_state(tensors, saved["learner"])
        set_rng_state(tensors["rng"], saved["rng"])
        self.metrics.rewind(saved["metrics_position"])
        self.ledger.rewind(saved["ledger_position"])
        self.run.rewind_populations(saved["last_cycle"])
        if saved["reflector"] is not None and hasattr(reflector, "set_state"):
            reflector.set_state(saved["reflector"])
        state = RunState.from_dict(saved["state"])
        self.saved_step = state.step
        return state

    def boundary(self, loop: Training, save: bool) -> None:
        """A step is complete: note where everything stands, and save a checkpoint when one is due."""
        self.note(loop)
        due = self.checkpoint_every and loop.state.step and loop.state.step % self.checkpoint_every == 0
        if save or due:
            self._save(loop)

    def save_last_boundary(self, loop: Training) -> bool:
        """After an interruption: save the last step boundary, if it isn't on disk yet."""
        if self._boundary is None or self._boundary["state"]["step"] == self.saved_step:
            return False
        self._save(loop)
        return True

    def begin_update(self) -> None:
        """From here to the next :meth:`note` weights and state disagree; a signal waits until they agree again."""
        self.signals.hold()

    def note(self, loop: Training) -> None:
        """Weights and state agree: note where everything stands, in memory."""
        rng_tensors, rng = rng_state()
        cycles = self.run.population_cycles()
        reflector = getattr(loop.optimizer, "reflector", None)
        self._boundary = {
            "state": loop.state.to_dict(),
            "reflector": reflector.get_state() if hasattr(reflector, "get_state") else None,
            "rng": rng,
            "rng_tensors": rng_tensors,
            "metrics_position": self.metrics.position(),
            "ledger_position": self.ledger.position(),
            "last_cycle": cycles[-1] if cycles else -1,
        }
        self.boundary_updates = getattr(loop.learner, "updates", None)
        self.signals.release()

    def _save(self, loop: Training) -> None:
        assert self._boundary is not None
        tensors, learner = loop.learner.state()
        noted = {k: v for k, v in self._boundary.items() if k != "rng_tensors"}
        save_checkpoint(
            self.run.checkpoints,
            noted["state"]["step"],
            {**tensors, "rng": self._boundary["rng_tensors"]},
            {**noted, "learner": learner, "method": loop.config.method},
            self.keep,
        )
        self.saved_step = noted["state"]["step"]

    def rollouts(self, phase: Phase, state: RunState, rollouts: Sequence[Rollout]) -> None:
        key = (phase, state.step)
        self._stored = {k: n for k, n in self._stored.items() if k[1] == state.step}
        first = self._stored.get(key, 0)
        # A fast phase scores for the population to come; the state still holds the one before.
        cycle = self._cycle_at(state.step) if phase == "fast" else state.population.cycle
        self.ledger.add_rollouts(phase, state.step, rollouts, cycle, first)
        self._stored[key] = first + len(rollouts)
        if self.progress:
            self.progress.show("rollouts", state, {"phase": phase, "count": len(rollouts)})

    def context_event(self, event: Mapping[str, Any]) -> None:
        """Hears the fate of every proposal from the fast optimizer."""
        self._fates.hear(event)

    def fast(self, state: RunState, cycle: int, report: FastReport, seconds: float) -> None:
        population = state.population
        self.run.write_population(cycle, population.to_dict())
        # The first row of cycle 0 is the seed's.
        self.ledger.add_contexts(cycle, self._fates.settle(population), first_index=0 if cycle else 1)
        self.ledger.add_reflections(cycle, report.reflections)
        values = {
            "cycle": cycle,
            "metric_calls": report.metric_calls,
            "proposals": report.proposals,
            "accepted": report.accepted,
            "rejected": report.rejected,
            "unproven": report.unproven,
            "reasons": dict(report.reasons),
            "failures": dict(Counter(_kind(r.reason) for r in report.reflections if r.outcome == "failed")),
            "reflection_calls": report.reflection_calls,
            "reflection_tokens": report.reflection_tokens,
            "best": population.best.id,
            "best_score": population.mean_score(population.best),
            "population": [c.id for c in population.contexts],
            "seconds": seconds,
        }
        self.metrics.write("fast", state.step, values)
        if self.progress:
            self.progress.show("fast", state, values)

    def slow(self, state: RunState, values: Mapping[str, Any], sampling: float, seconds: float) -> None:
        line = {**values, "sampling_seconds": sampling, "seconds": seconds}
        self.metrics.write("slow", state.step, line)
        self.ledger.add_slow_step(state.step, line)
        if self.progress:
            self.progress.show("slow", state, line)

    def evaluation(
        self,
        loop: Training,
        seed_context: Accuracy,
        evolved: Accuracy,
        stage: str | None = None,
        stages: Mapping[str, tuple[Accuracy, Accuracy]] | None = None,
    ) -> None:
        """``stage``: in a schedule, the one that the run's own numbers are of; ``stages``: all, (seed, evolved)."""
        state = loop.state
        values: dict[str, Any] = {
            "rollouts": dict(state.rollouts),
            "problems": state.problems,
            "seconds": dict(state.seconds),
            **_measured(seed_context, evolved),
            "majority_answer_share": evolved.majority_answer_share,
            "constant_answer_share": majority_share([p for p in loop.task.val if p.id in evolved.per_problem]),
            "truncated_share": evolved.truncated_share,
        }
        if stages:
            values |= {"stage": stage, "stages": {name: _measured(*pair) for name, pair in stages.items()}}
        self.metrics.write("evaluation", state.step, values)
        if self.progress:
            self.progress.show("evaluation", state, values)


def _measured(seed_context: Accuracy, evolved: Accuracy) -> dict[str, Any]:
    pair = accuracy_pair(seed_context, evolved)
    return {
        "accuracy": {**pair["accuracy"], "ci95": pair["ci95"]},
        "per_problem": {
            "seed_context": list(seed_context.per_problem.values()),
            "evolved_context": list(evolved.per_problem.values()),
        },
    }


def _kind(reason: str) -> str:
    """What stands before the first colon of a reason, by which reasons are counted."""
    return reason.split(":", 1)[0].strip()
