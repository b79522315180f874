"""Locks: every rollout exactly once, the same keys after a resume, any text storable, no writing through --where."""

from __future__ import annotations

import sqlite3
import subprocess
import sys

import pytest

from fastslow.errors import RunError
from fastslow.fast.base import ReflectionCall
from fastslow.runs import ledger_query, ledger_schema
from fastslow.runs.fates import Fate
from fastslow.runs.ledger import Ledger
from fastslow.runs.ledger_file import storable
from fastslow.runs.ledger_schema import SCHEMA_VERSION
from fastslow.types import Context, Rollout


def rollout(problem: str = "p0", phase: str = "slow", reward: float = 1.0, **changes) -> Rollout:
    values = dict(
        problem_id=problem, context_id="abc", weights_step=3, phase=phase, seed=2**62, prompt_ids=(1, 2, 3), shared=2,
        completion_ids=(4, 5), logprobs=(-0.5, -0.25), text="7", finish_reason="stop", reward=reward,
    )  # fmt: skip
    return Rollout(**{**values, **changes})


def query_rollouts(*args) -> list[dict]:
    return list(ledger_query.query_rollouts(*args))


def one_line(caught) -> str:
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_rollout_is_stored_with_its_stamps_and_sums(tmp_path):
    with Ledger(tmp_path / "l") as ledger:
        ledger.add_rollouts("fast", 6, [rollout(phase="fast", feedback="near", error="boom")], cycle=1)
    assert query_rollouts(tmp_path / "l") == [
        {
            "id": 1, "phase": "fast", "step": 6, "idx": 0, "cycle": 1, "weights_step": 3, "context_id": "abc",
            "problem_id": "p0", "seed": 2**62, "text": "7", "prompt_tokens": 3, "completion_tokens": 2,
            "logprob_sum": -0.75, "reward": 1.0, "feedback": "near", "finish_reason": "stop", "error": "boom",
        }
    ]  # fmt: skip


def test_a_phase_is_stored_once_and_all_or_nothing(tmp_path):
    with Ledger(tmp_path / "l") as ledger:
        ledger.add_rollouts("slow", 1, [rollout(), rollout("p1")])
        with pytest.raises(RunError) as caught:
            ledger.add_rollouts("slow", 1, [rollout("p2"), rollout("p3"), rollout("p4")], first_index=1)
        assert "slow rollouts of step 1 are stored already" in one_line(caught)
        ledger.add_rollouts("slow", 1, [rollout("p2")], first_index=2)
        ledger.add_rollouts("evaluation", 1, [rollout(phase="evaluation")])
        assert ledger.counts() == {"fast": 0, "slow": 3, "evaluation": 1}
        with pytest.raises(ValueError, match="phase 'slow' was given to phase 'fast'"):
            ledger.add_rollouts("fast", 1, [rollout()])


def fill(ledger: Ledger, steps: range) -> None:
    for step in steps:
        ledger.add_rollouts("slow", step, [rollout(f"p{step}"), rollout(f"q{step}")])
        ledger.add_slow_step(step, {"reward": step / 7})
        ledger.add_contexts(step, [Fate(Context({"instructions": f"i{step}\ud800"}, ("x",), step, "why"), "accepted")])
        ledger.add_reflections(step, [ReflectionCall("h", 12, 0.5, "refused", "too long", "word", "x", "y")])


def dump(path) -> list:
    db = sqlite3.connect(path)
    rows = [
        (t, r) for t in ("rollouts", "contexts", "reflections", "slow_steps") for r in db.execute(f"SELECT * FROM {t}")
    ]
    db.close()
    return rows


def test_a_resumed_run_has_the_rows_and_keys_of_an_unbroken_one(tmp_path):
    with Ledger(tmp_path / "unbroken") as ledger:
        fill(ledger, range(5))
    with Ledger(tmp_path / "broken") as ledger:
        fill(ledger, range(2))
        position = ledger.position()
        fill(ledger, range(2, 4))
    with Ledger(tmp_path / "broken") as ledger:
        ledger.rewind(position)
        fill(ledger, range(2, 5))
    assert position == {"rollouts": 4, "contexts": 2, "reflections": 2, "slow_steps": 2}
    assert len(dump(tmp_path / "unbroken")) == 25
    assert dump(tmp_path / "broken") == dump(tmp_path / "unbroken")


def test_rewinding_to_none_empties_and_missing_rows_are_refused(tmp_path):
    with Ledger(tmp_path / "l") as ledger:
        fill(ledger, range(2))
        position = ledger.position()
        ledger.rewind(None)
        assert ledger.counts()["slow"] == 0
        with pytest.raises(RunError) as caught:
            ledger.rewind(position)
        assert "0 rollouts, but the checkpoint counts 4" in one_line(caught)


def test_rows_are_on_disk_when_add_returns_even_if_the_process_is_killed(tmp_path):
    code = """
import os, sys
sys.path.insert(0, sys.argv[2])
from test_runs_ledger import Ledger, fill
ledger = Ledger(sys.argv[1])
fill(ledger, range(3))
ledger._db.execute("BEGIN IMMEDIATE")
ledger._db.execute("DELETE FROM rollouts")
os.kill(os.getpid(), 9)
"""
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "l"), str(__file__).rpartition("/")[0]], check=False)
    assert (tmp_path / "l-wal").exists()
    assert len(query_rollouts(tmp_path / "l")) == 6
    with Ledger(tmp_path / "l") as ledger:
        assert ledger.counts()["slow"] == 6


