"""One line of a diagnosis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Status = Literal["ok", "warning", "problem"]


@dataclass(frozen=True, slots=True)
class Finding:
    """``name`` is what was looked at, ``found`` what it is, ``mend`` what to do about a warning or a problem."""

    status: Status
    name: str
    found: str
    mend: str = ""


def ok(name: str, found: str) -> Finding:
    return Finding("ok", name, found)


def warning(name: str, found: str, mend: str) -> Finding:
    return Finding("warning", name, found, mend)


def problem(name: str, found: str, mend: str) -> Finding:
    return Finding("problem", name, found, mend)


def problems(findings: Sequence[Finding]) -> int:
    return sum(f.status == "problem" for f in findings)


def gb(size: float) -> str:
    return f"{size / 1e9:.1f} GB"
