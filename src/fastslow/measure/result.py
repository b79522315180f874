"""What a measurement hands over: a table of text for people, and the same as data for programs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastslow.errors import RunError
from fastslow.evaluation.intervals import Estimate, Interval
from fastslow.report.arms import Arm, load_arms
from fastslow.runs.files import write_json

Say = Callable[[str], None]


@dataclass(frozen=True)
class Measured:
    """``rows`` are plain text under ``header``; ``data`` is JSON-ready; ``notes`` are what a reader must know."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    data: dict[str, Any]
    notes: Sequence[str] = field(default_factory=tuple)

    def write(self, path: str | Path) -> None:
        """As JSON, all or nothing; numbers without a value are null."""
        write_json(Path(path), {"title": self.title, **self.data, "notes": list(self.notes)})


def arms_of(runs: Sequence[str | Path]) -> list[Arm]:
    """Runs that differ in their seeds alone are one arm; raises :class:`RunError` for a folder that is no run."""
    return load_arms(runs)


def two_arms(runs: Sequence[str | Path]) -> list[Arm]:
    arms = load_arms(runs)
    if len(arms) < 2:
        raise RunError("a comparison needs runs of two arms, for example an fst and an rl run; these are all one arm")
    return arms


def silent(text: str) -> None:
    """Says nothing."""


def interval(ci95: Interval | None, digits: int = 3) -> str:
    """
    >>> interval((0.1, 0.25))
    '[0.100, 0.250]'
    """
    return "" if ci95 is None else f"[{ci95[0]:.{digits}f}, {ci95[1]:.{digits}f}]"


def difference(estimate: Estimate | None, digits: int = 3) -> tuple[str, str]:
    """(signed mean, interval), empty where there is none."""
    return ("", "") if estimate is None else (f"{estimate.mean:+.{digits}f}", interval(estimate.ci95, digits))


def as_data(estimate: Estimate | None) -> dict[str, Any] | None:
    return None if estimate is None else {"mean": estimate.mean, "ci95": list(estimate.ci95)}
