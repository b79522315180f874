"""Progress for people: a live bar on a terminal, plain lines otherwise."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from fastslow.config import RunConfig
from fastslow.report.text import plain
from fastslow.runs.state import RunState


def make_progress(config: RunConfig, label: str | None = None) -> PlainProgress | LiveProgress:
    """A live bar where standard error is a terminal, plain lines otherwise."""
    label = label or f"{config.method} {config.name}"
    return LiveProgress(config, label) if sys.stderr.isatty() else PlainProgress(config, label)


class PlainProgress:
    """One line for each fast phase, evaluation and slow step, on standard error."""

    def __init__(self, config: RunConfig, label: str) -> None:
        self.config, self.label = config, label
        self._start = time.monotonic()

    def __enter__(self) -> PlainProgress:
        return self

    def __exit__(self, *_: object) -> None:
        return

    def note(self, text: str) -> None:
        print(plain(f"{self.label}: {text}"), file=sys.stderr, flush=True)

    def show(self, kind: str, state: RunState, values: Mapping[str, Any]) -> None:
        text = describe(kind, state, values)
        if text:
            seconds = time.monotonic() - self._start
            print(f"[{seconds:6.0f}s] {plain(f'{self.label}: {text}')}", file=sys.stderr, flush=True)


class LiveProgress:
    """A bar over the run's rollouts or steps, with what happened last beside it."""

    def __init__(self, config: RunConfig, label: str) -> None:
        self.config, self.label = config, label
        self._by_rollouts = config.max_rollouts is not None and not config.population_trains
        total = config.max_rollouts if self._by_rollouts else config.steps
        self._bar = Progress(
            TextColumn("{task.fields[label]}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[last]}", markup=False),
            console=Console(stderr=True),
        )
        self._task = self._bar.add_task("", total=total, label=plain(label), last="")

    def __enter__(self) -> LiveProgress:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def note(self, text: str) -> None:
        self._bar.console.print(plain(f"{self.label}: {text}"), markup=False, emoji=False)

    def show(self, kind: str, state: RunState, values: Mapping[str, Any]) -> None:
        done = state.training_rollouts if self._by_rollouts else state.step
        text = describe(kind, state, values)
        if text:
            self._bar.update(self._task, completed=done, last=text)
        else:
            self._bar.update(self._task, completed=done)


def describe(kind: str, state: RunState, values: Mapping[str, Any]) -> str:
    """What happened, in one line; empty for what is too small to tell."""
    if kind == "fast":
        return (
            f"fast phase {values['cycle']}: {values['metric_calls']} rollouts, {values['accepted']} of "
            f"{values['proposals']} proposals accepted, best {values['best_score']:.2f} on its problems"
            f"{_unproven(values.get('unproven', 0))}"
            f"{_failures(values.get('failures') or {})}"
        )
    if kind == "slow":
        skipped = f", update skipped (gradient norm {values['grad_norm']:g})" if values.get("skipped_steps") else ""
        return (
            f"step {state.step}: reward {values['reward']:.2f}, flat groups {values['flat_groups']:.0f} of "
            f"{values['groups']:.0f}{skipped}, {values['seconds']:.1f} s"
        )
    if kind == "evaluation":
        accuracy = values["accuracy"]
        low, high = accuracy["ci95"]["evolved_context"]
        return (
            f"validation after {state.training_rollouts} rollouts: {accuracy['evolved_context']:.2f} "
            f"[{low:.2f}, {high:.2f}] with the best context, {accuracy['seed_context']:.2f} with the seed context"
            f"{_stages(values.get('stages') or {})}"
        )
    return ""


def _stages(stages: Mapping[str, Any]) -> str:
    """In a schedule: every task's accuracy under the best context."""
    parts = [f"{name} {values['accuracy']['evolved_context']:.2f}" for name, values in stages.items()]
    return f" ({', '.join(parts)})" if parts else ""


def _unproven(count: int) -> str:
    return f"; no context has a reward, so {count} unproven got a place" if count else ""


def _failures(failures: Mapping[str, int]) -> str:
    """Reflections that gave no usable text, by their most common reason."""
    if not failures:
        return ""
    often = max(failures, key=lambda reason: (failures[reason], reason))
    return f"; {sum(failures.values())} reflections failed, most often: {often}"
