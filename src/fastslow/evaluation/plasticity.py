"""Plasticity: does a trained policy still learn? Fresh RL on a second task from several starting points, with the same
budget and seeds; area under the curve and final accuracy, each relative to a start from the base model.

In FST's account (arXiv 2605.12484) a start from FST's weights learns about as well as the base, one from RL's hardly.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fastslow.evaluation.curves import Cost, Curves
from fastslow.evaluation.intervals import Estimate, difference_ci, hierarchical_ci

BASE = "base"


@dataclass(frozen=True, slots=True)
class Plasticity:
    """One start. ``area``: mean accuracy over the budget (the curve's area over its width); ``initial`` and ``final``:
    accuracy at the first and last evaluation. The differences to base are paired by problem; None for base itself."""

    label: str
    initial: Estimate
    final: Estimate
    area: Estimate
    final_minus_base: Estimate | None
    area_minus_base: Estimate | None
    seeds: int
    problems: int


def compare_plasticity(curves: Mapping[str, Curves], by: Cost = "problems") -> list[Plasticity]:
    """Every start beside :data:`BASE`, which must be among them. Budgets and validation problems must be equal.

    A start's seed i is paired with base's seed i (modulo base's seeds), so give the seeds in the same order.
    """
    if BASE not in curves:
        raise ValueError(f"a plasticity probe needs the start {BASE!r} to compare with")
    base = curves[BASE]
    for other in curves.values():
        if other.steps != base.steps or other.values[0].shape != base.values[0].shape:
            raise ValueError(f"{other.label}: not the same evaluations and problems as the start from base")
    return [_row(label, c, None if label == BASE else base, by) for label, c in curves.items()]


def areas(curves: Curves, by: Cost = "problems") -> list[np.ndarray]:
    """Per seed, the area under each problem's curve (trapezoids) over the curve's width -> [N]; in [0, 1]."""
    found = []
    for cost_P, values_PN in zip(curves.cost_SP(by), curves.values, strict=True):
        width = cost_P[-1] - cost_P[0]
        found.append(np.trapezoid(values_PN, cost_P, axis=0) / width if width > 0 else values_PN.mean(axis=0))
    return found


def _row(label: str, curves: Curves, base: Curves | None, by: Cost) -> Plasticity:
    final, area = [v[-1] for v in curves.values], areas(curves, by)
    return Plasticity(
        label,
        initial=_estimate([v[0] for v in curves.values]),
        final=_estimate(final),
        area=_estimate(area),
        final_minus_base=None if base is None else _difference(final, [v[-1] for v in base.values]),
        area_minus_base=None if base is None else _difference(area, areas(base, by)),
        seeds=curves.seeds,
        problems=curves.values[0].shape[1],
    )


def _estimate(per_seed: Sequence[np.ndarray]) -> Estimate:
    mean = float(np.mean([v.mean() for v in per_seed]))
    return Estimate(mean, hierarchical_ci([v.tolist() for v in per_seed]))


def _difference(per_seed: Sequence[np.ndarray], base: Sequence[np.ndarray]) -> Estimate:
    differences = [v - base[i % len(base)] for i, v in enumerate(per_seed)]
    mean = float(np.mean([d.mean() for d in differences]))
    return Estimate(mean, difference_ci([d.tolist() for d in differences]))
