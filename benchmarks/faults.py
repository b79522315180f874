"""Break a run's disk, folder, files and clock; read what it says; mend it as told; compare with an unbroken run.

    python benchmarks/faults.py
    python benchmarks/faults.py --report docs/reliability.md

Each scenario is a whole run of the real engine on a random two-layer model. The tests run the same scenarios, and hold
the page to what they read.
"""

from __future__ import annotations

import argparse
import errno
import os
import sqlite3
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

sys.path.insert(0, str(Path(__file__).resolve().parent))

import fault_files  # noqa: F401 - registers its scenarios
from fault_bench import FAULTS, NOTHING, Bench, StopAt, as_nobody, elsewhere, failing, fault
from page import markdown_table, rewrite_section

from fastslow.runs import files
from fastslow.runs.directory import RunDirectory
from fastslow.runs.ledger import Ledger
from fastslow.runs.metrics import MetricsWriter

AGAIN = "nothing: the steps since the last checkpoint are computed again"
FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
READ_ONLY = OSError(errno.EROFS, os.strerror(errno.EROFS))
LOCKED = "import sqlite3, sys; db = sqlite3.connect(sys.argv[1]); db.execute('BEGIN IMMEDIATE'); {} sys.stdin.read()"
RUNNING = "import sys; from pathlib import Path; from fastslow.runs.lock import RunLock; "
RUNNING += "lock = RunLock(Path(sys.argv[1]) / '.lock'); print(1, flush=True); sys.stdin.read()"


def stops_and_goes_on(bench: Bench, *failure: Any) -> str:
    folder = bench.folder()
    with failing(*failure):
        said = bench.train(folder)
    assert said and "--resume" in said, said
    assert not [p for p in folder.rglob(".tmp-*")], "half a file was left"
    bench.ends_equal(folder)
    return bench.plain(said, folder)


@fault(
    "The disk is full while a checkpoint is written",
    "The run stops; the checkpoint before it stays",
    NOTHING,
)
def full_checkpoint(bench: Bench) -> str:
    from safetensors import torch as safetensors

    return stops_and_goes_on(bench, safetensors, "save_file", FULL, 5)


