"""Scenarios of ``faults.py``: what stands in the run's folder is damaged, cut or gone when the run is to go on."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from fault_bench import NOTHING, Bench, fault
from kill import ledger_rows

from fastslow.runs.ledger_schema import TABLES


def damaged(bench: Bench, name: str, damage: Callable[[Path], None]) -> str:
    """Refused, with nothing touched; the mend that it names leads to the unbroken run's end."""
    folder = bench.stopped()
    broken = folder / "checkpoints" / "step-000003"
    damage(broken / name)
    before = contents(folder)
    said = bench.train(folder, resume=True)
    assert name in said and "delete this folder; the previous one is step-000002" in said, said
    assert contents(folder) == before
    shutil.rmtree(broken)
    bench.ends_equal(folder)
    return bench.plain(said, folder)


def contents(folder: Path) -> dict[str, object]:
    """Every file's bytes; of the ledger its rows, since opening one writes to its header."""
    rows = {table: ledger_rows(folder, table) for table in TABLES}
    files = [p for p in folder.rglob("*") if p.is_file() and p.name not in (".lock", "ledger.sqlite")]
    return {**rows, **{str(p): p.read_bytes() for p in files}}


REFUSED = "Refused; nothing is loaded or touched. Without that folder `--resume` goes on from the one before"
LAST = "nothing: the steps since the one before are computed again"


@fault("A checkpoint is cut short", REFUSED, LAST)
def truncated(bench: Bench) -> str:
    return damaged(bench, "weights.safetensors", lambda file: os.truncate(file, file.stat().st_size // 2))


@fault("A bit of its weights flips", REFUSED, LAST)
def flipped(bench: Bench) -> str:
    return damaged(bench, "weights.safetensors", lambda file: flip(file, file.stat().st_size // 2))


@fault("The header of its optimizer file is broken", REFUSED, LAST)
def broken_header(bench: Bench) -> str:
    return damaged(bench, "optimizer.safetensors", lambda file: flip(file, 3))


@fault("Its state is broken", REFUSED, LAST)
def broken_state(bench: Bench) -> str:
    return damaged(bench, "state.json", lambda file: flip(file, 40))


@fault("Its manifest, which holds the checksums, is broken", REFUSED, LAST)
def broken_manifest(bench: Bench) -> str:
    return damaged(bench, "manifest.json", lambda file: flip(file, 60))


@fault("Half of a checkpoint's files are gone", REFUSED, LAST)
def half_a_checkpoint(bench: Bench) -> str:
    return damaged(bench, "rng.safetensors", Path.unlink)


@fault(
    "The only checkpoint is damaged",
    "Refused; without that folder `--resume` starts from the first step",
    "nothing: its steps are computed again",
)
def only_checkpoint(bench: Bench) -> str:
    folder = bench.stopped(step=1)
    broken = folder / "checkpoints" / "step-000001"
    flip(broken / "weights.safetensors", 1000)
    said = bench.train(folder, resume=True)
    shutil.rmtree(broken)
    bench.ends_equal(folder)
    return bench.plain(said, folder)


def flip(file: Path, position: int) -> None:
    data = bytearray(file.read_bytes())
    data[position] ^= 4
    file.write_bytes(data)


@fault(
    "The ledger is gone or another one",
    "Refused: a ledger with gaps would pass for whole",
    "what is gone can only come from a copy",
)
def ledger_gone(bench: Bench) -> str:
    folder = bench.stopped()
    kept = (folder / "ledger.sqlite").rename(folder / "kept")
    said = bench.train(folder, resume=True)
    assert "start anew" in said
    kept.replace(folder / "ledger.sqlite")
    bench.ends_equal(folder)
    return bench.plain(said, folder)


@fault("The metrics are cut", "Refused, as above", "what is gone can only come from a copy")
def metrics_cut(bench: Bench) -> str:
    folder = bench.stopped()
    file = folder / "metrics.jsonl"
    kept = file.read_bytes()
    file.write_bytes(kept[: len(kept) // 2])
    said = bench.train(folder, resume=True)
    assert "start anew" in said
    file.write_bytes(kept)
    bench.ends_equal(folder)
    return bench.plain(said, folder)


@fault("The stored config is damaged", "Refused", NOTHING)
def config_damaged(bench: Bench) -> str:
    folder = bench.stopped()
    file = folder / "config.yaml"
    kept = file.read_bytes()
    file.write_bytes(b"\0" + kept[10:])
    said = bench.train(folder, resume=True)
    assert "config.yaml" in said
    file.write_bytes(kept)
    bench.ends_equal(folder)
    return bench.plain(said, folder)
