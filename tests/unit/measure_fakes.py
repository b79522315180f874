"""Curves made by hand."""

from __future__ import annotations

import numpy as np

from fastslow.evaluation.curves import Curves


def curves(label: str, accuracy_SP, rollouts_P=None, problems: int = 1) -> Curves:
    """Every problem of a seed has the seed's mean, so resampled problems change nothing. 8 rollouts a problem."""
    accuracy = np.atleast_2d(np.array(accuracy_SP, dtype=float))
    cost = np.arange(accuracy.shape[1]) * 100.0 if rollouts_P is None else np.array(rollouts_P, dtype=float)
    rollouts = np.tile(cost, (len(accuracy), 1))
    values = tuple(np.repeat(row[:, None], problems, axis=1) for row in accuracy)
    return Curves(label, tuple(range(accuracy.shape[1])), rollouts / 8, rollouts, values)
