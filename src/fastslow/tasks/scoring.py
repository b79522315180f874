"""The fence around every scorer: what it raises, returns or swallows can't stop a run."""

from __future__ import annotations

import math
import queue
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from fastslow.errors import TaskError
from fastslow.tasks.base import Task
from fastslow.tasks.feedback import bounded, one_line, quoted
from fastslow.types import Context, Problem, Score

SOLVED = 0.999
"""Rewards from here on count as solved: room for a scorer's rounding."""

FAILURES_IN_A_ROW = 20
"""Scoring calls that may fail one after the other. A scorer that fails on half of all replies gets there once in
two million calls, one that fails on 19 of 20 within the first few dozen."""

MAX_HANGS = 8
"""Threads that may be left behind in a hanging scorer; each may keep a core busy for good."""

_MAX_DISTINCT_ERRORS = 100
_ROUNDING = 1e-6


class ScorerRaised(Exception):
    """A scorer in another process raised; the text names the error's type."""


class ScorerOvertime(Exception):
    """A scorer took longer than it may, and was left behind or ended."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"the scorer took longer than task.score_timeout = {seconds:g} s")


class SafeTask:
    """Wraps a task so that :meth:`score` never raises, never hangs and always gives a finite reward.

    A scorer that fails gives reward 0, the error as feedback and ``Score.error``; ``errors`` counts them by message.
    ``timeout`` (seconds) applies to tasks that say ``needs_timeout``: their scorer runs on a daemon thread, which is
    abandoned when its time is up. Other scorers are called straight; a user's own keeps its time in a child process.

    :data:`FAILURES_IN_A_ROW` failures without one score between, or :data:`MAX_HANGS` abandoned threads, end the run
    with :class:`TaskError`: training on rewards that mean nothing is worse than stopping.
    """

    def __init__(
        self, inner: Task, timeout: float | None = None, reward_range: tuple[float, float] = (0.0, 1.0)
    ) -> None:
        self.inner = inner
        self.low, self.high = reward_range
        self._in_a_row: Counter[str] = Counter()
        self._hangs = 0
        self.errors: Counter[str] = Counter()
        self._timeout = timeout if getattr(inner, "needs_timeout", False) else None
        self._worker: _Worker | None = None
        self._lock = threading.Lock()

    @property
    def name(self) -> str:
        return self.inner.name

    @property
    def train(self) -> Sequence[Problem]:
        return self.inner.train

    @property
    def val(self) -> Sequence[Problem]:
        return self.inner.val

    @property
    def seed_context(self) -> Context:
        return self.inner.seed_context

    @property
    def notes(self) -> tuple[str, ...]:
        """What a person may want to know about the data: sizes cut, duplicates dropped."""
        return tuple(getattr(self.inner, "notes", ()))

    def score(self, problem: Problem, completion: str) -> Score:
        try:
            score = self._call(problem, completion)
            reward, feedback, error = _finite(score.reward), score.feedback, score.error
        except ScorerOvertime as overtime:
            return self._failed(str(overtime))
        except ScorerRaised as raised:
            return self._failed(f"the scorer failed: {raised}")
        except (Exception, SystemExit) as raised:  # the fence: a user's scorer may raise anything
            return self._failed(f"the scorer failed: {type(raised).__name__}: {raised}")
        if error is not None:
            return self._failed(error)
        if reward is None:
            return self._failed(f"the scorer gave {quoted(repr(score.reward))} as reward, not a finite number")
        if not self.low - _ROUNDING <= reward <= self.high + _ROUNDING:
            return self._failed(
                f"the scorer gave {reward:g} as reward, outside task.reward_range = [{self.low:g}, {self.high:g}]"
            )
        self._in_a_row.clear()
        return Score(reward, bounded(feedback if isinstance(feedback, str) else str(feedback)))

    def _call(self, problem: Problem, completion: str) -> Score:
        if self._timeout is None:
            return self.inner.score(problem, completion)
        with self._lock:
            if self._worker is None:
                self._worker = _Worker()
            try:
                return self._worker.call(lambda: self.inner.score(problem, completion), self._timeout)
            except ScorerOvertime:
                self._worker = None
                self._hangs += 1
                raise

    def _failed(self, message: str) -> Score:
        line = one_line(message)
        for counter in (self.errors, self._in_a_row):
            known = line in counter or len(counter) < _MAX_DISTINCT_ERRORS
            counter[line if known else "other errors"] += 1
        if self._hangs >= MAX_HANGS:
            raise TaskError(
                f"task {self.name}: {MAX_HANGS} scoring calls hung ({line}), and their threads can't be ended; mend "
                "the scorer, or raise task.score_timeout"
            )
        if self._in_a_row.total() >= FAILURES_IN_A_ROW:
            often = self._in_a_row.most_common(1)[0][0]
            raise TaskError(
                f"task {self.name}: the scorer failed on {FAILURES_IN_A_ROW} replies in a row, most often: {often}; "
                "mend it (a reply that it can't read earns 0, not an error)"
            )
        return Score(0.0, line, error=line)


def _finite(reward: Any) -> float | None:
    """The reward as a finite float, or None. Text is no number, even where float() would read it."""
    if isinstance(reward, (str, bytes)) or reward is None:
        return None
    try:
        number = float(reward)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


class _Worker:
    """One daemon thread that runs calls one by one; thrown away once a call overruns."""

    def __init__(self) -> None:
        self._calls: queue.SimpleQueue[tuple[Callable[[], Any], queue.SimpleQueue[tuple[bool, Any]]]] = (
            queue.SimpleQueue()
        )
        threading.Thread(target=self._run, name="fastslow-scorer", daemon=True).start()

    def call(self, function: Callable[[], Any], timeout: float) -> Any:
        """The function's result; raises what it raised, or ScorerOvertime after ``timeout`` seconds."""
        reply: queue.SimpleQueue[tuple[bool, Any]] = queue.SimpleQueue()
        self._calls.put((function, reply))
        try:
            ok, value = reply.get(timeout=timeout)
        except queue.Empty:
            raise ScorerOvertime(timeout) from None
        if not ok:
            raise value
        return value

    def _run(self) -> None:
        while True:
            function, reply = self._calls.get()
            try:
                reply.put((True, function()))
            except BaseException as raised:  # carried to the caller's thread, which fences it
                reply.put((False, raised))


def validate_task(task: Task, sample: int = 16) -> None:
    """Score the gold answers of a sample of problems; raises TaskError for the first that doesn't score 1.

    The sample is spread evenly over training and validation problems with a known gold answer.
    """
    known = [p for p in (*task.train, *task.val) if p.answer is not None]
    step = max(1, len(known) // sample)
    for problem in known[::step][:sample]:
        score = task.score(problem, problem.answer)
        if score.reward < SOLVED:
            why = one_line(score.feedback) or "no feedback"
            raise TaskError(
                f"task {task.name}: problem {problem.id}: its gold answer {quoted(problem.answer)} "
                f"scores {score.reward:g}, not 1 ({why}); mend the answer or the scorer"
            )
