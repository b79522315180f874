"""metrics.jsonl: one JSON object a line, append-only, with ``step`` and ``kind`` (slow, fast or evaluation).

A kill in mid-write leaves a torn last line; it is cut at the next opening. On resume, :meth:`MetricsWriter.rewind`
cuts the lines later than the checkpoint, so that a resumed run has the lines of an unbroken one.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from fastslow.errors import RunError
from fastslow.runs.files import disk_errors, json_text

Kind = Literal["slow", "fast", "evaluation"]


class MetricsWriter:
    """Appends to ``path``; every line reaches the system at once, and the disk at each :meth:`position`."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        with disk_errors(self.path):
            self._file = open(self.path, "a+b", buffering=0)  # noqa: SIM115 - lives as long as the writer
            self._cut(_whole_bytes(self.path))

    def write(self, kind: Kind, step: int, values: Mapping[str, Any]) -> None:
        """Append one line. NaN and infinities, which JSON lacks, are written as null."""
        line = json.dumps(_finite(json.loads(json_text({"kind": kind, "step": step, **values}, indent=None))))
        with disk_errors(self.path, needed=len(line)):
            start = self._file.seek(0, os.SEEK_END)
            rest = memoryview(line.encode("ascii") + b"\n")
            try:
                while rest:
                    rest = rest[self._file.write(rest) :]
            except OSError:
                self._cut(start)  # no torn line in the middle, should the run go on
                raise

    def position(self) -> int:
        """Bytes written so far, all on disk: what a checkpoint stores and :meth:`rewind` takes."""
        with disk_errors(self.path):
            os.fsync(self._file.fileno())
            return self._file.seek(0, os.SEEK_END)

    def rewind(self, position: int) -> None:
        """Cut everything after ``position``; 0 empties the file. Raises :class:`RunError` if it is no line's end."""
        with disk_errors(self.path):
            size = self._file.seek(0, os.SEEK_END)
            if position > size:
                raise RunError(
                    f"{self.path}: {size} bytes, but the checkpoint counts {position}; the file was cut or replaced,"
                    " so restore it or start anew with another --out"
                )
            if position and os.pread(self._file.fileno(), 1, position - 1) != b"\n":
                raise RunError(
                    f"{self.path}: does not match the checkpoint; restore it, or start anew with another --out"
                )
            self._cut(position)

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> MetricsWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _cut(self, size: int) -> None:
        self._file.truncate(size)
        self._file.seek(0, os.SEEK_END)


def read_metrics(path: str | Path) -> list[dict[str, Any]]:
    """All whole lines, oldest first; a torn last line is left out, also while a run is still writing.

    Raises :class:`RunError` where the file is missing or a line before the last is not JSON.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise RunError(f"{path}: no such file; has this run started?") from None
    except OSError as error:
        raise RunError(f"{path}: cannot be read ({error.strerror})") from error
    lines = data.split(b"\n")[:-1]
    records = []
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
        except ValueError:
            raise RunError(f"{path}: line {number} is damaged; delete that line") from None
        if not isinstance(record, dict):
            raise RunError(f"{path}: line {number} is not an object; delete that line")
        records.append(record)
    return records


def _whole_bytes(path: Path) -> int:
    """Bytes up to the end of the last whole line."""
    with path.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        while end:
            start = max(0, end - 65536)
            file.seek(start)
            newline = file.read(end - start).rfind(b"\n")
            if newline >= 0:
                return start + newline + 1
            end = start
    return 0


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_finite(v) for v in value]
    return value
