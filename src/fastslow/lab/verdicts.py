"""Verdicts, from intervals alone: a claim holds where the whole interval says so, fails where the whole interval says
the opposite, and else can't be told."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from fastslow.evaluation.efficiency import Bounded
from fastslow.evaluation.intervals import Estimate, Interval

Verdict = Literal["holds", "doesn't", "can't tell"]
VERDICTS: tuple[Verdict, ...] = ("holds", "doesn't", "can't tell")


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the claims table. ``where``: the study; ``claim``: what would have to be true, in words; ``ours``:
    the number; ``seeds``: runs of the arm with the fewest."""

    where: str
    claim: str
    ours: str
    ci95: str
    seeds: int
    verdict: Verdict
    why: str = ""


def judge(ci95: Interval, above: float = 0.0) -> Verdict:
    """Whether a quantity lies above ``above``.

    >>> judge((0.1, 0.3)), judge((-0.3, -0.1)), judge((-0.1, 0.3))
    ('holds', "doesn't", "can't tell")
    """
    low, high = ci95
    if low > above:
        return "holds"
    return "doesn't" if high < above else "can't tell"


def judge_all(verdicts: Sequence[Verdict]) -> Verdict:
    """Of a claim with several parts: all must hold; one that fails is enough to fail.

    >>> judge_all(["holds", "can't tell"]), judge_all(["holds", "doesn't", "can't tell"]), judge_all([])
    ("can't tell", "doesn't", "can't tell")
    """
    if "doesn't" in verdicts:
        return "doesn't"
    return "holds" if verdicts and all(v == "holds" for v in verdicts) else "can't tell"


def minus(a: Estimate, b: Estimate) -> Estimate:
    """a - b, with an interval from theirs (MOVER: G. Y. Zou and A. Donner, 2008), as if they were independent.

    For two measured on the same problems it is wider than it need be, never narrower, unless they oppose each other.

    >>> found = minus(Estimate(0.5, (0.4, 0.6)), Estimate(0.2, (0.2, 0.2)))
    >>> [round(x, 3) for x in (found.mean, *found.ci95)]
    [0.3, 0.2, 0.4]
    """
    mean = a.mean - b.mean
    down = math.hypot(a.mean - a.ci95[0], b.ci95[1] - b.mean)
    up = math.hypot(a.ci95[1] - a.mean, b.mean - b.ci95[0])
    return Estimate(mean, (mean - down, mean + up))


def bounds(ci95: tuple[Bounded, Bounded]) -> Interval:
    """Two ends that may be bounds, as numbers: what is only known to fall short of x may be 0, and so on.

    >>> bounds((Bounded(0.8, "<"), Bounded(1.5, ">")))
    (0.0, inf)
    """
    low, high = ci95
    return (0.0 if low.side == "<" else low.value), (math.inf if high.side == ">" else high.value)


def estimate_of(data: dict) -> Estimate:
    """From ``{"mean": …, "ci95": [low, high]}``."""
    low, high = data["ci95"]
    return Estimate(float(data["mean"]), (float(low), float(high)))


def signed(estimate: Estimate, digits: int = 2) -> tuple[str, str]:
    """(mean with its sign, interval) as text."""
    low, high = estimate.ci95
    return f"{estimate.mean:+.{digits}f}", f"[{low:+.{digits}f}, {high:+.{digits}f}]"


def unsigned(estimate: Estimate, digits: int = 2) -> str:
    low, high = estimate.ci95
    return f"{estimate.mean:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"
