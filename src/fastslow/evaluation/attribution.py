"""Was it the weights or the context? The four cells {base, trained} x {seed, evolved} (arXiv 2605.12484).

Every cell is measured on the same problems with the same random streams, so effects are paired by problem:

    weights effect  ((trained, seed) - (base, seed) + (trained, evolved) - (base, evolved)) / 2
    context effect  ((base, evolved) - (base, seed) + (trained, evolved) - (trained, seed)) / 2
    interaction      (trained, evolved) - (trained, seed) - (base, evolved) + (base, seed)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from fastslow.evaluation.intervals import Estimate, difference_ci, hierarchical_ci

Weights = Literal["base", "trained"]
ContextName = Literal["seed", "evolved"]
Cell = tuple[Weights, ContextName]
CellValues = Mapping[Cell, Mapping[str, float]]
"""One run's cells: (weights, context) -> problem id -> accuracy."""

CELLS: tuple[Cell, ...] = (("base", "seed"), ("trained", "seed"), ("base", "evolved"), ("trained", "evolved"))
_EFFECTS: Mapping[str, tuple[float, float, float, float]] = {
    "weights alone": (-1, 1, 0, 0),
    "context alone": (-1, 0, 1, 0),
    "both": (-1, 0, 0, 1),
    "weights effect": (-0.5, 0.5, -0.5, 0.5),
    "context effect": (-0.5, -0.5, 0.5, 0.5),
    "interaction": (1, -1, -1, 1),
}
"""Contrasts over :data:`CELLS`, in that order."""


@dataclass(frozen=True, slots=True)
class Attribution:
    """``cells``: accuracy in each; ``effects``: differences of accuracies, paired by problem. ``problems``: of the
    smallest run; ``seeds``: runs."""

    cells: dict[Cell, Estimate]
    effects: dict[str, Estimate]
    problems: int
    seeds: int


def measure_cells(evaluate: Callable[[Weights, ContextName], Mapping[str, float]]) -> dict[Cell, dict[str, float]]:
    """Call ``evaluate`` (problem id -> accuracy) for the four cells: first both with base weights, then with trained
    ones, so that weights change once."""
    by_weights = [(w, c) for w in ("base", "trained") for c in ("seed", "evolved")]
    return {(w, c): dict(evaluate(w, c)) for w, c in by_weights}


def attribute(per_seed: Sequence[CellValues], seed: int = 0) -> Attribution:
    """Cells and effects over one or more runs, with 95% intervals over seeds and problems.

    Raises ``ValueError`` where a run's cells were measured on different problems.
    """
    if not per_seed:
        raise ValueError("no runs given")
    values = [_paired(cells) for cells in per_seed]  # one [4, problems] a run
    cells = {
        cell: Estimate(_mean([v[i] for v in values]), hierarchical_ci([v[i].tolist() for v in values], seed=seed))
        for i, cell in enumerate(CELLS)
    }
    effects = {}
    for name, contrast in _EFFECTS.items():
        differences = [np.array(contrast) @ v for v in values]
        effects[name] = Estimate(_mean(differences), difference_ci([d.tolist() for d in differences], seed=seed))
    return Attribution(cells, effects, min(v.shape[1] for v in values), len(values))


def _paired(cells: CellValues) -> np.ndarray:
    problems = list(cells[CELLS[0]])
    if any(set(cells[cell]) != set(problems) for cell in CELLS):
        raise ValueError("the four cells must be measured on the same problems")
    return np.array([[cells[cell][p] for p in problems] for cell in CELLS], dtype=float)


def _mean(per_seed: Sequence[np.ndarray]) -> float:
    return float(np.mean([v.mean() for v in per_seed]))
