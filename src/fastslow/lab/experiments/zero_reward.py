"""Zero reward: the base model never solves the task; which arm moves first (arXiv 2605.12484)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fastslow.evaluation.curves import Curves
from fastslow.evaluation.efficiency import Bounded
from fastslow.lab.base import Experiment, Measurements, Result, Table
from fastslow.lab.figures import draw_curves
from fastslow.lab.planning import LabRun, by_arm
from fastslow.lab.readings import CURVE_HEADER, curve_rows, curves
from fastslow.lab.studies import ARMS, find_study
from fastslow.lab.tables import arms_table, panels
from fastslow.lab.verdicts import Finding, Verdict

STUDIES = ("path-star", "brackets-long")
RIVALS = ("rl", "rl-told")
MOVED, ZERO = 0.10, 0.05
"""Accuracy from which an arm has moved, and below which the start counts as zero."""
TIMES = 5
"""How many of FST's rollouts RL must need at least, for FST to take a fifth of them (the paper: steps 50 and 250)."""
SURE = 0.975
"""Share of the resamples in which one must be first: a one-sided test at the level of a 95% interval."""


def analyse(runs: Sequence[LabRun], measured: Measurements) -> Result:
    findings, rows = [], []
    for study in STUDIES:
        found = {arm: curves(members) for arm, members in by_arm(runs, study).items()}
        rows += [[find_study(study).title, c.label, f"{_start(c):.2f}", reach(c).text()] for c in found.values()]
        for rival in (r for r in RIVALS if r in found and "fst" in found):
            findings.append(_finding(study, rival, found["fst"], found[rival]))
        for rival in (r for r in ("rl-long", "rl") if r in found and "fst" in found):
            findings.append(_finding(study, "rl", found["fst"], found[rival], times=TIMES))
            break  # the one that went further says more
    header = ["study", "arm", "accuracy at the start", f"rollouts to {MOVED:.0%}"]
    return Result(
        findings,
        [arms_table(runs, STUDIES), Table("Who moves first", header, rows)],
        (CURVE_HEADER, curve_rows(runs)),
        lambda out: draw_curves(panels(runs, STUDIES), out, "From zero reward"),
        [
            f"Moved: {MOVED:.0%} of the validation problems solved. Before that, a start above {ZERO:.0%} is no zero. "
            f"Whether FST takes 1/{TIMES} of RL's rollouts is asked of RL with four times as many, where it was run."
        ],
    )


def reach(found: Curves) -> Bounded:
    """Total rollouts at the first evaluation with an accuracy of :data:`MOVED`; ``>`` all that were spent, if never."""
    cost_P = found.rollouts_SP.mean(axis=0)
    there = np.flatnonzero(found.accuracy_SP.mean(axis=0) >= MOVED - 1e-12)
    return Bounded(float(cost_P[there[0]])) if len(there) else Bounded(float(cost_P[-1]), ">")


def _finding(study: str, rival: str, fst: Curves, other: Curves, times: float = 1.0) -> Finding:
    name = ARMS[rival].title
    first, second = first_shares(fst, other, times)
    verdict: Verdict = "holds" if first >= SURE else "doesn't" if second >= SURE else "can't tell"
    start, why = max(_start(fst), _start(other)), ""
    if start > ZERO:
        verdict, why = "can't tell", f"no zero: the start solves {start:.0%}"
    ours = f"{reach(fst).text()} rollouts against {reach(other).text()}"
    seeds = min(fst.seeds, other.seeds)
    claim = f"FST leaves zero reward before {name}"
    sure = f"FST first in {first:.0%} of resamples, {name} in {second:.0%}"
    if times > 1:
        claim = f"FST leaves zero reward in 1/{times:g} of {name}'s rollouts"
        sure = f"true in {first:.0%} of resamples, false in {second:.0%}"
    return Finding(find_study(study).title, claim, ours, sure, seeds, verdict, why)


def first_shares(fst: Curves, other: Curves, times: float = 1.0, seed: int = 0, n: int = 2000) -> tuple[float, float]:
    """Shares of the resamples (seeds, then problems) in which ``fst``, and in which ``other``, moves first; with
    ``times``, in which ``other`` takes more, and less, than so many times ``fst``'s rollouts. Where a curve ends before
    it moved, what it would have taken is known to be more than it spent; a resample that this leaves open counts for
    neither."""
    rng = np.random.default_rng(seed)
    first = second = 0
    for _ in range(n):
        a, b = reach(fst.resampled(rng)), reach(other.resampled(rng))
        first += a.side == "=" and _more(b, times * a.value)
        second += b.side == "=" and _more(Bounded(times * a.value, a.side), b.value)
    return first / n, second / n


def _more(taken: Bounded, value: float) -> bool:
    return taken.value > value or (taken.side == ">" and taken.value == value)


def _start(found: Curves) -> float:
    return float(found.accuracy_SP[:, 0].mean())


ZERO_REWARD = Experiment(
    name="zero-reward",
    claim="Where the base model earns no reward at all, FST moves before RL.",
    paper="star graphs: FST by step ~50, RL by ~250",
    studies=STUDIES,
    analyse=analyse,
    arms=("fst", "rl", "rl-long", "rl-told"),
)
