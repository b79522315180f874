"""Where a group's signal comes from: reward variance between contexts and within a context, and groups rescued.

A group's G rollouts lie under several contexts (arXiv 2605.12484). By the law of total variance, with n_c rollouts of
mean m_c and variance v_c under context c, and m the mean of all G:

    variance = sum_c (n_c / G) (m_c - m)^2  +  sum_c (n_c / G) v_c
               between contexts                within a context
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np

from fastslow.evaluation.intervals import Interval, bootstrap_ci, ratio_ci

RewardGroup = Mapping[str, Sequence[float]]
"""The rewards of one problem's group by context id."""


@dataclass(frozen=True, slots=True)
class GroupVariance:
    """Population variances (divided by G) of one group; ``total`` = ``between`` + ``within``."""

    between: float
    within: float

    @property
    def total(self) -> float:
        return self.between + self.within


@dataclass(frozen=True, slots=True)
class VarianceReport:
    """Means over groups. ``between_share``: of the variance of all groups, the part between contexts (None where no
    reward varies). ``flat``: all rewards equal, so no gradient; ``rescued``: not flat, but every context alone is."""

    groups: int
    total: float
    between: float
    within: float
    between_share: float | None
    between_share_ci95: Interval | None
    flat: int
    flat_share: float
    flat_share_ci95: Interval
    rescued: int
    rescued_share: float
    rescued_share_ci95: Interval


def group_variance(group: RewardGroup) -> GroupVariance:
    """The law of total variance over the contexts of one group, which may have unequal numbers of rollouts."""
    rewards = [r for values in group.values() for r in values]
    if not rewards:
        raise ValueError("a group needs at least one rollout")
    mean = fmean(rewards)
    between = within = 0.0
    for values in (v for v in group.values() if v):
        own = fmean(values)
        between += len(values) * (own - mean) ** 2
        within += sum((r - own) ** 2 for r in values)
    return GroupVariance(between / len(rewards), within / len(rewards))


def is_flat(group: RewardGroup) -> bool:
    return len({r for values in group.values() for r in values}) <= 1


def is_rescued(group: RewardGroup) -> bool:
    """The group has a signal, and the rollouts of each of its contexts, taken alone, have none."""
    return not is_flat(group) and all(len(set(values)) <= 1 for values in group.values())


def groups_from_rows(rows: Iterable[Mapping[str, Any]]) -> list[RewardGroup]:
    """Groups from a ledger's slow rollouts (``runs/ledger_query.py``): one problem at one step."""
    groups: dict[tuple[int, str], dict[str, list[float]]] = {}
    for row in rows:
        group = groups.setdefault((row["step"], row["problem_id"]), {})
        group.setdefault(row["context_id"], []).append(float(row["reward"]))
    return list(groups.values())


def variance_report(per_seed: Sequence[Sequence[RewardGroup]]) -> VarianceReport:
    """Over the groups of one or more runs; intervals resample groups (pooled over seeds)."""
    groups = [g for groups in per_seed for g in groups]
    if not groups:
        raise ValueError("no groups: the run has had no slow step")
    parts = [group_variance(g) for g in groups]
    flat, rescued = ([float(f(g)) for g in groups] for f in (is_flat, is_rescued))
    share = interval = None
    if any(not f for f in flat):
        share = sum(p.between for p in parts) / sum(p.total for p in parts)
        moving = [p for p in parts if p.total > 0]  # a flat group has no variance to share out
        interval = ratio_ci([([p.between for p in moving], [p.total for p in moving])])
    return VarianceReport(
        groups=len(groups),
        total=float(np.mean([p.total for p in parts])),
        between=float(np.mean([p.between for p in parts])),
        within=float(np.mean([p.within for p in parts])),
        between_share=share,
        between_share_ci95=interval,
        flat=int(sum(flat)),
        flat_share=fmean(flat),
        flat_share_ci95=bootstrap_ci(flat),
        rescued=int(sum(rescued)),
        rescued_share=fmean(rescued),
        rescued_share_ci95=bootstrap_ci(rescued),
    )
