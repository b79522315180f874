"""Fifty runs killed at random moments of random places, some again and again, end as the unbroken run, bit for bit.

Locks: whatever SIGKILL interrupts (sampling, scoring, reflection, gradient, optimizer step, checkpoint, ledger,
metrics, loading, resuming), the run goes on from its files, has each rollout exactly once, and leaves nothing
of the dead processes behind. Ctrl-C and SIGTERM save, say how to go on, and change nothing either.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import kill
import stop
from strikes import PLACES, Strike

KILLS = 50
PHASES = ("sampling", "scoring", "reflection", "gradient", "optimizer step", "checkpoint", "ledger", "metrics")


@pytest.fixture(scope="module")
def runner(tmp_path_factory) -> kill.Runner:
    return kill.Runner(kill.make_home(tmp_path_factory.mktemp("kill")))


@pytest.fixture(scope="module")
def seen(runner) -> kill.Survey:
    return kill.survey(runner)


def test_every_place_is_there_and_reached_by_an_unbroken_run(seen):
    assert not [p.name for p in PLACES if p.chosen and not seen.calls[p.name]]
    assert sum(p.chosen for p in PLACES) + kill.OUTSIDE_CHOSEN == KILLS  # one round of the deck has every place


def test_fifty_killed_runs_end_equal(runner, seen):
    runs = kill.kill_runs(runner, seen, KILLS, seed=0)
    assert len(runs) == KILLS and all(run.deaths for run in runs)
    assert not {i: (r.deaths, r.unlike) for i, r in enumerate(runs) if r.unlike}
    struck = {place for run in runs for place, _ in run.deaths}
    assert all(any(place.startswith(phase) for place in struck) for phase in PHASES)
    assert any(len(run.deaths) > 1 for run in runs)


def test_the_comparison_can_fail(runner, seen):
    """Another seed ends elsewhere, and every part of the comparison tells."""
    other = kill.Runner(runner.home)
    other.settings = {**other.settings, "seed": 1}
    folder = runner.home / "another-seed"
    assert other.process(folder) == 0
    unlike = kill.differences(kill.everything(folder), seen.expected)
    assert {"state", "metrics", "ledger", "contexts"} <= set(unlike)
    assert any(part.startswith("tensors: weights/") for part in unlike)


def test_a_strike_kills_where_it_should(runner, seen):
    folder = runner.home / "struck"
    assert runner.process(folder, Strike("ledger", 3, "inside", 0.5)) == -9
    assert kill.Trail.last(runner.notes(folder, "trail")) == "ledger"
    assert not list((folder / "checkpoints").iterdir()) or os.path.exists(folder / "ledger.sqlite-wal")


def test_asked_to_stop_it_saves_says_how_to_go_on_and_ends_equal(runner):
    for left in stop.stop_runs(runner.home):
        assert left.code == 2, left
        assert left.said.startswith("fastslow: stopped at step ") and "; go on with --resume --out " in left.said, left
        assert not left.unlike, left
