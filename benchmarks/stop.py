"""Ask a run to stop through the real command line, by Ctrl-C or SIGTERM, and measure how soon it has left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from kill import Runner, differences, everything
from page import markdown_table

from fastslow.config_io import dump_config, parse_config

STEPS = 12


@dataclass(frozen=True, slots=True)
class Case:
    name: str
    signals: tuple[signal.Signals, ...]
    heard: str  # the line of progress after which they are sent


CASES = (
    Case("SIGTERM", (signal.SIGTERM,), "step 2:"),
    Case("Ctrl-C", (signal.SIGINT,), "fast phase 1:"),
    Case("Ctrl-C, pressed three times", (signal.SIGINT,) * 3, "step 5:"),
)


@dataclass(frozen=True, slots=True)
class Left:
    """``unlike``: what differs from the unbroken run after resuming."""

    case: Case
    code: int
    seconds: float
    said: str
    unlike: list[str]


def stop_and_resume(runner: Runner, case: Case, expected: dict) -> Left:
    folder = runner.home / f"stopped-{CASES.index(case)}"
    config = runner.home / "config.yaml"
    config.write_text(dump_config(parse_config(runner.settings)), encoding="utf-8")
    command = [sys.executable, "-m", "fastslow", "train", str(config), "--out", str(folder)]
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=_environment()
    )
    assert process.stderr is not None
    heard = []
    for line in process.stderr:
        heard.append(line)
        if case.heard in line:
            break
    else:
        raise AssertionError(f"{case.heard!r} never came: {''.join(heard)}")
    start = time.perf_counter()
    for number in case.signals:
        process.send_signal(number)
        time.sleep(0.05)
    said = process.stderr.read().strip().splitlines()
    code = process.wait()
    seconds = time.perf_counter() - start
    process.stderr.close()
    if runner.process(folder) != 0:
        raise AssertionError(runner.notes(folder, "log").read_text())
    text = said[-1].replace(str(folder), "runs/mine") if said else ""
    return Left(case, code, seconds, text, differences(everything(folder), expected))


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p), "COLUMNS": "200"}


def stop_runs(home: Path) -> list[Left]:
    runner = Runner(home, STEPS)
    folder = home / "unbroken-stop"
    if runner.process(folder) != 0:
        raise AssertionError(runner.notes(folder, "log").read_text())
    expected = everything(folder)
    return [stop_and_resume(runner, case, expected) for case in CASES]


def report(left: list[Left]) -> str:
    rows = [[e.case.name, f"{e.seconds:.1f}", str(e.code), f"`{e.said}`", "no" if e.unlike else "yes"] for e in left]
    columns = ("asked by", "seconds until it had left", "exit code", "what it said last", "resumed, ended equal")
    return (
        "A run that is *asked* to stop saves the last whole step first. An optimizer step under way is finished; "
        "anything else\nis left at once, and computed again after `--resume`.\n\n" + markdown_table(columns, rows)
    )