@fault(
    "The disk is full while metrics are written",
    "The half line is cut off again, the run stops",
    AGAIN,
)
def full_metrics(bench: Bench) -> str:
    class Disk:
        """Takes half of a line, then is full."""

        def __init__(self, file: Any) -> None:
            self.file, self.lines = file, 0

        def write(self, data: memoryview) -> int:
            self.lines += 1
            if self.lines == 7:
                return self.file.write(data[: len(data) // 2])
            if self.lines > 7:
                raise FULL
            return self.file.write(data)

        def __getattr__(self, name: str) -> Any:
            return getattr(self.file, name)

    original = MetricsWriter.__init__

    def opened(self: MetricsWriter, path: Path) -> None:
        original(self, path)
        self._file = Disk(self._file)

    folder = bench.folder()
    with patch.object(MetricsWriter, "__init__", opened):
        said = bench.train(folder)
    assert "the disk is full" in said and (folder / "metrics.jsonl").read_bytes().endswith(b"\n")
    bench.ends_equal(folder)
    return bench.plain(said, folder)


@fault(
    "The disk is full while the ledger is written",
    "The transaction is undone, the run stops",
    AGAIN,
)
def full_ledger(bench: Bench) -> str:
    original = Ledger.__init__

    def opened(self: Ledger, path: Path, timeout: float = 10.0) -> None:
        original(self, path, timeout)
        self._db.execute(f"PRAGMA max_page_count = {self._db.execute('PRAGMA page_count').fetchone()[0] + 3}")

    folder = bench.folder()
    with patch.object(Ledger, "__init__", opened):
        said = bench.train(folder)
    assert "the disk is full" in said and "--resume" in said
    bench.ends_equal(folder)
    return bench.plain(said, folder)


@fault("The disk is full while a population is written", "The run stops", AGAIN)
def full_population(bench: Bench) -> str:
    return stops_and_goes_on(bench, files.os, "replace", FULL, 3)


@fault("The disk turns read-only during a run", "The run stops", AGAIN)
def turns_read_only(bench: Bench) -> str:
    from fastslow.runs import checkpoint

    return stops_and_goes_on(bench, checkpoint, "sync_folder", READ_ONLY, 3)


@fault("The run folder is read-only from the start", "Refused before any compute", NOTHING)
def read_only(bench: Bench) -> str:
    folder = bench.stopped()
    folder.chmod(0o555)
    said = as_nobody(folder.parent, lambda: RunDirectory.create(folder.name, bench.config, resume=True))
    folder.chmod(0o755)
    assert "not writable" in said, said
    bench.ends_equal(folder)
    return f"runs/{said}"


@fault("Another process holds the ledger at the start", "Refused after ten seconds", NOTHING)
def locked_ledger(bench: Bench) -> str:
    folder = bench.stopped()
    with (
        patch.object(Ledger.__init__, "__defaults__", (0.1,)),
        elsewhere(LOCKED.format("print(1, flush=True);"), str(folder / "ledger.sqlite")),
    ):
        said = bench.train(folder, resume=True)
    assert "another process holds it" in said
    bench.ends_equal(folder)
    return bench.plain(said, folder)


@fault(
    "Another process locks the ledger during a run",
    "The run waits ten seconds, saves the last whole step and stops",
    NOTHING,
)
def locked_meanwhile(bench: Bench) -> str:
    folder, holders = bench.folder(), []

    class LockAt(StopAt):
        def show(self, kind: str, state: Any, values: Any) -> None:
            if kind == "slow" and state.step == self.step:
                holders.append(sqlite3.connect(folder / "ledger.sqlite", isolation_level=None))
                holders[0].execute("BEGIN IMMEDIATE")

    with patch.object(Ledger.__init__, "__defaults__", (0.1,)):
        said = bench.train(folder, progress=LockAt(2))
    holders[0].close()
    assert "another process holds it" in said and "saved up to step 2" in said, said
    bench.ends_equal(folder)
    return bench.plain(said, folder)


@fault("A second run is started in the folder of one at work", "Refused at once; the first one doesn't notice", NOTHING)
def two_runs(bench: Bench) -> str:
    folder = bench.stopped()
    with elsewhere(RUNNING, str(folder)):
        said = bench.train(folder, resume=True)
    assert "is at work here" in said
    bench.ends_equal(folder)
    return bench.plain(said, folder)


@fault("A new run is started in a folder that holds one", "Refused at once", NOTHING)
def started_again(bench: Bench) -> str:
    folder = bench.stopped()
    said = bench.train(folder)
    assert "a run is already here" in said
    bench.ends_equal(folder)
    return bench.plain(said, folder)


@fault(
    "The clock goes back an hour, again and again", "Nothing: durations come from a clock that never goes back", NOTHING
)
def clock_goes_back(bench: Bench) -> str:
    now, calls = time.time(), [0]

    def earlier() -> float:
        calls[0] += 1
        return now - 3600.0 * calls[0]

    folder = bench.folder()
    with patch.object(time, "time", earlier), patch.object(time, "time_ns", lambda: int(earlier() * 1e9)):
        assert "stopped at step 2" in bench.train(folder, progress=StopAt(2))
        bench.ends_equal(folder)
    seconds = everything_timed(folder)
    assert seconds and all(0 <= s < 3600 for s in seconds), seconds
    return "nothing"


def everything_timed(folder: Path) -> list[float]:
    from fastslow.runs.metrics import read_metrics

    return [line["seconds"] for line in read_metrics(folder / "metrics.jsonl") if line["kind"] != "evaluation"]


def row(name: str, happens: str, said: str, lost: str) -> list[str]:
    return [name, happens, said if said == "nothing" else f"`{said}`", lost]


COLUMNS = ("what breaks", "what happens", "what you read", "what is lost")


def report(bench: Bench, command: str) -> str:
    rows = [row(f.name, f.happens, f.scenario(bench), f.lost) for f in FAULTS]
    return (
        f"{len(rows)} faults, each in a whole run of the local engine. After the mend that the message names, each run "
        "went on\nand ended as the unbroken one, bit for bit. `runs/mine` stands for the run's folder, `…` for what "
        "differs.\n\n"
        f"{markdown_table(COLUMNS, rows)}\n\nMeasured by `{command}`."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--report", type=Path, help="a page whose section between the storage markers is rewritten")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder))
        text = report(bench, f"python benchmarks/faults.py --report {options.report or 'PAGE'}")
    print(text)
    if options.report:
        rewrite_section(options.report, "storage", text)


if __name__ == "__main__":
    main()
