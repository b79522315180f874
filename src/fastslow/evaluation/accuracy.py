"""mean@n accuracy over problems, with a 95% interval, and the share of the most common reply."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

from fastslow.evaluation.intervals import bootstrap_ci
from fastslow.tasks.scoring import SOLVED
from fastslow.types import Rollout


@dataclass(frozen=True, slots=True)
class Accuracy:
    """``per_problem``: problem id -> share of its n samples that are solved. ``reward``: mean reward.

    ``majority_answer_share``: how often the most common reply was given; near 1, the policy has collapsed onto it.
    """

    mean: float
    ci95: tuple[float, float]
    per_problem: dict[str, float]
    reward: float
    majority_answer_share: float
    truncated_share: float

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; :meth:`from_dict` reads it back."""
        return {**asdict(self), "ci95": list(self.ci95)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Accuracy:
        return cls(**{**data, "ci95": tuple(data["ci95"])})


def accuracy_pair(seed_context: Accuracy, evolved: Accuracy) -> dict[str, Any]:
    """Means and intervals of the two contexts that every evaluation measures, JSON-ready."""
    return {
        "accuracy": {"seed_context": seed_context.mean, "evolved_context": evolved.mean},
        "ci95": {"seed_context": seed_context.ci95, "evolved_context": evolved.ci95},
    }


def measure_accuracy(rollouts: Sequence[Rollout], seed: int = 0) -> Accuracy:
    """Accuracy of rollouts of one context, n per problem; the interval is a bootstrap over problems."""
    if not rollouts:
        raise ValueError("accuracy needs at least one rollout")
    solved: dict[str, list[float]] = {}
    for rollout in rollouts:
        solved.setdefault(rollout.problem_id, []).append(float(rollout.reward >= SOLVED))
    per_problem = {problem: fmean(values) for problem, values in solved.items()}
    replies = Counter(r.text.strip() for r in rollouts)
    return Accuracy(
        mean=fmean(per_problem.values()),
        ci95=bootstrap_ci(list(per_problem.values()), seed=seed),
        per_problem=per_problem,
        reward=fmean(r.reward for r in rollouts),
        majority_answer_share=replies.most_common(1)[0][1] / len(rollouts),
        truncated_share=fmean(r.finish_reason == "length" for r in rollouts),
    )