@pytest.mark.parametrize("text", ["\ud800x", "a\x00b", "日本", "\\ud800", "", "'; DROP TABLE rollouts; --"])
def test_any_text_is_storable_and_always_the_same_way(tmp_path, text):
    with Ledger(tmp_path / "l") as ledger:
        ledger.add_rollouts("slow", 1, [rollout(problem=text, text=text, feedback=text, error=text)])
        ledger.add_contexts(0, [Fate(Context({text: text}, reason=text), "rejected", text)])
        ledger.add_reflections(0, [ReflectionCall("h", 1, 0.0, text, text, text)])
        ledger.add_slow_step(1, {text: text})
    (row,) = query_rollouts(tmp_path / "l")
    assert row["text"] == row["feedback"] == row["error"] == row["problem_id"] == storable(text)
    assert row["text"] == {"\ud800x": "\\ud800x", "a\x00b": "a\\x00b"}.get(text, text)


def test_reading_filters_and_bad_sql_is_one_line(tmp_path):
    path = tmp_path / "l"
    with Ledger(path) as ledger:
        ledger.add_rollouts("slow", 1, [rollout(reward=r) for r in (0.0, 0.5, 1.0)])
        assert [r["reward"] for r in query_rollouts(path, "reward > 0 -- a comment")] == [
            0.5,
            1.0,
        ]  # while it is written
    assert [r["reward"] for r in query_rollouts(path, None, 1)] == [1.0]  # the newest
    for bad in ("reward >", "no_such > 1", "1); DELETE FROM rollouts; --", "'unclosed", "\x00", "\ud800"):
        with pytest.raises(RunError) as caught:
            query_rollouts(path, bad)
        assert one_line(caught).startswith("--where") and "problem_id" in str(caught.value)
    with pytest.raises(RunError, match="no such ledger"):
        query_rollouts(tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_a_condition_cannot_write(tmp_path):
    path = tmp_path / "l"
    with Ledger(path) as ledger:
        fill(ledger, range(2))
    before = path.read_bytes()
    for bad in (
        "1); DELETE FROM rollouts WHERE (1",
        "id IN (DELETE FROM rollouts RETURNING id)",
        "1); PRAGMA query_only=0; --",
    ):
        with pytest.raises(RunError):
            query_rollouts(path, bad)
    assert path.read_bytes() == before


def test_a_ledger_held_by_another_writer_is_one_line(tmp_path):
    path = tmp_path / "l"
    with Ledger(path, timeout=0.05) as ledger:
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        for attempt in (lambda: Ledger(path, timeout=0.05), lambda: ledger.add_rollouts("slow", 1, [rollout()])):
            with pytest.raises(RunError) as caught:
                attempt()
            assert "another process holds it" in one_line(caught)
        other.execute("ROLLBACK")
        other.close()
        ledger.add_rollouts("slow", 1, [rollout()])


def test_foreign_newer_and_corrupt_files_are_refused_untouched(tmp_path):
    foreign = tmp_path / "foreign"
    db = sqlite3.connect(foreign)
    db.execute("CREATE TABLE precious (x)")
    db.commit()
    db.close()
    newer = tmp_path / "newer"
    Ledger(newer).close()
    db = sqlite3.connect(newer)
    db.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    db.close()
    garbage = tmp_path / "garbage"
    garbage.write_bytes(b"no database at all" * 1000)
    for path, words in ((foreign, "not a ledger"), (newer, "upgrade fastslow"), (garbage, "damaged")):
        before = path.read_bytes()
        for attempt in (Ledger, query_rollouts):
            with pytest.raises(RunError) as caught:
                attempt(path)
            assert words in one_line(caught)
        assert path.read_bytes() == before


def test_a_page_overwritten_with_garbage_is_one_line(tmp_path):
    path = tmp_path / "l"
    with Ledger(path) as ledger:
        fill(ledger, range(200))
    data = bytearray(path.read_bytes())
    for start in range(4096, len(data), 4096):
        data[start : start + 64] = b"\xff" * 64
    path.write_bytes(data)
    with pytest.raises(RunError) as caught:
        query_rollouts(path)
    assert "damaged" in one_line(caught)


def test_an_older_ledger_is_brought_up_to_date_with_its_rows(tmp_path, monkeypatch):
    path = tmp_path / "l"
    with Ledger(path) as ledger:
        fill(ledger, range(2))
    more = (*ledger_schema.MIGRATIONS, "ALTER TABLE rollouts ADD COLUMN extra TEXT")
    monkeypatch.setattr(ledger_schema, "MIGRATIONS", more)
    monkeypatch.setattr(ledger_schema, "SCHEMA_VERSION", SCHEMA_VERSION + 1)
    for _ in range(2):  # and only once
        with Ledger(path) as ledger:
            assert ledger.counts()["slow"] == 4
    assert query_rollouts(path)[0]["extra"] is None


def test_a_full_disk_is_one_line_and_keeps_what_was_stored(tmp_path):
    path = tmp_path / "l"
    with Ledger(path) as ledger:
        fill(ledger, range(2))
        ledger._db.execute(f"PRAGMA max_page_count = {ledger._db.execute('PRAGMA page_count').fetchone()[0]}")
        with pytest.raises(RunError) as caught:
            ledger.add_rollouts("slow", 9, [rollout(text="x" * 100_000)])
        assert "the disk is full" in one_line(caught)
        assert ledger.counts()["slow"] == 4
