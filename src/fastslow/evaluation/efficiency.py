"""Sample efficiency: at what cost an arm reaches the best of another (arXiv 2605.12484 reports 1.4x to 3x).

The cost is training problems, or *total* rollouts, the fast phase's included. What was never reached is a bound, not a
gap in the table: "> N" says that N were spent in vain.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from fastslow.evaluation.curves import Cost, Curves

Side = Literal["=", "<", ">"]
_ORDER = {"<": -1, "=": 0, ">": 1}


@dataclass(frozen=True, slots=True)
class Bounded:
    """A number, or what it is known to exceed (``>``) or to fall short of (``<``)."""

    value: float
    side: Side = "="

    def text(self, form: str = ",.0f") -> str:
        """
        >>> Bounded(1200, ">").text()
        '> 1,200'
        """
        return f"{'' if self.side == '=' else self.side + ' '}{self.value:{form}}"


@dataclass(frozen=True, slots=True)
class Efficiency:
    """How soon ``arm`` reaches the best mean accuracy of ``other``, or a share of it.

    ``target``: that accuracy; ``other_cost``: the first evaluation at which ``other`` had it. ``cost``: the first at
    which ``arm`` has it. ``ratio`` = other_cost / cost, above 1 where ``arm`` is quicker; None, with ``note`` telling
    why, where ``other`` never rose above its start. ``ci95``: percentiles over resampled seeds and problems, None where
    there is nothing to resample; ``unreached``: share of the resamples in which ``arm`` never got there.
    """

    arm: str
    other: str
    by: Cost
    target: float
    other_cost: float
    cost: Bounded
    ratio: Bounded | None
    ci95: tuple[Bounded, Bounded] | None
    unreached: float | None
    seeds: tuple[int, int]
    note: str = ""


def sample_efficiency(
    arm: Curves,
    other: Curves,
    by: Cost = "rollouts",
    level: float = 0.95,
    seed: int = 0,
    n: int = 2000,
    share: float = 1.0,
) -> Efficiency:
    """``arm`` against ``share`` of the best of ``other``; both curves are means over their seeds at each evaluation."""
    target, other_cost = _best(other, by, share)
    cost = _reach(arm, target, by)
    ratio = _ratio(arm, cost, other_cost, by)
    interval = unreached = None
    note = "" if ratio is not None else f"{other.label} never rose above its start, so there is nothing to reach"
    if ratio is not None and (arm.seeds > 1 or other.seeds > 1 or arm.resamples_problems):
        interval, unreached, undefined = _bootstrap(arm, other, by, level, seed, n, share)
        if undefined:
            note = f"{other.label} never rises in {undefined:.0%} of the resamples; they are left out of the interval"
    elif ratio is not None:
        note = "one seed without per-problem results: no interval"
    seeds = (arm.seeds, other.seeds)
    return Efficiency(arm.label, other.label, by, target, other_cost, cost, ratio, interval, unreached, seeds, note)


def _best(curves: Curves, by: Cost, share: float) -> tuple[float, float]:
    """(``share`` of the best mean accuracy, mean cost of the first evaluation that has it)."""
    mean_P = curves.accuracy_SP.mean(axis=0)
    target = share * float(mean_P.max())
    first = int(np.argmax(mean_P >= target - 1e-12))
    return target, float(curves.cost_SP(by).mean(axis=0)[first])


def _reach(curves: Curves, target: float, by: Cost) -> Bounded:
    mean_P, cost_P = curves.accuracy_SP.mean(axis=0), curves.cost_SP(by).mean(axis=0)
    there = np.flatnonzero(mean_P >= target - 1e-12)
    return Bounded(float(cost_P[there[0]])) if len(there) else Bounded(float(cost_P[-1]), ">")


def _ratio(curves: Curves, cost: Bounded, other_cost: float, by: Cost) -> Bounded | None:
    if other_cost == 0:
        return None
    if cost.side == ">":
        return Bounded(other_cost / cost.value, "<") if cost.value else None
    if cost.value == 0:  # there before any training: quicker than its first evaluation after some
        later = curves.cost_SP(by).mean(axis=0)
        paid = later[later > 0]
        return Bounded(other_cost / float(paid[0]), ">") if len(paid) else None
    return Bounded(other_cost / cost.value)


def _bootstrap(
    arm: Curves, other: Curves, by: Cost, level: float, seed: int, n: int, share: float
) -> tuple[tuple[Bounded, Bounded] | None, float, float]:
    """(interval, share never reached, share without a ratio). Bounds sort beyond every number on their side."""
    rng = np.random.default_rng(seed)
    ratios: list[Bounded] = []
    for _ in range(n):
        target, other_cost = _best(other.resampled(rng), by, share)
        drawn = arm.resampled(rng)
        ratio = _ratio(drawn, _reach(drawn, target, by), other_cost, by)
        if ratio is not None:
            ratios.append(ratio)
    if not ratios:
        return None, 0.0, 1.0
    ordered = sorted(ratios, key=lambda r: (_ORDER[r.side], r.value))
    low = ordered[int(np.floor((1 - level) / 2 * (len(ordered) - 1)))]
    high = ordered[int(np.ceil((1 + level) / 2 * (len(ordered) - 1)))]
    return (low, high), sum(r.side == "<" for r in ratios) / len(ratios), 1 - len(ratios) / n
