"""The math-verify scorer, in a child process of its own.

A reply such as ``9^{9^{9^9}}`` sends the computer algebra under math-verify into one endless call that no thread or
signal can end; a child process can be ended, and its memory is capped. The child is this module, run with ``-m``.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import weakref
from collections.abc import Mapping
from typing import Any

from fastslow.tasks.problems import clean_text
from fastslow.tasks.replies import extract_answer

_MAX_CHARS = 10_000
_MAX_MEMORY = 4 * 2**30
_START_SECONDS = 60.0


class MathChild:
    """Keeps one child alive, starts it at the first call, and ends it when a comparison takes over ``timeout`` s."""

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self._process: subprocess.Popen[str] | None = None
        self._lock = threading.Lock()

    def score(self, question: str, answer: str | None, completion: str, metadata: Mapping[str, Any]) -> float:
        """1 if math-verify finds the reply equal to the gold answer, else 0; TimeoutError if that takes too long."""
        reply = clean_text(extract_answer(completion)[-_MAX_CHARS:])
        with self._lock:
            if self._process is None or self._process.poll() is not None:
                self._start()
            return self._ask({"gold": answer or "", "reply": reply}, self._timeout)

    def _start(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "fastslow.tasks.math_child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            encoding="ascii",
        )
        weakref.finalize(self, self._process.kill)
        self._ask({"gold": "1", "reply": "1"}, _START_SECONDS)  # the first call waits for the library to load

    def _ask(self, job: Mapping[str, str], timeout: float) -> float:
        process = self._process
        assert process is not None and process.stdin is not None and process.stdout is not None
        timer = threading.Timer(timeout, process.kill)
        timer.start()
        try:
            process.stdin.write(json.dumps(job) + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
        except BrokenPipeError:
            line = ""
        finally:
            timer.cancel()
        if not line:
            process.kill()
            process.wait()
            raise TimeoutError(f"math-verify took longer than {timeout:g} s, or too much memory, on one reply")
        return float(json.loads(line))


def _main() -> None:
    _cap_memory()
    replies, sys.stdout = sys.stdout, sys.stderr  # nothing that a library prints may pass for a score
    from math_verify import parse, verify

    for line in sys.stdin:
        job = json.loads(line)
        # The parent keeps the time, so the library's own timers (signals) stay off.
        gold = _parse(parse, job["gold"])
        reply = _parse(parse, job["reply"])
        equal = bool(gold) and bool(reply) and verify(gold, reply, timeout_seconds=None)
        replies.write(json.dumps(1.0 if equal else 0.0) + "\n")
        replies.flush()


def _parse(parse: Any, text: str) -> list[Any]:
    """Parsed as it stands, and as LaTeX between dollars where nothing is found (a bare ``\\frac{1}{2}``)."""
    return parse(text, parsing_timeout=None) or parse(f"${text}$", parsing_timeout=None)


def _cap_memory() -> None:
    try:
        import resource
    except ImportError:  # not on Windows
        return
    resource.setrlimit(resource.RLIMIT_AS, (_MAX_MEMORY, resource.RLIM_INFINITY))


if __name__ == "__main__":
    _main()
