"""Where a run can be struck by SIGKILL: named places in its code, and the child process that dies there.

A place is one function of the package (or of a library that it calls). In a child process every place is wrapped: the
wrapper writes the place's name to a trail file while the call lasts, counts the calls, and kills the process before,
inside or after the one that was chosen. Files are struck half-written, transactions between two statements; elsewhere a
thread strikes after a share of the time that the call usually takes.
"""

from __future__ import annotations

import importlib
import json
import os
import random
import signal
import sqlite3
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn

Moment = Literal["before", "inside", "after"]
Call = Callable[[], Any]

LOADING = "loading, before the loop"
LOOP = "the loop, between the places"
OUTSIDE = "by the clock, from outside"
_WIDTH = 64  # bytes of a name in the trail


@dataclass(frozen=True, slots=True)
class Place:
    """``target``: ``module:attribute`` or ``module:Class.attribute``. ``chosen``: how often a plan picks it."""

    name: str
    target: str
    inside: Callable[[Strike, Call, tuple], Any] | None = None
    chosen: int = 1


@dataclass(frozen=True, slots=True)
class Strike:
    """Kill at the ``nth`` call (from 1) of a place, ``share`` of the way through one that usually takes ``seconds``."""

    place: str
    nth: int
    moment: Moment
    share: float
    seconds: float = 0.0


def die() -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("unreachable")


def _after_a_while(strike: Strike, call: Call, args: tuple) -> NoReturn:
    def strike_later() -> None:
        time.sleep(strike.share * strike.seconds)
        die()

    threading.Thread(target=strike_later, daemon=True).start()
    call()
    die()  # a call that took less time than usual


def _half_the_tensors(strike: Strike, call: Call, args: tuple) -> NoReturn:
    call()
    path = Path(args[1])
    os.truncate(path, int(strike.share * path.stat().st_size))
    die()


def _half_a_line(strike: Strike, call: Call, args: tuple) -> NoReturn:
    writer = args[0]
    before = writer.path.stat().st_size
    call()
    length = writer.path.stat().st_size - before
    os.truncate(writer.path, before + max(1, int(strike.share * (length - 1))))
    die()


def _written_aside(strike: Strike, call: Call, args: tuple) -> NoReturn:
    """Before the file is synced, or before it is renamed into place."""

    def instead(*_: object) -> NoReturn:
        die()

    setattr(os, "fsync" if strike.share < 0.5 else "replace", instead)
    call()
    raise AssertionError("unreachable")


def _between_statements(strike: Strike, call: Call, args: tuple) -> NoReturn:
    """After BEGIN, between two rows, or before COMMIT. ``args``: ledger, table, columns, rows, what."""
    db: sqlite3.Connection = args[0]._db
    left = 2 + int(strike.share * (len(args[3]) + 1))  # the statements that run: BEGIN, one a row, COMMIT

    def count(_: str) -> None:
        nonlocal left
        left -= 1
        if left <= 0:
            die()

    db.set_trace_callback(count)
    call()
    die()


PLACES: tuple[Place, ...] = (
    Place("sampling", "fastslow.policy.sampler:TreeSampler.sample", chosen=5),
    Place("scoring", "fastslow.tasks.files:FileSource.score", chosen=4),
    Place("reflection", "fastslow.fast.reflect.feedback:FeedbackReflector.propose", chosen=4),
    Place("gradient", "fastslow.slow.learner:LocalLearner._backward", chosen=3),
    Place("optimizer step", "torch.optim:AdamW.step", chosen=4),
    Place("checkpoint: tensors", "safetensors.torch:save_file", _half_the_tensors, chosen=4),
    Place("checkpoint: syncing", "fastslow.runs.checkpoint:sync_file", chosen=3),
    Place("checkpoint: renaming", "fastslow.runs.checkpoint:_put_in_place", chosen=3),
    Place("checkpoint: removing old ones", "fastslow.runs.checkpoint:_prune", chosen=2),
    Place("ledger", "fastslow.runs.ledger:Ledger._insert", _between_statements, chosen=6),
    Place("metrics", "fastslow.runs.metrics:MetricsWriter.write", _half_a_line, chosen=3),
    Place("config, population, summary", "fastslow.runs.files:write_bytes", _written_aside, chosen=3),
    Place("resuming", "fastslow.runs.recorder:Recorder.resume", chosen=0),
    Place("closing measurements", "fastslow.engines.local:_drift", chosen=1),
)
_NAMED_ONLY = (Place(LOOP, "fastslow.fst:FastSlowTraining.run"),)


class Trail:
    """The place where the process is now, kept in a file that outlives it."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_CREAT)
        self.now = ""
        self.set(LOADING)

    def set(self, name: str) -> None:
        self.now = name
        os.pwrite(self._file, name.encode().ljust(_WIDTH), 0)

    @staticmethod
    def last(path: Path) -> str:
        return path.read_bytes().decode().strip() if path.exists() else LOADING


class Watch:
    """Wraps every place of this process; counts and times the calls, and strikes when the chosen one comes."""

    def __init__(self, trail: Trail, strike: Strike | None) -> None:
        self.trail, self.strike = trail, strike
        self.seconds: dict[str, list[float]] = {}
        for place in (*PLACES, *_NAMED_ONLY):
            self._wrap(place)

    def _wrap(self, place: Place) -> None:
        module, _, path = place.target.partition(":")
        owner: Any = importlib.import_module(module)
        *outer, attribute = path.split(".")
        for name in outer:
            owner = getattr(owner, name)
        original = getattr(owner, attribute)
        times = self.seconds.setdefault(place.name, [])
        started = 0

        def watched(*args: Any, **kwargs: Any) -> Any:
            nonlocal started
            started += 1
            strike = self.strike
            struck = strike is not None and (strike.place, strike.nth) == (place.name, started)
            before, start = self.trail.now, time.perf_counter()
            self.trail.set(place.name)
            if struck and strike.moment == "before":
                die()
            if struck and strike.moment == "inside":
                result = (place.inside or _after_a_while)(strike, lambda: original(*args, **kwargs), args)
            else:
                result = original(*args, **kwargs)
            if struck and strike.moment == "after":
                die()
            times.append(time.perf_counter() - start)
            self.trail.set(before)
            return result

        setattr(owner, attribute, watched)


def run_child(settings: dict[str, Any], out: str, resume: bool, strike: Strike | None, notes: str) -> None:
    """One process of a run: trains to the end, or dies at the strike. ``notes``: stem of its trail, times and log."""
    from fastslow.config_io import parse_config
    from fastslow.engines.local import train

    random.seed()  # the global streams of another process are elsewhere
    watch = Watch(Trail(Path(notes + ".trail")), strike)
    try:
        train(parse_config(settings), out, resume=resume)
    except BaseException:
        Path(notes + ".log").write_text(traceback.format_exc(), encoding="utf-8")
        sys.exit(1)
    Path(notes + ".times").write_text(json.dumps(watch.seconds), encoding="utf-8")
