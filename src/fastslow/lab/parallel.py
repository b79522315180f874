"""Several runs of the lab side by side, each a process with cores of its own.

A small model's decoding step is many tiny operations, which a second core hardly speeds up: two runs on one core each
end sooner than the same two one after the other on both.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from fastslow.config import RunConfig
from fastslow.config_io import dump_config
from fastslow.errors import FastslowError, RunError
from fastslow.lab.planning import LabRun
from fastslow.runs.directory import RunDirectory
from fastslow.runs.files import write_text
from fastslow.runs.signals import Interrupted, Stopped, StopSignals

_POLL = 0.2  # seconds
_PATIENCE = 60  # seconds that a child has to save and leave


@dataclass
class _Child:
    run: LabRun
    process: subprocess.Popen
    cores: list[int]
    started: float


class SideBySide:
    """At most ``jobs`` runs at a time, the machine's cores shared out evenly. Use it as a context manager.

    Raises :class:`FastslowError` where processes can't be bound to cores, or there are fewer cores than ``jobs``.
    """

    def __init__(self, jobs: int, say: Callable[[str], None], done: Callable[[LabRun], None]) -> None:
        if not hasattr(os, "sched_setaffinity"):
            raise FastslowError("--jobs: this system can't bind a process to cores; leave it out")
        cores = sorted(os.sched_getaffinity(0))
        if jobs > len(cores):
            raise FastslowError(f"--jobs: {jobs} runs need a core each, and there are {len(cores)}; take fewer")
        share = len(cores) // jobs
        self._free = [cores[i * share : (i + 1) * share] for i in range(jobs)]
        self._children: list[_Child] = []
        self._say, self._done = say, done
        self._signals = StopSignals()

    def __enter__(self) -> SideBySide:
        self._signals.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            self._stop()
        finally:
            self._signals.__exit__(None, None, None)
        if kind is Interrupted:
            raise Stopped("every run was saved where it stood", "go on with the same command") from None

    def start(self, run: LabRun, config: RunConfig) -> None:
        """Begin ``run``, or go on with it, once a place is free."""
        while not self._free:
            self.wait()
        path, resume = run.path, RunDirectory(run.path).config_path.exists()
        written = path.with_name(f"{path.name}.yaml")
        written.parent.mkdir(parents=True, exist_ok=True)
        write_text(written, dump_config(config))
        command = [sys.executable, "-m", "fastslow", "train", str(written), "--out", str(path)]
        cores = self._free.pop()
        with _log(run).open("a", encoding="utf-8") as log:
            process = subprocess.Popen(
                [*command, *(["--resume"] if resume else [])], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                preexec_fn=lambda: os.sched_setaffinity(0, cores),
            )  # fmt: skip
        self._children.append(_Child(run, process, cores, time.monotonic()))
        self._say(f"{run.planned.label}: begun, about {run.planned.minutes:.0f} min ({_log(run)})")

    @property
    def busy(self) -> bool:
        return bool(self._children)

    def wait(self) -> None:
        """Until a run has ended; raises :class:`RunError` where it failed. Returns at once where none is under way."""
        while self._children:
            ended = [c for c in self._children if c.process.poll() is not None]
            for child in ended:
                self._end(child)
            if ended:
                return
            time.sleep(_POLL)

    def wait_for_all(self) -> None:
        while self._children:
            self.wait()

    def _end(self, child: _Child) -> None:
        self._children.remove(child)
        self._free.append(child.cores)
        label, log = child.run.planned.label, _log(child.run)
        if child.process.returncode != 0 or not child.run.finished:
            lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
            raise RunError(f"{label}: {lines[-1] if lines else 'ended without a word'} (see {log})")
        self._say(f"{label}: done in {(time.monotonic() - child.started) / 60:.1f} min")
        self._done(child.run)

    def _stop(self) -> None:
        """Ask all that are left to save and leave."""
        for child in self._children:
            child.process.terminate()
        for child in self._children:
            try:
                child.process.wait(_PATIENCE)
            except subprocess.TimeoutExpired:
                child.process.kill()
                child.process.wait()
        self._children.clear()


def ready(run: LabRun, root: Path) -> bool:
    """Whether the run whose budget it is matched to is finished."""
    matched = run.planned.matched
    return matched is None or LabRun(matched, root / matched.folder).finished


def next_ready(waiting: Sequence[LabRun], root: Path) -> LabRun | None:
    """The first that may begin now."""
    return next((run for run in waiting if ready(run, root)), None)


def _log(run: LabRun) -> Path:
    return run.path.with_name(f"{run.path.name}.log")
