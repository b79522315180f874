"""What writing and reading a ledger share: the file's check, its migration, its text, and errors of one line.

Text from models and datasets may hold what SQLite or UTF-8 can't: a lone surrogate is stored as its escape
``\\udXXX`` and a NUL as ``\\x00``, always the same way; all other text is stored as it is.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fastslow.errors import RunError
from fastslow.runs import ledger_schema
from fastslow.runs.files import free_bytes, human_size


def storable(text: str) -> str:
    """The text as the ledger stores it.

    >>> storable("a\\x00b"), storable("\\ud800")
    ('a\\\\x00b', '\\\\ud800')
    """
    return text.encode("utf-8", "backslashreplace").decode("utf-8").replace("\x00", "\\x00")


def version_of(db: sqlite3.Connection) -> int:
    return db.execute("PRAGMA user_version").fetchone()[0]


def check_ledger(db: sqlite3.Connection, path: Path, writing: bool) -> None:
    """A ledger of a version known here; an empty file is one where ``writing`` starts it."""
    application = db.execute("PRAGMA application_id").fetchone()[0]
    tables = db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    if application != ledger_schema.APPLICATION_ID and (tables or not writing):
        mend = "choose another --out" if writing else "give the folder of a run"
        raise RunError(f"{path}: not a ledger of fastslow; {mend}")
    version, newest = version_of(db), ledger_schema.SCHEMA_VERSION
    if version > newest:
        raise RunError(f"{path}: ledger version {version} is newer than {newest}, known here; upgrade fastslow")


def migrate(db: sqlite3.Connection) -> None:
    """Bring the tables to the newest version; the caller holds a transaction."""
    for migration in ledger_schema.MIGRATIONS[version_of(db) :]:
        for statement in migration.split(";"):
            db.execute(statement)
    db.execute(f"PRAGMA application_id = {ledger_schema.APPLICATION_ID}")
    db.execute(f"PRAGMA user_version = {ledger_schema.SCHEMA_VERSION}")


@contextmanager
def sqlite_errors(path: Path, writing: bool = True) -> Iterator[None]:
    """What goes wrong with the file, as a :class:`RunError` of one line."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        other = ", or use another --out" if writing else ""
        code = (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF  # the low byte is the primary result code
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            mend = f"another process holds it; wait for that run{other}"
        elif code == sqlite3.SQLITE_FULL:
            mend = f"the disk is full ({human_size(free_bytes(path))} free); make room"
        elif code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM):
            mend = f"cannot be opened{' or written' if writing else ''}; check its permissions{other}"
        elif code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            mend = "the file is damaged; restore it, or start anew with another --out"
        else:
            mend = f"repair the file{other}"
        raise RunError(f"{path}: {one_line(error)}: {mend}") from error


def one_line(error: Exception) -> str:
    return " ".join(str(error).split())
