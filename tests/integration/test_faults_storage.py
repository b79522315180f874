"""Faults of disks, folders, files and clocks, in whole runs on a tiny model.

Locks: a full or read-only disk stops a run with one line and no half-written file; a damaged checkpoint is never loaded
and never skipped unseen; a folder has one run at a time; no clock that goes back matters; after the mend that the line
names, the run ends as the unbroken one, bit for bit; docs/reliability.md quotes what is really said.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

from fault_bench import FAULTS, Bench, Fault  # noqa: E402
from faults import row  # noqa: E402
from page import markdown_table, read_section  # noqa: E402


@pytest.fixture(scope="module")
def bench(tmp_path_factory) -> Bench:
    return Bench(tmp_path_factory.mktemp("storage"))


@pytest.mark.parametrize("fault", FAULTS, ids=[f.name for f in FAULTS])
def test_the_fault_is_told_as_on_the_page_and_nothing_is_lost(bench: Bench, fault: Fault):
    said = fault.scenario(bench)
    assert said and "\n" not in said and "Traceback" not in said
    line = markdown_table(row(fault.name, fault.happens, said, fault.lost), [])
    assert line.splitlines()[0] in read_section(ROOT / "docs" / "reliability.md", "storage")


def test_the_page_has_no_other_rows():
    lines = [line for line in read_section(ROOT / "docs" / "reliability.md", "storage").splitlines() if line[:1] == "|"]
    assert len(lines) == 2 + len(FAULTS)


class FillAt:
    """Fills the disk at the end of a slow step."""

    def __init__(self, folder: Path, step: int) -> None:
        self.filler, self.step = folder / "filler", step

    def note(self, text: str) -> None:
        return

    def show(self, kind: str, state: Any, values: Any) -> None:
        if kind == "slow" and state.step == self.step:
            with self.filler.open("wb", buffering=0) as file:
                try:
                    while file.write(bytes(4096)):
                        pass
                except OSError:
                    return


@pytest.mark.parametrize("step", [1, 3])
def test_a_disk_that_is_really_full(bench: Bench, tmp_path: Path, step: int):
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "none", str(tmp_path)], capture_output=True)
    if mounted.returncode:
        pytest.skip("may not mount a small disk here")
    try:
        progress = FillAt(tmp_path, step)
        said = bench.train(tmp_path / "mine", progress=progress)
        assert "full" in said and "--resume" in said and "\n" not in said
        progress.filler.unlink()
        bench.ends_equal(tmp_path / "mine")
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)
