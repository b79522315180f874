"""Your own scorer, in a child process of its own: it is ended when it takes too long, whatever it is stuck in.

A thread could not do that: a regular expression that backtracks for hours, or a huge power, holds the interpreter's
lock, and no thread can be ended. The child is this module, run with ``-m``; one JSON line asks, one answers.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fastslow.errors import TaskError
from fastslow.tasks.scoring import ScorerOvertime, ScorerRaised

_START_SECONDS = 300.0
"""Importing your module may load a model of its own."""


class ScorerChild:
    """Keeps one child alive, and starts another when it was ended.

    Each call starts with the global random streams (``random``, and those of numpy and torch where the scorer uses
    them) seeded by the question and the reply, so a scorer that draws gives the same reward in a resumed run. What
    it prints goes to standard error. ``metadata`` reaches it as JSON has it: dates and the like as text.
    """

    def __init__(self, module: str, function: str, folders: Sequence[Path], timeout: float) -> None:
        """Raises TaskError with one line where the module or the function can't be used."""
        self._spec = {
            "module": module,
            "function": function,
            "folders": [str(f) for f in folders],
            "path": list(sys.path),
        }
        self._timeout = timeout
        self._process: subprocess.Popen[str] | None = None
        self._lock = threading.Lock()
        self._start()

    def score(self, question: str, answer: str | None, completion: str, metadata: Mapping[str, Any]) -> Any:
        """What the scorer returned; raises ScorerRaised or ScorerOvertime."""
        with self._lock:
            if self._process is None or self._process.poll() is not None:
                self._start()
            job = {"question": question, "answer": answer, "completion": completion, "metadata": metadata}
            reply = self._ask(job, self._timeout)
        if reply is None:
            raise ScorerOvertime(self._timeout)
        if "raised" in reply:
            raise ScorerRaised(reply["raised"])
        return tuple(reply["result"]) if reply["is_tuple"] else reply["result"]

    def _start(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "fastslow.tasks.scorer_child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="ascii",
            start_new_session=True,  # Ctrl-C is for the run; and whatever the scorer starts is ended with it
        )
        weakref.finalize(self, _discard, self._process)
        reply = self._ask({**self._spec, "timeout": self._timeout}, _START_SECONDS)
        if reply is None:
            raise TaskError(f"task.scorer: importing {self._spec['module']!r} took longer than {_START_SECONDS:g} s")
        if "raised" in reply:
            raise TaskError(reply["raised"])

    def _ask(self, job: Mapping[str, Any], timeout: float) -> dict[str, Any] | None:
        """The reply, or None where time was up. A child that was stopped in the middle is never asked again."""
        process = self._process
        assert process is not None and process.stdin is not None and process.stdout is not None
        overtime = threading.Event()

        def stop() -> None:
            overtime.set()
            _end(process)

        timer = threading.Timer(timeout, stop)
        timer.daemon = True
        try:
            timer.start()
            process.stdin.write(json.dumps(job, default=_plain) + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
        except BrokenPipeError:
            line = ""
        except BaseException:
            _end(process)
            raise
        finally:
            timer.cancel()
        if overtime.is_set():
            _end(process)
            return None
        if not line:
            return {"raised": f"its process ended by itself (exit status {process.wait()})"}
        return json.loads(line)


def _end(process: subprocess.Popen[str]) -> None:
    """End the child and whatever it started."""
    if process.poll() is not None:
        return
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except (AttributeError, OSError):  # no process groups on Windows, or just gone
        process.kill()
    process.wait()


def _discard(process: subprocess.Popen[str]) -> None:
    """End the child and close its pipes; nobody reads them any more."""
    _end(process)
    for pipe in (process.stdin, process.stdout):
        with contextlib.suppress(OSError):  # what was left to flush has no reader
            if pipe is not None:
                pipe.close()


def _plain(value: Any) -> Any:
    """What JSON lacks: numpy's and torch's numbers and arrays as Python's, all else as text."""
    return value.tolist() if hasattr(value, "tolist") else str(value)


def _main() -> None:
    answers = os.fdopen(os.dup(1), "w", encoding="ascii")
    os.dup2(2, 1)  # what the scorer prints must not be taken for an answer
    first = sys.stdin.readline()
    if not first:
        return  # the run was killed before it could ask
    spec = json.loads(first)
    try:
        function = _load(spec)
        reply: dict[str, Any] = {}
    except TaskError as error:
        reply = {"raised": str(error)}
    _answer(answers, reply)
    if reply:
        return
    for line in sys.stdin:
        job = json.loads(line)
        _seed_streams(job["question"], job["completion"])
        if hasattr(signal, "setitimer"):  # should the run be killed meanwhile, a scorer that hangs doesn't live on
            signal.setitimer(signal.ITIMER_REAL, 2 * spec["timeout"] + 5)
        try:
            result = function(job["question"], job["answer"], job["completion"], job["metadata"])
            reply = {"result": result, "is_tuple": isinstance(result, tuple)}
        except BaseException as error:  # the fence: a user's scorer may raise anything
            reply = {"raised": f"{type(error).__name__}: {error}"}
        if hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_REAL, 0)
        _answer(answers, reply)


def _answer(answers: Any, reply: Mapping[str, Any]) -> None:
    try:
        line = json.dumps(reply, default=_plain)
    except (TypeError, ValueError, RecursionError) as error:
        line = json.dumps({"raised": f"its result can't be read: {type(error).__name__}: {error}"})
    answers.write(line + "\n")
    answers.flush()


def _load(spec: Mapping[str, Any]) -> Any:
    from fastslow.tasks.scorers import import_scorer

    sys.path[:] = spec["path"]
    return import_scorer(spec["module"], spec["function"], [Path(f) for f in spec["folders"]])


def _seed_streams(*texts: str) -> None:
    digest = hashlib.sha256("\0".join(texts).encode("utf-8", "surrogatepass")).digest()
    seed = int.from_bytes(digest[:4], "big")
    random.seed(seed)
    if "numpy" in sys.modules:
        importlib.import_module("numpy").random.seed(seed)
    if "torch" in sys.modules:
        importlib.import_module("torch").manual_seed(seed)


if __name__ == "__main__":
    try:
        _main()
    except BrokenPipeError:  # the run was killed: nobody hears the answer
        os._exit(1)
