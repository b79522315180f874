"""Files that are whole or absent: atomic writes, syncing, JSON of any text, and OS errors in one clear line."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fastslow.errors import RunError

_TEMPORARY = ".tmp-"
_FULL = {errno.ENOSPC, errno.EDQUOT}
_REFUSED = {errno.EROFS, errno.EACCES, errno.EPERM}


@contextmanager
def disk_errors(path: Path, needed: int | None = None) -> Iterator[None]:
    """Turn an ``OSError`` while writing at ``path`` into a :class:`RunError` of one line; ``needed`` is in bytes."""
    try:
        yield
    except OSError as error:
        raise RunError(describe_os_error(error, path, needed)) from error


def describe_os_error(error: OSError, path: Path, needed: int | None = None) -> str:
    if error.errno in _FULL:
        room = (f"{human_size(needed)} needed, " if needed is not None else "") + f"{human_size(free_bytes(path))} free"
        return f"{path}: the disk is full ({room}); make room"
    if error.errno in _REFUSED:
        return f"{path}: not writable ({error.strerror}); choose another --out, or change its permissions"
    return f"{path}: {error.strerror or error}; choose another --out, or repair the folder"


def free_bytes(path: Path) -> int:
    """Bytes free where ``path`` lies, or would lie."""
    place = path.absolute()
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free


def human_size(size: int) -> str:
    """
    >>> human_size(1536), human_size(12)
    ('1.5 KiB', '12 B')
    """
    value, unit = float(size), "B"
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if value < 1024 or unit == "TiB":
            break
        value /= 1024
    return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"


def json_text(data: Any, indent: int | None = 2) -> str:
    """JSON of ``data``: readable Unicode, or ``\\u`` escapes where a lone surrogate can't be written as UTF-8.

    Numbers of numpy and the like are written as plain numbers. Raises ``TypeError`` for what JSON can't hold.
    """
    text = json.dumps(data, indent=indent, ensure_ascii=False, default=_plain)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        text = json.dumps(data, indent=indent, ensure_ascii=True, default=_plain)
    return text


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "tolist"):  # numpy scalars and arrays, tensors
        return value.tolist()
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")


def write_json(path: Path, data: Any) -> None:
    """Replace ``path`` by the JSON of ``data``, all or nothing: a crash leaves the old file or the new one."""
    write_text(path, json_text(data) + "\n")


def write_text(path: Path, text: str) -> None:
    """Replace ``path`` by ``text`` (UTF-8), all or nothing. Raises :class:`RunError` where the disk refuses."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: Path, data: bytes) -> None:
    aside = path.with_name(f"{_TEMPORARY}{path.name}-{os.getpid()}")
    with disk_errors(path, needed=len(data)):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with aside.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(aside, path)
        except BaseException:
            aside.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)


def read_json(path: Path) -> Any:
    """Read a JSON file; raises :class:`RunError` where it is missing or damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RunError(f"{path}: no such file; is this the folder of a run?") from None
    except (OSError, ValueError) as error:
        raise RunError(f"{path}: cannot be read ({_one_line(error)}); the file is damaged") from error


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def remove_temporary(folder: Path) -> None:
    """Remove what killed writes of :func:`write_bytes` left behind. Only for the one process that writes there."""
    for path in folder.glob(f"{_TEMPORARY}*"):
        if path.is_file():
            path.unlink()


def sync_file(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def sync_folder(path: Path) -> None:
    """Make names in a folder durable (a rename is only on disk once its folder is)."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
