"""The contract of an experiment: which runs it needs, what is measured on them, and what they show."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastslow.lab.planning import Choice, LabRun, Planned, plan
from fastslow.lab.verdicts import Finding

Measurements = Mapping[str, Mapping[str, Any]]
"""What jobs found, by the job's name."""


@dataclass(frozen=True)
class Job:
    """A measurement that loads weights. ``paths``: the runs it is about; done again where these change."""

    name: str
    paths: Sequence[Path]
    call: Callable[[], Mapping[str, Any]]
    minutes: float = 1.0


@dataclass(frozen=True)
class Table:
    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Result:
    """``csv``: header and rows of the data beside the page. ``figure`` draws into the path it is given."""

    findings: Sequence[Finding]
    tables: Sequence[Table]
    csv: tuple[Sequence[str], Sequence[Sequence[str]]]
    figure: Callable[[Path], Path] | None = None
    notes: Sequence[str] = ()
    data: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Experiment:
    """``claim``: as the paper makes it; ``paper``: its figures. ``arms`` and ``seeds`` are defaults, and ``must`` the
    arms without which nothing can be said. ``analyse`` reads runs on disk and measurements, and loads no weights."""

    name: str
    claim: str
    paper: str
    studies: tuple[str, ...]
    analyse: Callable[[Sequence[LabRun], Measurements], Result]
    arms: tuple[str, ...] = ("fst", "rl", "rl-told")
    must: tuple[str, ...] = ("fst", "rl")
    seeds: int = 3
    jobs: Callable[[Sequence[LabRun], Path], Sequence[Job]] | None = None
    runs: Callable[[Choice], Sequence[Planned]] | None = None
    job_minutes: float = 0.0
    also: tuple[str, ...] = ()
    """Studies of other experiments: their finished runs are looked at too, and further seeds of the own studies."""
    needs: Callable[[], str | None] | None = None
    """The reason why it can't be run in this version; None where it can."""

    def plan(self, choice: Choice) -> list[Planned]:
        return list(self.runs(choice)) if self.runs else plan(self.studies, choice)

    def missing(self) -> str | None:
        return self.needs() if self.needs else None
