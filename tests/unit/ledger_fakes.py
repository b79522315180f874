"""A whole run on fakes that leaves a real run folder: the loop, GEPA and the recorder are the real ones."""

from __future__ import annotations

from pathlib import Path

from loop_fakes import FakeLearner, FakeTask, ScriptedSampler

from fastslow.config import RunConfig
from fastslow.config_io import parse_config
from fastslow.fast.gepa_bridge import GepaOptimizer
from fastslow.fast.reflect.feedback import FeedbackReflector
from fastslow.fst import FastSlowTraining
from fastslow.runs.directory import RunDirectory
from fastslow.runs.recorder import Recorder


def run_config(method: str = "fst", **fast) -> RunConfig:
    return parse_config(
        {
            "name": "fake",
            "method": method,
            "task": "chain_sum",
            "steps": 6,
            "fast": {"population": 3, "every": 2, "budget": 150, "minibatch": 2, "max_context_tokens": 40, **fast},
            "slow": {"group_size": 6, "problems_per_step": 4},
            "evaluation": {"every": 2},
        }
    )


def fake_run(folder: Path, method: str = "fst", reflector=None, **fast) -> FastSlowTraining:
    """A finished run of three cycles in ``folder``."""
    config = run_config(method, **fast)
    with RunDirectory.create(folder, config) as run:
        recorder = Recorder(run, checkpoint_every=0, keep=1)
        learner = FakeLearner()
        sampler = ScriptedSampler(learner, period=3)
        optimizer = None
        if method != "rl":
            optimizer = GepaOptimizer(
                config.fast, reflector or FeedbackReflector(4), sampler.context_tokens, on_event=recorder.context_event
            )
        loop = FastSlowTraining(config, FakeTask(), sampler, learner, optimizer, recorder)
        try:
            loop.run()
        finally:
            recorder.close()
    return loop
