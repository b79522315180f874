"""Reading rows of a dataset: JSONL, CSV, Parquet, or ``hub:owner/name``. A fault is one line that names the mend."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fastslow.errors import TaskError

HUB = "hub:"
_LONGEST_CELL = 2**24  # characters; a quote that is never closed makes one cell of the rest of a file
Row = dict[str, Any]


def read_rows(path: str, field: str, split: str = "train", subset: str | None = None) -> list[Row]:
    """All rows, as mappings of column to value; at least one. ``field`` is the config field to name in errors."""
    rows = _read_hub(path, field, split, subset) if path.startswith(HUB) else _read_file(Path(path), field)
    if not rows:
        raise TaskError(f"{field}: {path} holds no rows")
    return rows


def _read_file(path: Path, field: str) -> list[Row]:
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise TaskError(f"{field}: {path}: expected {', '.join(_READERS)} or hub:owner/name")
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "no such file"
        raise TaskError(f"{field}: {path}: {what}; give a file ({', '.join(_READERS)}) or hub:owner/name")
    try:
        return reader(path, field)
    except UnicodeDecodeError as error:
        raise TaskError(f"{field}: {path} is not UTF-8 text (byte {error.start}); save it as UTF-8") from None
    except OSError as error:
        raise TaskError(f"{field}: {path} can't be read: {error.strerror or error}") from None


def _read_jsonl(path: Path, field: str) -> list[Row]:
    rows: list[Row] = []
    with path.open(encoding="utf-8-sig", newline="\n") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                reason = error.msg if isinstance(error, json.JSONDecodeError) else type(error).__name__
                raise TaskError(f"{field}: {path} line {number} is not JSON: {reason}") from None
            if not isinstance(row, dict):
                raise TaskError(
                    f'{field}: {path} line {number}: expected an object with columns, like {{"question": …}}'
                )
            rows.append(row)
    return rows


def _read_csv(path: Path, field: str) -> list[Row]:
    with path.open(encoding="utf-8-sig", newline="") as lines, _long_cells():
        reader = csv.DictReader(lines)
        try:
            # A row longer than the header keeps its rest under None; that is no column.
            return [{k: v for k, v in row.items() if k is not None} for row in reader]
        except csv.Error as error:
            raise TaskError(f"{field}: {path} after line {reader.line_num} is not CSV: {error}") from None


@contextmanager
def _long_cells() -> Iterator[None]:
    """The csv module refuses cells of more than 131,072 characters, by a setting of the whole process."""
    before = csv.field_size_limit(_LONGEST_CELL)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _read_parquet(path: Path, field: str) -> list[Row]:
    import pyarrow
    import pyarrow.parquet

    try:
        return pyarrow.parquet.read_table(path).to_pylist()
    except pyarrow.ArrowException as error:
        raise TaskError(f"{field}: {path} is not readable as Parquet: {' '.join(str(error).split())}") from None


def _read_hub(path: str, field: str, split: str, subset: str | None) -> list[Row]:
    import datasets

    name = path.removeprefix(HUB)
    try:
        data = datasets.load_dataset(name, subset, split=split)
    except (OSError, ValueError, RuntimeError, LookupError, datasets.exceptions.DatasetsError) as error:
        reason = (" ".join(str(error).split()) or type(error).__name__)[:300]
        raise TaskError(f"{field}: {path} (split {split!r}) can't be loaded: {reason}") from None
    return [dict(row) for row in data]


_READERS: dict[str, Callable[[Path, str], list[Row]]] = {
    ".jsonl": _read_jsonl,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
}
