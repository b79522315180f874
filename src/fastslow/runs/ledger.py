"""The ledger: every rollout, context, reflection and slow step of a run, once, in one SQLite file (WAL, one writer).

:mod:`fastslow.runs.ledger_query` reads it, also while it is written.
"""

from __future__ import annotations

import json
import math
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from fastslow.errors import RunError
from fastslow.fast.base import ReflectionCall
from fastslow.runs.fates import Fate
from fastslow.runs.files import json_text
from fastslow.runs.ledger_file import check_ledger, migrate, sqlite_errors, storable
from fastslow.runs.ledger_schema import TABLES
from fastslow.types import Context, Phase, Rollout

_ROLLOUT_COLUMNS = (
    "phase, step, idx, cycle, weights_step, context_id, problem_id, seed, text, prompt_tokens, completion_tokens, "
    "logprob_sum, reward, feedback, finish_reason, error"
)


class Ledger:
    """Writes ``path``; each ``add_…`` is one transaction, on disk when it returns. Raises :class:`RunError`."""

    def __init__(self, path: str | Path, timeout: float = 10.0) -> None:
        """``timeout``: seconds to wait for another process that holds the file."""
        self.path = Path(path)
        with sqlite_errors(self.path):
            self._db = sqlite3.connect(self.path, timeout=timeout, isolation_level=None)
            try:
                check_ledger(self._db, self.path, writing=True)
                self._db.execute("PRAGMA journal_mode = WAL")
                self._db.execute("PRAGMA synchronous = FULL")  # a checkpoint must never count rows that a crash loses
                with self._transaction():  # also finds out now whether another process is writing
                    migrate(self._db)
            except BaseException:
                self._db.close()
                raise

    def add_rollouts(
        self, phase: Phase, step: int, rollouts: Sequence[Rollout], cycle: int | None = None, first_index: int = 0
    ) -> None:
        """Store the rollouts of one phase at one step, as rows (phase, step, first_index), (…, first_index + 1), …

        All or none; a row that is there already is a :class:`RunError`, so no rollout is counted twice. A phase that
        is stored in pieces passes ``first_index``.
        """
        rows = []
        for index, r in enumerate(rollouts, start=first_index):
            if r.phase != phase:
                raise ValueError(f"a rollout of phase {r.phase!r} was given to phase {phase!r}")
            rows.append((phase, step, index, cycle, *_rollout_values(r)))
        self._insert("rollouts", _ROLLOUT_COLUMNS, rows, f"{phase} rollouts of step {step}")

    def add_contexts(self, cycle: int, fates: Sequence[Fate], first_index: int = 0) -> None:
        """Store what became of contexts in ``cycle``, in the order in which it happened."""
        rows = [
            (cycle, index, *_context_values(f.context), f.outcome, storable(f.reason))
            for index, f in enumerate(fates, first_index)
        ]
        columns = "cycle, idx, id, components, parents, birth_cycle, reason, outcome, outcome_reason"
        self._insert("contexts", columns, rows, f"contexts of cycle {cycle}")

    def add_reflections(self, cycle: int, reflections: Sequence[ReflectionCall], first_index: int = 0) -> None:
        """Store the calls of the reflector in ``cycle``, in the order asked."""
        rows = [
            (cycle, index, *_reflection_values(reflection)) for index, reflection in enumerate(reflections, first_index)
        ]
        columns = "cycle, idx, prompt_hash, tokens, seconds, outcome, reason, reflector, context_id, proposed_id"
        self._insert("reflections", columns, rows, f"reflections of cycle {cycle}")

    def add_slow_step(self, step: int, metrics: Mapping[str, Any]) -> None:
        self._insert("slow_steps", "step, metrics", [(step, _stored_json(dict(metrics)))], f"slow step {step}")

    def position(self) -> dict[str, int]:
        """The last key of every table: what a checkpoint stores and :meth:`rewind` takes."""
        with sqlite_errors(self.path):
            return {
                t: self._db.execute(f"SELECT coalesce(max({key}), 0) FROM {t}").fetchone()[0]
                for t, key in TABLES.items()
            }

    def rewind(self, position: Mapping[str, int] | None) -> None:
        """Delete every row later than ``position``; None empties the ledger. Later rows get the keys again.

        Raises :class:`RunError` where rows that the checkpoint counts are missing.
        """
        now = self.position()
        keep = {table: 0 if position is None else position[table] for table in TABLES}
        for table, last in keep.items():
            if last > now[table]:
                raise RunError(
                    f"{self.path}: {now[table]} {table}, but the checkpoint counts {last}; the file was replaced, so "
                    "restore it or start anew with another --out"
                )
        with self._transaction():
            for table, key in TABLES.items():
                self._db.execute(f"DELETE FROM {table} WHERE {key} > ?", (keep[table],))

    def counts(self) -> dict[str, int]:
        """Rollouts by phase."""
        with sqlite_errors(self.path):
            found = dict(self._db.execute("SELECT phase, count(*) FROM rollouts GROUP BY phase"))
        return {phase: found.get(phase, 0) for phase in ("fast", "slow", "evaluation")}

    def close(self) -> None:
        """Close; a ledger that nobody else reads becomes one plain file, easy to copy and to read anywhere."""
        with suppress(sqlite3.Error):  # a reader at work: the write-ahead log stays, and is read along with the file
            self._db.execute("PRAGMA busy_timeout = 0")
            self._db.execute("PRAGMA journal_mode = DELETE")
        self._db.close()

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _insert(self, table: str, columns: str, rows: Sequence[tuple[Any, ...]], what: str) -> None:
        marks = ", ".join("?" * (columns.count(",") + 1))
        with self._transaction():
            try:
                self._db.executemany(f"INSERT INTO {table} ({columns}) VALUES ({marks})", rows)
            except sqlite3.IntegrityError as error:
                if error.sqlite_errorcode != sqlite3.SQLITE_CONSTRAINT_UNIQUE:
                    raise ValueError(f"{what}: {error}") from error
                raise RunError(
                    f"{self.path}: {what} are stored already; resume from a checkpoint, or use another --out"
                ) from error

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with sqlite_errors(self.path):
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                with suppress(sqlite3.Error):  # SQLite has rolled back by itself after some errors
                    self._db.execute("ROLLBACK")
                raise


def _rollout_values(r: Rollout) -> tuple[Any, ...]:
    return (
        r.weights_step,
        r.context_id,
        storable(r.problem_id),
        r.seed,
        storable(r.text),
        len(r.prompt_ids),
        len(r.completion_ids),
        math.fsum(r.logprobs),
        r.reward,
        storable(r.feedback),
        r.finish_reason,
        None if r.error is None else storable(r.error),
    )


def _context_values(c: Context) -> tuple[Any, ...]:
    return (c.id, _stored_json(dict(c.components)), json.dumps(list(c.parents)), c.birth_cycle, storable(c.reason))


def _reflection_values(r: ReflectionCall) -> tuple[Any, ...]:
    said = (storable(r.outcome), storable(r.reason), storable(r.reflector))
    return (r.prompt_hash, r.tokens, r.seconds, *said, r.context_id, r.proposed_id)


def _stored_json(data: dict[str, Any]) -> str:
    return json_text(data, indent=None)
