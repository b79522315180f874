"""Reading a ledger, also while a run writes it. Nothing here can change the file: it is opened read-only, and what a
condition may do is limited to reading the ledger's own tables."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastslow.errors import RunError
from fastslow.runs import ledger_schema
from fastslow.runs.directory import RunDirectory
from fastslow.runs.ledger_file import check_ledger, migrate, one_line, sqlite_errors, version_of

_READS = {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION}
_OF_THE_FILE = {
    sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM, sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_FULL,
}  # fmt: skip
_IN_USE = ("seed", "rescored", "accepted", "confirmed", "unproven")


@dataclass(frozen=True, slots=True)
class KnownFate:
    """What became of a context in ``cycle`` (:data:`fastslow.runs.fates.OUTCOMES`), and why."""

    cycle: int
    outcome: str
    reason: str


@dataclass(frozen=True, slots=True)
class MeanReward:
    """Mean reward of ``n`` rollouts."""

    mean: float
    n: int


@dataclass(slots=True)
class ContextHistory:
    """A context as its run's ledger knows it: ``reason`` is why it was proposed; ``rewards`` are by phase."""

    id: str
    components: Mapping[str, str]
    parents: tuple[str, ...]
    birth_cycle: int
    reason: str
    fates: list[KnownFate] = field(default_factory=list)
    rewards: dict[str, MeanReward] = field(default_factory=dict)

    @property
    def in_use(self) -> bool:
        """Whether it is in the newest population: a guard that refuses it a second time doesn't take it out."""
        lasting = [f.outcome for f in self.fates if f.outcome != "refused"]
        return bool(lasting) and lasting[-1] in _IN_USE


def ledger_path(source: str | Path) -> Path:
    """The ledger of a run's folder, or the file itself; raises :class:`RunError` where there is none."""
    path = Path(source)
    if path.is_dir():
        path = RunDirectory(path).ledger_path
    if not path.is_file():
        raise RunError(f"{path}: no such ledger; give the folder of a run that has started")
    return path


@contextmanager
def open_ledger(source: str | Path) -> Iterator[sqlite3.Connection]:
    """A connection that can only read; a ledger of an older version is brought up to date in a copy of its own.

    Raises :class:`RunError` for a missing, foreign, newer or damaged file, also for what goes wrong inside the block.
    """
    path = ledger_path(source)
    with sqlite_errors(path, writing=False):
        db = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=10.0, isolation_level=None)
        try:
            check_ledger(db, path, writing=False)
            if version_of(db) < ledger_schema.SCHEMA_VERSION:
                db = _migrated_copy(db)
            db.row_factory = sqlite3.Row
            db.text_factory = lambda data: data.decode("utf-8", "replace")
            db.execute("PRAGMA query_only = ON")
            db.set_authorizer(_only_reading)
            yield db
        finally:
            db.close()


def query_rollouts(source: str | Path, where: str | None = None, limit: int | None = None) -> Iterator[dict[str, Any]]:
    """Rollouts as dicts, in the order stored, while ``where`` (an SQL condition, ``reward > 0``) holds.

    ``limit``: only the newest so many. ``source``: a run's folder or a ledger. Rows are read as they are asked for.
    Raises :class:`RunError` for a ledger that can't be used and for a condition that can't.
    """
    condition = f"WHERE (\n{where}\n)" if where and where.strip() else ""
    statement = f"SELECT * FROM rollouts {condition} ORDER BY id"
    if limit is not None:
        statement = f"SELECT * FROM ({statement} DESC LIMIT {int(limit)}) ORDER BY id"
    with open_ledger(source) as db:
        try:
            yield from map(dict, db.execute(statement))
        except (sqlite3.Error, sqlite3.Warning, ValueError) as error:
            code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)
            if not condition or code & 0xFF in _OF_THE_FILE:
                raise
            told = "a condition can only read" if code == sqlite3.SQLITE_AUTH else one_line(error)
            raise RunError(f"--where {where!r}: {told}; columns: {', '.join(_columns(db))}") from error


def rollout_columns(source: str | Path) -> list[str]:
    """Names of the columns of a rollout."""
    with open_ledger(source) as db:
        return _columns(db)


def _columns(db: sqlite3.Connection) -> list[str]:
    return [column[0] for column in db.execute("SELECT * FROM rollouts LIMIT 0").description]


def read_contexts(source: str | Path) -> list[ContextHistory]:
    """Every context of a run, in the order in which it was first heard of."""
    found: dict[str, ContextHistory] = {}
    path = ledger_path(source)
    with open_ledger(path) as db:
        for row in db.execute("SELECT * FROM contexts ORDER BY key"):
            _add_fate(found, row, path)
        statement = "SELECT context_id, phase, avg(reward), count(*) FROM rollouts GROUP BY 1, 2"
        for context_id, phase, mean, n in db.execute(statement):
            if context_id in found:
                found[context_id].rewards[phase] = MeanReward(mean, n)
    return list(found.values())


def _add_fate(found: dict[str, ContextHistory], row: sqlite3.Row, path: Path) -> None:
    fate = KnownFate(row["cycle"], row["outcome"], row["outcome_reason"])
    known = found.get(row["id"])
    try:
        parents, components = tuple(json.loads(row["parents"])), json.loads(row["components"])
    except ValueError as error:
        raise RunError(f"{path}: context {row['id']!r} can't be read ({one_line(error)}); restore the file") from error
    if known is None or fate.outcome in ("accepted", "unproven"):
        # The row of its acceptance has the lineage: it may have been proposed before, in vain, from another parent.
        new = ContextHistory(row["id"], components, parents, row["birth_cycle"], row["reason"])
        new.fates = known.fates if known else []
        known = found[row["id"]] = new
    known.reason = known.reason or row["reason"]
    known.fates.append(fate)


def _migrated_copy(db: sqlite3.Connection) -> sqlite3.Connection:
    copy = sqlite3.connect("", isolation_level=None)  # a temporary file that SQLite removes
    with closing(db):
        db.backup(copy)
    copy.execute("BEGIN")
    migrate(copy)
    copy.execute("COMMIT")
    return copy


def _only_reading(action: int, first: str | None, second: str | None, database: str | None, inner: str | None) -> int:
    if action not in _READS or (action == sqlite3.SQLITE_FUNCTION and second == "load_extension"):
        return sqlite3.SQLITE_DENY
    return sqlite3.SQLITE_OK
