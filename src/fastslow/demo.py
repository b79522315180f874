"""The main job: FST beside RL and GEPA alone, at equal total rollouts, on the embedded model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fastslow.config import RunConfig
from fastslow.config_io import load_config
from fastslow.engines import pick_engine
from fastslow.errors import RunError
from fastslow.progress import make_progress
from fastslow.runs.directory import RunDirectory
from fastslow.runs.signals import Stopped
from fastslow.runs.summary import RunSummary, read_summary

ARMS = ("fst", "rl", "gepa")
_FAR = 1_000_000  # steps: the rollout budget ends the arms that are matched to FST


@dataclass(frozen=True, slots=True)
class ArmRun:
    arm: str
    seed: int
    path: Path
    summary: RunSummary


def run_demo(
    config_path: Path, out: Path, seeds: Sequence[int], arms: Sequence[str] = ARMS, overrides: Sequence[str] = ()
) -> list[ArmRun]:
    """Train every arm for every seed; RL and GEPA get at most the fast + slow rollouts that FST spent,
    up to a whole step.

    A run that is complete in ``out`` is read, not repeated; one that was interrupted goes on where it stopped. A
    complete run of another config is a :class:`RunError`: its figures would pass for the ones asked for.
    """
    runs: list[ArmRun] = []
    for seed in seeds:
        fst = _run(load_config(config_path, [*overrides, "method=fst", f"seed={seed}"]), out, seed, "fst")
        if "fst" in arms:
            runs.append(fst)
        budget = fst.summary.rollouts.training
        for arm in [a for a in arms if a != "fst"]:
            matched = [*overrides, f"method={arm}", f"seed={seed}", f"max_rollouts={budget}", f"steps={_FAR}"]
            runs.append(_run(load_config(config_path, matched), out, seed, arm))
    return runs


def _run(config: RunConfig, out: Path, seed: int, arm: str) -> ArmRun:
    path = out / f"{arm}-seed{seed}"
    run = RunDirectory(path)
    if run.summary_path.exists():
        if run.load_config() != config:
            raise RunError(f"{path}: a finished run of another config is here; remove it, or choose another --out")
        return ArmRun(arm, seed, path, read_summary(run.summary_path))
    with make_progress(config, label=f"{arm} seed {seed}") as progress:
        try:
            summary = pick_engine(config)(config, path, resume=run.config_path.exists(), progress=progress)
        except Stopped as stopped:
            raise Stopped(f"{arm} seed {seed}: {stopped.at}", "go on with the same command") from None
    return ArmRun(arm, seed, path, summary)
