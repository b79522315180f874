"""A trainer that trains nothing: it writes a run whose accuracy follows a planted curve, at the costs of a real one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import accumulate
from pathlib import Path

import numpy as np
import torch
from report_fakes import evaluation_line

from fastslow.config import RunConfig
from fastslow.lab.planning import Choice, LabRun, with_matched
from fastslow.lab.runner import Clock, run_planned
from fastslow.runs.checkpoint import save_checkpoint
from fastslow.runs.directory import RunDirectory
from fastslow.runs.metrics import MetricsWriter

Curve = Callable[[float], float]
"""Share of the budget that is spent -> accuracy."""


def rises_to(end: float, soon: float = 1.0, start: float = 0.02) -> Curve:
    """From ``start`` to ``end``, reached when the share ``soon`` of the budget is spent; flat from there."""
    return lambda share: start + (end - start) * min(1.0, share / soon)


class FakeTrainer:
    """``curves``: by arm. ``calls``: (folder's name, resume). ``stop_after``: calls until it fails, once."""

    def __init__(self, curves: Mapping[str, Curve], problems: int = 200) -> None:
        self.curves, self.problems = curves, problems
        self.calls: list[tuple[str, bool]] = []
        self.stop_after: int | None = None

    def __call__(self, config: RunConfig, out: Path, *, resume: bool = False) -> None:
        self.calls.append((out.name, resume))
        with RunDirectory.create(out, config, resume=resume) as run:
            if self.stop_after == len(self.calls):
                self.stop_after = None
                raise KeyboardInterrupt
            save_checkpoint(
                run.checkpoints, 1, {name: {"w": torch.zeros(2)} for name in ("weights", "optimizer")}, {}, 1
            )
            fast, slow = self._write(config, run)
            counts = {"fast": fast, "slow": slow, "evaluation": 0}
            run.write_summary(_summary(config, counts))

    def _write(self, config: RunConfig, run: RunDirectory) -> tuple[int, int]:
        arm = _arm(config)
        rng = np.random.default_rng(config.seed)  # all arms have the same luck
        draws = rng.random(self.problems)  # a problem that is solved stays solved
        steps = _steps(config)
        budget = config.max_rollouts or 1000 * len(getattr(config, "schedule", None) or [0])
        with MetricsWriter(run.metrics_path) as metrics:
            for i, step in enumerate(steps):
                share = i / (len(steps) - 1)
                values = (draws < self.curves[arm](share)).astype(float).tolist()
                fast = round(budget * share * 0.25) if config.method.startswith("fst") else 0
                slow = round(budget * share) - fast
                metrics.write("evaluation", step, evaluation_line(step, fast, slow, values, values, 0.1))
        return fast, slow


def trained(root: Path, studies, curves: Mapping[str, Curve], seeds: int = 3, plan_of=None, **options) -> list[LabRun]:
    """Runs of ``studies``, or of ``plan_of(choice)``, by a fake trainer."""
    from fastslow.lab.planning import plan

    choice = Choice(seeds, tuple(curves))
    wanted = plan_of(choice) if plan_of else plan(studies, choice)
    left = run_planned(with_matched(wanted), root, Clock(), lambda text: None, FakeTrainer(curves, **options))
    assert not left
    return [LabRun(p, root / p.folder) for p in wanted]


def measured_estimate(mean: float, half: float) -> dict:
    return {"mean": mean, "ci95": [mean - half, mean + half]}


def _steps(config: RunConfig) -> list[int]:
    """Where evaluations stand: every 2 steps, or in a schedule at the ends of its stages."""
    stages = getattr(config, "schedule", None)
    return [0, *accumulate(stage.steps for stage in stages)] if stages else list(range(0, 18, 2))


def _arm(config: RunConfig) -> str:
    told = bool(config.task.seed_context.examples)
    return "rl-told" if config.method == "rl" and told else config.method


def _summary(config: RunConfig, counts: dict[str, int]) -> dict:
    return {
        "method": config.method, "task": config.task.name, "model": config.model.name, "seed": config.seed, "steps": 1,
        "problems": 8, "rollouts": counts, "tokens": {}, "seconds": {},
    }  # fmt: skip
