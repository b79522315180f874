"""Confidence intervals of accuracies, over problems and over seeds.

Bootstrap intervals resample what varied: the problems of one run, or seeds and then problems of several. Where every
value is 0, or every value is 1, a bootstrap would claim a width of zero, so the Wilson score interval stands in.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

Interval = tuple[float, float]
_CHUNK = 4_000_000  # values drawn at once: 32 MB


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean and its 95% interval."""

    mean: float
    ci95: Interval


def wilson_ci(successes: float, n: int, level: float = 0.95) -> Interval:
    """Wilson score interval of a proportion (E. B. Wilson, 1927); never of zero width, never outside [0, 1].

    >>> tuple(round(x, 4) for x in wilson_ci(0, 10))
    (0.0, 0.2775)
    """
    if n < 1 or not 0 <= successes <= n:
        raise ValueError(f"{successes} successes of {n}: expected 0 <= successes <= n, n >= 1")
    z2 = _quantile(level) ** 2
    p = successes / n
    centre = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = math.sqrt(z2 * (p * (1 - p) / n + z2 / (4 * n * n))) / (1 + z2 / n)
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == n else min(1.0, centre + half)
    return low, high


def bootstrap_ci(values: Sequence[float], level: float = 0.95, seed: int = 0, n: int = 2000) -> Interval:
    """Percentile bootstrap of the mean over problems, from ``n`` resamples; the same ``seed``, the same interval.

    All 0 or all 1: the Wilson interval. Another constant c: (c, c). Raises ``ValueError`` for no values or a NaN.
    """
    data = _checked(values)
    if (edge := _edge([data], level)) is not None:
        return edge
    if np.ptp(data) == 0:
        return float(data[0]), float(data[0])
    rng = np.random.default_rng(seed)
    means = np.concatenate([data[draws].mean(axis=1) for draws in _draws(rng, len(data), n)])
    return _percentiles(means, level)


def hierarchical_ci(per_seed: Sequence[Sequence[float]], level: float = 0.95, seed: int = 0, n: int = 2000) -> Interval:
    """Interval of the mean over seeds of the mean over problems: resamples seeds, then problems within each.

    One seed: :func:`bootstrap_ci`. All 0 or all 1: the Wilson interval over the problems of one seed (the smallest
    set), since seeds share their problems and their number must not narrow it.
    """
    groups = [_checked(values) for values in per_seed]
    if not groups:
        raise ValueError("no seeds given")
    if len(groups) == 1:
        return bootstrap_ci(per_seed[0], level, seed, n)
    if (edge := _edge(groups, level)) is not None:
        return edge
    rng = np.random.default_rng(seed)
    means = np.zeros(n)
    picks = rng.integers(len(groups), size=(n, len(groups)))
    for column in picks.T:  # one drawn seed of every resample
        for index, data in enumerate(groups):
            rows = np.flatnonzero(column == index)
            if len(rows):
                means[rows] += np.concatenate([data[d].mean(axis=1) for d in _draws(rng, len(data), len(rows))])
    return _percentiles(means / len(groups), level)


def difference_ci(
    per_seed: Sequence[Sequence[float]], level: float = 0.95, seed: int = 0, n: int = 2000, proportions: bool = True
) -> Interval:
    """Interval of a mean difference from paired differences: of each problem, after minus before, one list a seed.

    Seeds, then problems, are resampled as in :func:`hierarchical_ci`. Where every difference of two ``proportions`` is
    the same 0, 1 or -1, a bootstrap would claim a width of zero; the Wilson interval of "how many problems differ"
    stands in: no change in n problems is (-u, u), u being the upper end for 0 of n.
    """
    groups = [_checked(values) for values in per_seed]
    if not groups:
        raise ValueError("no seeds given")
    first, size = float(groups[0][0]), min(len(data) for data in groups)
    if any(np.any(data != first) for data in groups):
        return hierarchical_ci(per_seed, level, seed, n)
    if not proportions or first not in (-1.0, 0.0, 1.0):
        return first, first
    low, high = wilson_ci(abs(first) * size, size, level)
    if first == 0:
        return -high, high
    return (low, high) if first > 0 else (-high, -low)


def ratio_ci(
    per_seed: Sequence[tuple[Sequence[float], Sequence[float]]], level: float = 0.95, seed: int = 0, n: int = 2000
) -> Interval:
    """Interval of the mean over seeds of sum(numerators) / sum(denominators), from one pair of lists a seed.

    Resamples seeds, then whole problems, so that a problem's tokens stay together. Denominators are positive.
    """
    groups = [(_checked(top), _checked(bottom)) for top, bottom in per_seed]
    if not groups or any(len(a) != len(b) or np.any(b <= 0) for a, b in groups):
        raise ValueError("a ratio needs as many numerators as positive denominators")
    rng = np.random.default_rng(seed)
    means = np.zeros(n)
    picks = rng.integers(len(groups), size=(n, len(groups)))
    for column in picks.T:
        for index, (top, bottom) in enumerate(groups):
            rows = np.flatnonzero(column == index)
            if len(rows):
                drawn = _draws(rng, len(top), len(rows))
                means[rows] += np.concatenate([top[d].sum(axis=1) / bottom[d].sum(axis=1) for d in drawn])
    return _percentiles(means / len(groups), level)


def _edge(groups: Sequence[np.ndarray], level: float) -> Interval | None:
    """The Wilson interval where all values of all groups are 0, or all are 1."""
    for value in (0.0, 1.0):
        if all(np.all(data == value) for data in groups):
            size = min(len(data) for data in groups)
            return wilson_ci(value * size, size, level)
    return None


def _checked(values: Sequence[float]) -> np.ndarray:
    data = np.asarray(values, dtype=float)
    if data.ndim != 1 or not len(data) or not np.all(np.isfinite(data)):
        raise ValueError("an interval needs one or more finite numbers")
    return data


def _draws(rng: np.random.Generator, size: int, n: int) -> Iterator[np.ndarray]:
    """``n`` resamples of ``size`` indices, in chunks (rows, size)."""
    rows = max(1, _CHUNK // size)
    for start in range(0, n, rows):
        yield rng.integers(size, size=(min(rows, n - start), size))


def _percentiles(means: np.ndarray, level: float) -> Interval:
    _quantile(level)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _quantile(level: float) -> float:
    if not 0 < level < 1:
        raise ValueError(f"level {level}: expected a number between 0 and 1, such as 0.95")
    return NormalDist().inv_cdf((1 + level) / 2)
