"""Rollouts of a run, as a table for people, or as JSON lines and Parquet for programs."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

from rich.table import Table
from rich.text import Text

from fastslow.report.text import plain
from fastslow.runs.files import disk_errors

Row = Mapping[str, Any]

_LONGEST = 60
_PARQUET_ROWS = 4096
_INTEGERS = ("id", "step", "idx", "cycle", "weights_step", "seed", "prompt_tokens", "completion_tokens")
_FLOATS = ("logprob_sum", "reward")


def rollouts_table(rows: Iterable[Row]) -> Table:
    """One line a rollout. All text is shown as it is, without markup, line breaks or control characters."""
    table = Table(caption_justify="left")
    for name in ("id", "phase", "step", "weights"):
        table.add_column(name, justify="left" if name == "phase" else "right", no_wrap=True)
    table.add_column("context", no_wrap=True)
    table.add_column("problem", overflow="fold")
    for name in ("reward", "tokens"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("reply", overflow="fold")
    table.add_column("feedback", overflow="fold")
    for row in rows:
        ended = "" if row["finish_reason"] == "stop" else " (cut off)"
        cells = [row["id"], row["phase"], row["step"], row["weights_step"], row["context_id"], row["problem_id"]]
        cells += [f"{row['reward']:.2f}", f"{row['prompt_tokens']}+{row['completion_tokens']}"]
        cells += [_short(row["text"]) + ended, _short(row["feedback"])]
        table.add_row(*(Text(plain(str(cell))) for cell in cells))
    return table


def write_jsonl(rows: Iterable[Row], file: TextIO) -> int:
    """One JSON object a line, ASCII alone: no text can reach a terminal as anything but text. Returns the count."""
    count = 0
    for row in rows:
        file.write(json.dumps({k: _finite(v) for k, v in row.items()}) + "\n")
        count += 1
    return count


def write_parquet(rows: Iterable[Row], columns: Sequence[str], out: Path) -> int:
    """All rows into one Parquet file, all or nothing; returns the count. Raises :class:`RunError` for the disk."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    left, count = iter(rows), 0
    schema = pa.schema([(name, _kind(name)) for name in columns])
    aside = out.with_name(f".tmp-{out.name}-{os.getpid()}")
    with disk_errors(out):
        try:
            with pq.ParquetWriter(aside, schema) as writer:
                while batch := list(islice(left, _PARQUET_ROWS)):
                    writer.write_table(pa.Table.from_pylist([dict(row) for row in batch], schema=schema))
                    count += len(batch)
            os.replace(aside, out)
        finally:
            aside.unlink(missing_ok=True)
    return count


def _kind(name: str) -> str:
    return "int64" if name in _INTEGERS else "float64" if name in _FLOATS else "string"


def _finite(value: Any) -> Any:
    """JSON knows no infinity and no NaN."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _short(text: str) -> str:
    text = plain(text[: 4 * _LONGEST])
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"
