"""Has the policy collapsed onto one answer? Two signs together: the most common reply is given far more often than the
best constant answer would pay, and the entropy of the policy has fallen below a floor.

One sign alone is no alarm: a task whose answers are mostly the same has a high share by right, and a policy that has
learnt a deterministic task has a low entropy by right.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

MARGIN = 0.2
"""Share of the most common reply beyond that of the best constant answer."""
ENTROPY_FLOOR = 0.15
"""Nats per token. The embedded model starts near 1 on short answers and learns well at 0.2 to 0.5."""
_WINDOW = 3  # slow steps whose entropy is averaged: one small batch says little


@dataclass(frozen=True, slots=True)
class Collapse:
    """``majority_share``: of the most common reply at the last evaluation. ``constant_share``: share of validation
    problems that the best constant answer solves. Entropies in nats per token, means over the first and last slow steps
    that had a gradient; None where none had. ``collapsed``: both signs are there; ``text`` says what is known."""

    majority_share: float | None
    constant_share: float | None
    entropy_start: float | None
    entropy_end: float | None
    collapsed: bool
    text: str

    @property
    def excess(self) -> float | None:
        if self.majority_share is None or self.constant_share is None:
            return None
        return self.majority_share - self.constant_share


def check_collapse(
    lines: Sequence[Mapping[str, Any]],
    constant_share: float | None = None,
    margin: float = MARGIN,
    entropy_floor: float = ENTROPY_FLOOR,
) -> Collapse:
    """Look at the lines of a run's metrics.jsonl.

    ``constant_share``: see :func:`fastslow.tasks.majority_share`; by default what the last evaluation noted. Where it
    is unknown nothing is called a collapse.
    """
    evaluations = [line for line in lines if line["kind"] == "evaluation"]
    last = evaluations[-1] if evaluations else {}
    majority = last.get("majority_answer_share")
    if constant_share is None:
        constant_share = last.get("constant_answer_share")
    entropies = [line["entropy"] for line in lines if line["kind"] == "slow" and line.get("entropy") is not None]
    start = fmean(entropies[:_WINDOW]) if entropies else None
    end = fmean(entropies[-_WINDOW:]) if entropies else None
    many = majority is not None and constant_share is not None and majority - constant_share > margin
    low = end is not None and end < entropy_floor
    return Collapse(majority, constant_share, start, end, many and low, _text(many, low, majority, constant_share, end))


def _text(many: bool, low: bool, majority: float | None, constant: float | None, entropy: float | None) -> str:
    if majority is None or constant is None:
        return "unknown: no evaluation, or no known answers"
    said = f"one reply is {majority:.0%} of all, the best constant answer would solve {constant:.0%}"
    if many and low:
        return f"collapsed: {said}, and the entropy is {entropy:.2f} nats per token"
    if many:
        return f"watch: {said}" + ("" if entropy is None else f"; the entropy is still {entropy:.2f} nats per token")
    return "none seen"
