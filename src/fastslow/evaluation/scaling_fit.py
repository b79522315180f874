"""The asymptote of a learning curve, from the 4-parameter sigmoid of ScaleRL (arXiv 2510.13786, eq. 1), as in FST
(arXiv 2605.12484): R(C) = R0 + (A - R0) / (1 + (C_mid / C)^B).

R is accuracy, C the cost (rollouts or problems). A is where the curve ends, C_mid where half the gain is made, B how
steep. A curve that has not bent yet fits any A: such data are refused, with the reason, instead of a wild number.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import OptimizeWarning, curve_fit
from scipy.special import expit

from fastslow.evaluation.curves import Cost, Curves
from fastslow.evaluation.intervals import Interval

PARAMETERS = ("R0", "A", "C_mid", "B")
MIN_POINTS = 6
"""Distinct costs above 0: four parameters, and two more that can disagree with them."""
_MIN_RISE = 4.0
"""Gain of the fit over the scatter around it: below, the curve might as well be flat."""
_BENT = 0.7
"""Share of the fitted gain that the data must show; below, A is an extrapolation."""
_STEEPNESS = (0.2, 12.0)


@dataclass(frozen=True, slots=True)
class ScalingFit:
    """Parameters with intervals at ``level``; ``reason`` says why there are none (then all values are None).

    ``residual``: standard deviation of the accuracies around the curve. ``points``: distinct costs; ``seeds``: curves.
    """

    label: str
    by: str
    values: dict[str, float] | None
    intervals: dict[str, Interval] | None
    residual: float | None
    points: int
    seeds: int
    reason: str = ""

    @property
    def asymptote(self) -> float | None:
        return self.values["A"] if self.values else None


def sigmoid(cost: np.ndarray, r0: float, a: float, c_mid: float, b: float) -> np.ndarray:
    """R(C) for costs of any shape; R(0) = R0.

    >>> sigmoid(np.array([0.0, 100.0]), 0.2, 0.6, 100.0, 2.0).round(12).tolist()
    [0.2, 0.4]
    """
    return r0 + (a - r0) * _share(cost, np.log(c_mid), b)


def _share(cost: np.ndarray, log_mid: float, b: float) -> np.ndarray:
    """Share of the gain made at each cost: 1 / (1 + (C_mid / C)^B), 0 at no cost."""
    with np.errstate(divide="ignore"):
        return expit(b * (np.log(np.asarray(cost, dtype=float)) - log_mid))


def fit_curves(curves: Curves, by: Cost = "rollouts", level: float = 0.95, seed: int = 0, n: int = 400) -> ScalingFit:
    """Fit an arm's seeds together; the intervals resample seeds, then the points' residuals within each."""
    return fit_scaling(list(curves.cost_SP(by)), list(curves.accuracy_SP), curves.label, by, level, seed, n)


def fit_scaling(
    costs: Sequence[np.ndarray],
    accuracies: Sequence[np.ndarray],
    label: str = "",
    by: str = "rollouts",
    level: float = 0.95,
    seed: int = 0,
    n: int = 400,
) -> ScalingFit:
    """Fit one or more curves (a cost and an accuracy array [P] each) with one sigmoid."""
    costs = [np.asarray(c, dtype=float) for c in costs]
    accuracies = [np.asarray(r, dtype=float) for r in accuracies]
    points = len({float(c) for cost in costs for c in cost if c > 0})

    def refuse(reason: str) -> ScalingFit:
        return ScalingFit(label, by, None, None, None, points, len(costs), reason)

    if points < MIN_POINTS:
        return refuse(f"{points} evaluations after the start; {MIN_POINTS} are needed: lower evaluation.every")
    x, y = np.concatenate(costs), np.concatenate(accuracies)
    best = _fit(x, y, _starts(x, y))
    if best is None:
        return refuse("the fit does not converge")
    residuals = [r - _curve(c, best) for c, r in zip(costs, accuracies, strict=True)]
    scatter = float(np.sqrt(np.sum(np.concatenate(residuals) ** 2) / max(1, len(y) - 4)))
    seen = float(_curve(np.array([x.max()]), best)[0] - best[0])  # what the curve has gained within the data
    if seen <= 0 or seen < _MIN_RISE * scatter / np.sqrt(len(y) / points):
        return refuse(f"no clear rise: {seen:+.3f} in the data, scatter {scatter:.3f}; train longer, or use more seeds")
    shown = seen / (best[1] - best[0])
    if shown < _BENT:
        return refuse(f"not yet bent: the data show {shown:.0%} of the fitted gain, {_BENT:.0%} are needed; train on")
    drawn = _bootstrap(costs, best, residuals, seed, n)
    if len(drawn) < 0.8 * n:
        return refuse("the fit does not converge on resampled data; train longer, or use more seeds")
    ends = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2], axis=0)
    low, high = float(ends[0][1]), float(ends[1][1])
    if high - low > seen:
        return refuse(f"A is not identified: its interval [{low:.2f}, {high:.2f}] is wider than the gain seen")
    names = dict(zip(PARAMETERS, _natural(best), strict=True))
    intervals = {k: (float(a), float(b)) for k, a, b in zip(PARAMETERS, *map(_natural, ends), strict=True)}
    return ScalingFit(label, by, names, intervals, scatter, points, len(costs))


def _curve(cost: np.ndarray, p: np.ndarray) -> np.ndarray:
    return sigmoid(cost, p[0], p[1], float(np.exp(p[2])), p[3])


def _natural(p: np.ndarray) -> list[float]:
    return [float(p[0]), float(p[1]), float(np.exp(p[2])), float(p[3])]


def _starts(x: np.ndarray, y: np.ndarray) -> list[np.ndarray]:
    positive = np.log(x[x > 0])
    low, high = float(y[x == x.min()].mean()), float(y.max())
    return [
        np.array([low, a, middle, b])
        for middle in np.quantile(positive, [0.2, 0.5, 0.8])
        for b in (1.0, 3.0)
        for a in (high, min(1.0, high + 0.2))
    ]


def _fit(x: np.ndarray, y: np.ndarray, starts: Sequence[np.ndarray]) -> np.ndarray | None:
    """(R0, A, log C_mid, B) of the least squares over ``starts``; None where none converges."""
    positive = x[x > 0]
    lower = np.array([0.0, 0.0, np.log(positive.min()) - 2, _STEEPNESS[0]])
    upper = np.array([1.0, 1.0, np.log(positive.max()) + 5, _STEEPNESS[1]])

    def model(c: np.ndarray, r0: float, a: float, log_mid: float, b: float) -> np.ndarray:
        return r0 + (a - r0) * _share(c, log_mid, b)

    def gradient(c: np.ndarray, r0: float, a: float, log_mid: float, b: float) -> np.ndarray:
        share = _share(c, log_mid, b)
        slope = (a - r0) * share * (1 - share)
        distance = np.log(np.maximum(c, 1e-300)) - log_mid  # at no cost the slope is 0 whatever the distance
        return np.stack([1 - share, share, -b * slope, distance * slope], axis=1)

    best, least = None, np.inf
    for start in starts:
        inside = np.clip(start, lower + 1e-6, upper - 1e-6)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", OptimizeWarning)  # the covariance is not used
            try:
                found, *_ = curve_fit(model, x, y, inside, jac=gradient, bounds=(lower, upper), max_nfev=400)
            except RuntimeError:  # no convergence from this start
                continue
        loss = float(np.sum((model(x, *found) - y) ** 2))
        if loss < least:
            best, least = found, loss
    return best


def _bootstrap(
    costs: Sequence[np.ndarray], best: np.ndarray, residuals: Sequence[np.ndarray], seed: int, n: int
) -> np.ndarray:
    """[<= n, 4] parameters of curves made up from the fit and resampled residuals."""
    rng = np.random.default_rng(seed)
    total = sum(map(len, residuals))
    inflate = np.sqrt(total / max(1, total - 4))  # residuals of a fit are smaller than the errors
    found = []
    for _ in range(n):
        picks = rng.integers(len(costs), size=len(costs))
        x = np.concatenate([costs[s] for s in picks])
        noise = [inflate * rng.choice(residuals[s], size=len(residuals[s])) for s in picks]
        fitted = _fit(x, _curve(x, best) + np.concatenate(noise), [best])
        if fitted is not None:
            found.append(fitted)
    return np.array(found)
