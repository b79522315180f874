"""The ledger: every rollout, context, reflection and slow step of a run, once, in one SQLite file (WAL, one writer).

Text from models and datasets may hold what SQLite or UTF-8 can't: a lone surrogate is stored as its escape
``\\udXXX`` and a NUL as ``\\x00``, always the same way; all other text is stored as it is.
"""

from __future__ import annotations

import json
import math
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastslow.errors import RunError
from fastslow.runs.files import free_bytes, human_size, json_text
from fastslow.runs.ledger_schema import APPLICATION_ID, MIGRATIONS, SCHEMA_VERSION, TABLES
from fastslow.types import Context, Phase, Rollout

_ROLLOUT_COLUMNS = (
    "phase, step, idx, cycle, weights_step, context_id, problem_id, seed, text, prompt_tokens, completion_tokens, "
    "logprob_sum, reward, feedback, finish_reason, error"
)


@dataclass(frozen=True, slots=True)
class Reflection:
    """One call of a reflector: ``tokens`` and ``seconds`` spent, and what came of it."""

    prompt_hash: str
    tokens: int
    seconds: float
    outcome: str
    reason: str = ""


class Ledger:
    """Writes ``path``; each ``add_…`` is one transaction, on disk when it returns. Raises :class:`RunError`."""

    def __init__(self, path: str | Path, timeout: float = 10.0) -> None:
        """``timeout``: seconds to wait for another process that holds the file."""
        self.path = Path(path)
        with _sqlite_errors(self.path):
            self._db = sqlite3.connect(self.path, timeout=timeout, isolation_level=None)
            try:
                _check_ledger(self._db, self.path, writing=True)
                self._db.execute("PRAGMA journal_mode = WAL")
                self._db.execute("PRAGMA synchronous = FULL")  # a checkpoint must never count rows that a crash loses
                self._migrate()
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

    def add_contexts(self, cycle: int, fates: Sequence[tuple[Context, str]], first_index: int = 0) -> None:
        """Store what became of each context in ``cycle``: (context, outcome), for example "accepted" or "rejected"."""
        rows = [(cycle, index, *_context_values(c), storable(o)) for index, (c, o) in enumerate(fates, first_index)]
        columns = "cycle, idx, id, components, parents, birth_cycle, reason, outcome"
        self._insert("contexts", columns, rows, f"contexts of cycle {cycle}")

    def add_reflections(self, cycle: int, reflections: Sequence[Reflection], first_index: int = 0) -> None:
        rows = [
            (cycle, index, r.prompt_hash, r.tokens, r.seconds, storable(r.outcome), storable(r.reason))
            for index, r in enumerate(reflections, start=first_index)
        ]
        columns = "cycle, idx, prompt_hash, tokens, seconds, outcome, reason"
        self._insert("reflections", columns, rows, f"reflections of cycle {cycle}")

    def add_slow_step(self, step: int, metrics: Mapping[str, Any]) -> None:
        self._insert("slow_steps", "step, metrics", [(step, _stored_json(dict(metrics)))], f"slow step {step}")

    def position(self) -> dict[str, int]:
        """The last key of every table: what a checkpoint stores and :meth:`rewind` takes."""
        with _sqlite_errors(self.path):
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
        with _sqlite_errors(self.path):
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

    def _migrate(self) -> None:
        with self._transaction():  # also finds out now whether another process is writing
            version = self._db.execute("PRAGMA user_version").fetchone()[0]
            for migration in MIGRATIONS[version:]:
                for statement in migration.split(";"):
                    self._db.execute(statement)
            self._db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            self._db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")

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
        with _sqlite_errors(self.path):
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                with suppress(sqlite3.Error):  # SQLite has rolled back by itself after some errors
                    self._db.execute("ROLLBACK")
                raise


def query_rollouts(path: str | Path, where: str | None = None, limit: int | None = None) -> list[dict[str, Any]]:
    """Rollouts as dicts, in the order stored, while ``where`` (an SQL condition, ``reward > 0``) holds.

    The file is opened read-only, also while a run is writing it: no condition can change it. Raises
    :class:`RunError` for a missing or damaged ledger and for bad SQL.
    """
    path = Path(path)
    if not path.is_file():
        raise RunError(f"{path}: no such ledger; give the folder of a run that has started")
    with _sqlite_errors(path):
        db = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=10.0)
        try:
            db.execute("PRAGMA query_only = ON")
            _check_ledger(db, path, writing=False)
            db.row_factory = sqlite3.Row
            condition = f"WHERE (\n{where}\n)" if where and where.strip() else ""
            try:
                rows = db.execute(
                    f"SELECT * FROM rollouts {condition} ORDER BY id LIMIT ?", (-1 if limit is None else limit,)
                )
                return [dict(row) for row in rows]
            except (sqlite3.OperationalError, sqlite3.ProgrammingError, sqlite3.Warning, ValueError) as error:
                if isinstance(error, sqlite3.OperationalError) and error.sqlite_errorcode != sqlite3.SQLITE_ERROR:
                    raise
                columns = "id, " + _ROLLOUT_COLUMNS
                raise RunError(f"--where {where!r}: {_one_line(error)}; columns: {columns}") from error
        finally:
            db.close()


def storable(text: str) -> str:
    """The text as the ledger stores it.

    >>> storable("a\\x00b"), storable("\\ud800")
    ('a\\\\x00b', '\\\\ud800')
    """
    return text.encode("utf-8", "backslashreplace").decode("utf-8").replace("\x00", "\\x00")


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


def _stored_json(data: dict[str, Any]) -> str:
    return json_text(data, indent=None)


def _check_ledger(db: sqlite3.Connection, path: Path, writing: bool) -> None:
    """A ledger of a version known here; an empty file is one where ``writing`` starts it."""
    application = db.execute("PRAGMA application_id").fetchone()[0]
    version = db.execute("PRAGMA user_version").fetchone()[0]
    tables = db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    if application != APPLICATION_ID and (tables or not writing):
        raise RunError(f"{path}: not a ledger of fastslow; choose another --out")
    if version > SCHEMA_VERSION:
        raise RunError(f"{path}: ledger version {version} is newer than {SCHEMA_VERSION}, known here; upgrade fastslow")


@contextmanager
def _sqlite_errors(path: Path) -> Iterator[None]:
    """What goes wrong with the file, as a :class:`RunError` of one line."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        code = (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF  # the low byte is the primary result code
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            mend = "another process holds it; wait for that run, or use another --out"
        elif code == sqlite3.SQLITE_FULL:
            mend = f"the disk is full ({human_size(free_bytes(path))} free); make room, then go on with --resume"
        elif code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM):
            mend = "cannot be opened or written; check its permissions, or use another --out"
        elif code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            mend = "the file is damaged; restore it, or start anew with another --out"
        else:
            mend = "use another --out, or repair the file"
        raise RunError(f"{path}: {_one_line(error)}: {mend}") from error


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
