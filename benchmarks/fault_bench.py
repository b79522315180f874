"""What the scenarios of ``faults.py`` share: runs on a tiny model that are broken, mended and compared."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

from kill import differences, everything, make_home, settings

from fastslow.config_io import parse_config
from fastslow.engines.local import train
from fastslow.errors import FastslowError
from fastslow.runs.directory import RunDirectory

NOTHING = "nothing"
_NOBODY = 65534


class StopAt:
    """Asks the run to stop, as a SIGTERM does, once ``step`` slow steps are done."""

    def __init__(self, step: int) -> None:
        self.step = step

    def note(self, text: str) -> None:
        return

    def show(self, kind: str, state: Any, values: Any) -> None:
        if kind == "slow" and state.step == self.step:
            signal.raise_signal(signal.SIGTERM)


class Bench:
    """Makes runs of one config in folders of their own, and knows what the unbroken one leaves."""

    def __init__(self, home: Path) -> None:
        self.home = make_home(home)
        self.config = parse_config(settings(self.home))
        self._made = 0
        folder = self.folder()
        assert not self.train(folder)
        self.expected = everything(folder)

    def folder(self) -> Path:
        self._made += 1
        return self.home / f"run-{self._made:02d}" / "mine"

    def train(self, folder: Path, resume: bool = False, progress: Any = None) -> str:
        """Train to the end; the one line of a :class:`FastslowError`, or nothing where all went well."""
        try:
            train(self.config, folder, resume=resume, progress=progress)
        except FastslowError as error:
            return str(error)
        return ""

    def stopped(self, step: int = 3) -> Path:
        """A run that was stopped, with checkpoints of the last two steps."""
        folder = self.folder()
        assert f"stopped at step {step}" in self.train(folder, progress=StopAt(step))
        return folder

    def ends_equal(self, folder: Path) -> None:
        """The run goes on, and what it leaves equals the unbroken run's."""
        said = self.train(folder, resume=RunDirectory(folder).config_path.exists())
        assert not said, said
        unlike = differences(everything(folder), self.expected)
        assert not unlike, unlike

    def plain(self, said: str, folder: Path) -> str:
        """A message as the page shows it: without this machine's paths, sizes and process ids."""
        said = said.replace(str(folder), "runs/mine").replace(str(folder.parent), "runs")
        said = re.sub(r"[\d.]+ ([KMGT]i)?B free", "… free", said)
        said = re.sub(r"[\d.]+ ([KMGT]i)?B needed", "… needed", said)
        said = re.sub(r"counts \d+", "counts …", said)
        return re.sub(r"\d+ bytes", "… bytes", re.sub(r"not \d+;", "not …;", re.sub(r"process \d+", "process …", said)))


@contextmanager
def failing(owner: Any, name: str, error: Exception, nth: int, until: int | None = None) -> Iterator[None]:
    """From the ``nth`` call (from 1) of ``owner.name`` on, up to ``until`` where given, every call raises ``error``."""
    original, calls = getattr(owner, name), [0]

    def call(*args: Any, **kwargs: Any) -> Any:
        calls[0] += 1
        if calls[0] >= nth and (until is None or calls[0] <= until):
            raise error
        return original(*args, **kwargs)

    with patch.object(owner, name, call):
        yield
    assert calls[0] >= nth, f"{name} was called {calls[0]} times only"


@contextmanager
def elsewhere(program: str, *arguments: str) -> Iterator[None]:
    """Another process runs ``program`` meanwhile; it prints a line once it is ready, and is ended by a closed input."""
    command = [sys.executable, "-c", program, *arguments]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None and process.stdout is not None
    try:
        assert process.stdout.readline()
        yield
    finally:
        process.stdin.close()
        process.wait()
        process.stdout.close()


def as_nobody(folder: Path, action: Callable[[], Any]) -> str:
    """The line of the error that ``action`` ends with in a process of an ordinary user, working in ``folder``."""
    reads, writes = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.chdir(folder)
            if os.getuid() == 0:  # permissions don't bind root
                os.setgid(_NOBODY)
                os.setuid(_NOBODY)
            action()
        except FastslowError as error:
            os.write(writes, str(error).encode())
        finally:
            os._exit(0)
    os.close(writes)
    with os.fdopen(reads, "rb") as said:
        text = said.read().decode()
    os.waitpid(child, 0)
    return text


@dataclass(frozen=True, slots=True)
class Fault:
    """One row of the table. ``scenario`` breaks a run, asserts what is claimed, and gives what the user read."""

    name: str
    happens: str
    lost: str
    scenario: Callable[[Bench], str]


FAULTS: list[Fault] = []


def fault(name: str, happens: str, lost: str) -> Callable[[Callable[[Bench], str]], Callable[[Bench], str]]:
    def register(scenario: Callable[[Bench], str]) -> Callable[[Bench], str]:
        FAULTS.append(Fault(name, happens, lost, scenario))
        return scenario

    return register
