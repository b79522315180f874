"""Runs as they would lie on disk, made up: a fast phase every 6 steps and an evaluation every 6."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fastslow.config_io import parse_config
from fastslow.runs.directory import RunDirectory
from fastslow.runs.metrics import MetricsWriter

CURVES = {"fst": (0.04, 0.74), "rl": (0.0, 0.02), "gepa": (0.04, 0.36)}


def evaluation_line(step: int, fast: int, slow: int, seed_values: list, evolved_values: list, majority: float) -> dict:
    return {
        "rollouts": {"fast": fast, "slow": slow, "evaluation": 128},
        "problems": step * 8,
        "seconds": {"fast": fast * 0.1, "slow": slow * 0.15, "evaluation": 9.0},
        "accuracy": {
            "seed_context": float(np.mean(seed_values)),
            "evolved_context": float(np.mean(evolved_values)),
            "ci95": {"seed_context": [0.0, 0.2], "evolved_context": [0.1, 0.9]},
        },
        "majority_answer_share": majority,
        "per_problem": {"seed_context": seed_values, "evolved_context": evolved_values},
    }


def make_run(
    folder: Path, method: str, seed: int, steps: int = 36, problems: int = 64, finished: bool = True, **changes
) -> Path:
    """A run whose accuracy rises along ``CURVES[method]``."""
    data = {"task": {"name": "chain_sum", "convention": "brackets"}, "name": f"{method}-{seed}", **changes}
    config = parse_config({**data, "method": method, "seed": seed, "steps": steps})
    rng = np.random.default_rng([seed, len(method)])
    start, end = CURVES[method]
    fast = slow = 0
    with RunDirectory.create(folder, config) as run, MetricsWriter(run.metrics_path) as metrics:
        for step in range(steps + 1):
            share = 1 - np.exp(-3 * step / steps)
            level = start + (end - start) * share + rng.normal(0, 0.02)
            if step % 6 == 0:
                seed_values = (rng.random(problems) < level * 0.15).astype(float).tolist()
                values = (rng.random(problems) < level).astype(float).tolist()
                line = evaluation_line(step, fast, slow, seed_values, values, 0.25 - 0.15 * share)
                metrics.write("evaluation", step, line)
            if step == steps:
                break
            if step % 6 == 0 and method != "rl":
                fast += 240
                line = {
                    "cycle": step // 6,
                    "metric_calls": 240,
                    "population": ["a", "b"],
                    "best": "a",
                    "best_score": level,
                }
                metrics.write("fast", step, line)
            if method != "gepa":
                slow += 64
                flat = round(8 * (0.6 - 0.5 * share)) if method == "fst" else 8
                line = {"reward": max(0.0, level), "groups": 8, "flat_groups": flat, "rescued_groups": (8 - flat) // 2}
                metrics.write("slow", step + 1, line)
        if finished:
            run.write_summary({"method": method})
    return folder
