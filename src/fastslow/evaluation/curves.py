"""Learning curves of an arm: accuracy by problem at every evaluation, over training problems and total rollouts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

Cost = Literal["problems", "rollouts"]


@dataclass(frozen=True)
class Curves:
    """The curves of S seeds at P common evaluations.

    ``problems_SP``: training problems seen by slow steps; ``rollouts_SP``: fast and slow rollouts spent, before each
    evaluation. ``values``: one array [P, N] a seed, the accuracy of each of N validation problems in [0, 1]; N = 1
    where only means were kept.
    """

    label: str
    steps: tuple[int, ...]
    problems_SP: np.ndarray
    rollouts_SP: np.ndarray
    values: tuple[np.ndarray, ...]

    def __post_init__(self) -> None:
        shape = (len(self.values), len(self.steps))
        if not shape[0] or not shape[1]:
            raise ValueError(f"{self.label}: curves need one or more seeds and evaluations")
        if self.problems_SP.shape != shape or self.rollouts_SP.shape != shape:
            raise ValueError(f"{self.label}: costs must have the shape (seeds, evaluations) = {shape}")
        if any(v.ndim != 2 or len(v) != shape[1] for v in self.values):
            raise ValueError(f"{self.label}: every seed needs values of shape (evaluations, problems)")

    @property
    def seeds(self) -> int:
        return len(self.values)

    @property
    def accuracy_SP(self) -> np.ndarray:
        """Mean over problems."""
        return np.stack([v.mean(axis=1) for v in self.values])

    @property
    def resamples_problems(self) -> bool:
        return all(v.shape[1] > 1 for v in self.values)

    def cost_SP(self, by: Cost) -> np.ndarray:
        return self.problems_SP if by == "problems" else self.rollouts_SP

    def resampled(self, rng: np.random.Generator) -> Curves:
        """Seeds drawn with replacement, then problems within each; a problem's whole curve stays together."""
        picks = rng.integers(self.seeds, size=self.seeds)
        drawn = [self.values[s] for s in picks]
        values = tuple(v[:, rng.integers(v.shape[1], size=v.shape[1])] for v in drawn)
        return Curves(self.label, self.steps, self.problems_SP[picks], self.rollouts_SP[picks], values)


def curves_from_lines(
    label: str, runs: Sequence[Sequence[Mapping[str, Any]]], which: str = "evolved_context"
) -> Curves:
    """Curves of one arm from the ``evaluation`` lines of its runs' metrics.jsonl, at the steps that all of them have.

    A run that measured only its seed context (RL) has that as its evolved context too. Raises ``ValueError`` where the
    runs have no evaluation in common.
    """
    by_step = [{line["step"]: line for line in lines if line["kind"] == "evaluation"} for lines in runs]
    steps = sorted(set(by_step[0]).intersection(*by_step[1:])) if by_step else []
    if not steps:
        raise ValueError(f"{label}: the runs have no evaluation in common")
    chosen = [[lines[step] for step in steps] for lines in by_step]
    rollouts = [[line["rollouts"]["fast"] + line["rollouts"]["slow"] for line in lines] for lines in chosen]
    problems = [[line["problems"] for line in lines] for lines in chosen]
    values = tuple(_values(lines, which) for lines in chosen)
    return Curves(label, tuple(steps), np.array(problems, float), np.array(rollouts, float), values)


def _values(lines: Sequence[Mapping[str, Any]], which: str) -> np.ndarray:
    found = [(line.get("per_problem") or {}) for line in lines]
    rows = [f.get(which) or f.get("seed_context") for f in found]
    if all(rows) and len({len(r) for r in rows if r}) == 1:
        return np.array(rows, dtype=float)
    means = [line["accuracy"] for line in lines]
    return np.array([[a["seed_context"] if a.get(which) is None else a[which]] for a in means], dtype=float)
