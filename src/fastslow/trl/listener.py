"""Who hears of what a run does. A run's recorder is one; so is a plain folder of population snapshots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from fastslow.fast.base import FastReport
from fastslow.runs.files import write_json
from fastslow.runs.state import RunState
from fastslow.types import Phase, Rollout


class Listener(Protocol):
    """The part of :class:`fastslow.runs.recorder.Recorder` that the trainer needs. Only rank 0 has one that writes."""

    def rollouts(self, phase: Phase, state: RunState, rollouts: Sequence[Rollout]) -> None: ...

    def context_event(self, event: Mapping[str, Any]) -> None: ...

    def fast(self, state: RunState, cycle: int, report: FastReport, seconds: float) -> None: ...

    def slow(self, state: RunState, values: Mapping[str, Any], sampling: float, seconds: float) -> None: ...


class Quiet:
    """Hears all, writes nothing."""

    def rollouts(self, phase: Phase, state: RunState, rollouts: Sequence[Rollout]) -> None:
        return

    def context_event(self, event: Mapping[str, Any]) -> None:
        return

    def fast(self, state: RunState, cycle: int, report: FastReport, seconds: float) -> None:
        return

    def slow(self, state: RunState, values: Mapping[str, Any], sampling: float, seconds: float) -> None:
        return


class Snapshots(Quiet):
    """Writes the population after each fast phase: ``<folder>/contexts/cycle-0003.json``."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder) / "contexts"

    def fast(self, state: RunState, cycle: int, report: FastReport, seconds: float) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(self.folder / f"cycle-{cycle:04d}.json", state.population.to_dict())
