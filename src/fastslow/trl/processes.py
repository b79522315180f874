"""Several processes as one: shares of equal size, results for all, and failures that end all instead of hanging one.

Between processes of one run objects travel through ``torch.distributed``; nothing of it touches a file.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from accelerate.utils import broadcast_object_list, gather_object

from fastslow.errors import EngineError, FastslowError

T = TypeVar("T")
R = TypeVar("R")


class EndedTogether(EngineError):
    """Raised on every process at the same place, since at least one of them failed there."""


class Processes:
    """The processes of one run. ``rank`` 0 drives; ``count`` is 1 without a launcher."""

    def __init__(self, rank: int, count: int) -> None:
        self.rank, self.count = rank, count
        self._ended: str | None = None  # why, once all have raised together

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def share(self, items: Sequence[T]) -> list[T]:
        """This process's slice of ``items``, which all hold alike. All slices have one size, so that collectives of
        a sharded model stay in step: the last item is repeated where they don't divide (:meth:`gather` drops it)."""
        if not items:
            return []
        size = -(-len(items) // self.count)
        start = self.rank * size
        return [items[min(i, len(items) - 1)] for i in range(start, start + size)]

    def gather(self, items: list[T], count: int | None = None) -> list[T]:
        """The items of all processes in the order of their ranks, on each of them; the first ``count``."""
        return gather_object(items)[:count] if self.count > 1 else items[:count]

    def broadcast(self, value: T) -> T:
        """Rank 0's value, on every process."""
        return broadcast_object_list([value])[0] if self.count > 1 else value

    def together(self, error: Exception | None) -> None:
        """Every process calls this with its error, or None: if any failed, all raise, with the first message."""
        if self.count == 1:
            if error is not None:
                raise error
            return
        messages = self.gather([None if error is None else describe(error)])
        failed = [f"process {rank}: {text}" for rank, text in enumerate(messages) if text is not None]
        if failed:
            self._ended = failed[0]
            raise EndedTogether(failed[0]) from error

    def try_together(self, work: Callable[[], R]) -> R:
        """``work`` on every process; what fails on one ends all. Only for work without collectives in it."""
        result, error = None, None
        try:
            result = work()
        except Exception as failure:  # a fence: the other processes wait to hear of it
            error = failure
        self.together(error)
        return result  # type: ignore[return-value]

    def on_main(self, work: Callable[[], R]) -> R | None:
        """``work`` on rank 0 alone; where it fails there, all raise. Others get None."""
        return self.try_together(work if self.is_main else lambda: None)  # type: ignore[arg-type]

    def drive(self, work: Callable[[Callable[[Any], Any]], R], serve: Callable[[Any], Any]) -> R:
        """Rank 0 runs ``work(call)``; each ``call(request)`` runs ``serve(request)`` on every process at once and
        returns rank 0's result. Returns what ``work`` returned, on every process. If ``work`` raises, all raise."""
        if self.count == 1:
            return work(serve)
        if not self.is_main:
            return self._follow(serve)

        def call(request: Any) -> Any:
            self._check_alive()
            self.broadcast(("serve", request))
            return serve(request)

        try:
            result = work(call)
            self._check_alive()
        except BaseException as error:
            if self._ended is None:  # else the others have raised too, and nobody listens
                self.broadcast(("error", f"process 0: {describe(error)}"))
            raise
        return self.broadcast(("done", result))[1]

    def _check_alive(self) -> None:
        """A reflector's fence may have kept to itself that all have ended."""
        if self._ended is not None:
            raise EndedTogether(self._ended)

    def _follow(self, serve: Callable[[Any], Any]) -> Any:
        while True:
            kind, value = self.broadcast(None)
            if kind == "done":
                return value
            if kind == "error":
                raise EndedTogether(value)
            serve(value)


def describe(error: BaseException) -> str:
    """One line: a user's mistake as it is, anything else with its type."""
    text = " ".join(str(error).split())
    return text if isinstance(error, FastslowError) else f"{type(error).__name__}: {text}"
