"""The registry: one file and one line an experiment, in the order in which they are best run."""

from __future__ import annotations

from collections.abc import Mapping

from fastslow.errors import FastslowError
from fastslow.lab.base import Experiment
from fastslow.lab.experiments.asymptote import ASYMPTOTE
from fastslow.lab.experiments.attribution import ATTRIBUTION
from fastslow.lab.experiments.continual import CONTINUAL
from fastslow.lab.experiments.distill import DISTILL
from fastslow.lab.experiments.drift import DRIFT
from fastslow.lab.experiments.efficiency import EFFICIENCY
from fastslow.lab.experiments.plasticity import PLASTICITY
from fastslow.lab.experiments.retention import RETENTION
from fastslow.lab.experiments.sweep import SWEEP
from fastslow.lab.experiments.when_it_pays import WHEN_IT_PAYS
from fastslow.lab.experiments.zero_reward import ZERO_REWARD

EXPERIMENTS: Mapping[str, Experiment] = {
    e.name: e
    for e in (
        SWEEP, EFFICIENCY, ATTRIBUTION, DRIFT, RETENTION, PLASTICITY, ASYMPTOTE, ZERO_REWARD, CONTINUAL, DISTILL,
        WHEN_IT_PAYS,
    )
}  # fmt: skip


def find_experiment(name: str) -> Experiment:
    if name not in EXPERIMENTS:
        raise FastslowError(f"lab {name}: no such experiment; choose from {', '.join(EXPERIMENTS)}")
    return EXPERIMENTS[name]
