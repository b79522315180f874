"""Several processes as one, with two threads in the place of processes.

Behaviours locked: shares have one size and gather in order; rank 0's result reaches all; what fails on one process, in
the driver, in the served work, or behind a fence that swallows it, ends all with its message. A barrier that is not met
within seconds breaks, so a hang fails these tests.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from fastslow.errors import ConfigError
from fastslow.trl.processes import EndedTogether, Processes

PATIENCE = 20  # seconds at a barrier


class Meeting:
    """Where the threads exchange what processes would send."""

    def __init__(self, count: int) -> None:
        self.barrier = threading.Barrier(count, timeout=PATIENCE)
        self.slots: list[Any] = [None] * count

    def exchange(self, rank: int, value: Any) -> list[Any]:
        self.slots[rank] = value
        self.barrier.wait()
        everything = list(self.slots)
        self.barrier.wait()
        return everything


class Threads(Processes):
    def __init__(self, rank: int, count: int, meeting: Meeting) -> None:
        super().__init__(rank, count)
        self.meeting = meeting

    def gather(self, items, count=None):
        return [x for part in self.meeting.exchange(self.rank, items) for x in part][:count]

    def broadcast(self, value):
        return self.meeting.exchange(self.rank, value)[0]


def on_each(count: int, work: Callable[[Processes], Any]) -> list[Any]:
    """What ``work`` returned or raised on each process."""
    meeting, results = Meeting(count), [None] * count

    def run(rank: int) -> None:
        try:
            results[rank] = work(Threads(rank, count, meeting))
        except Exception as error:
            results[rank] = error

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(2 * PATIENCE)
    assert not any(t.is_alive() for t in threads)
    return results


@pytest.mark.parametrize("count", [1, 2, 3, 4])
@pytest.mark.parametrize("items", [1, 2, 5, 8])
def test_shares_have_one_size_and_come_back_in_order(count, items):
    shares = [Processes(rank, count).share(list(range(items))) for rank in range(count)]
    assert len({len(share) for share in shares}) == 1
    assert [x for share in shares for x in share][:items] == list(range(items))
    assert Processes(0, count).share([]) == []


def test_the_driver_asks_all_serve_and_everyone_gets_its_result():
    served: list[tuple[int, Any]] = []

    def work(processes: Processes) -> Any:
        def serve(request):
            served.append((processes.rank, request))
            return processes.gather([processes.rank * 10 + request])

        return processes.drive(lambda call: [call(1), call(2)], serve)

    assert on_each(2, work) == [[[1, 11], [2, 12]]] * 2
    assert sorted(served) == [(0, 1), (0, 2), (1, 1), (1, 2)]


def test_one_process_needs_no_meeting():
    alone = Processes(0, 1)
    assert alone.drive(lambda call: call(3) + 1, lambda request: request * 2) == 7
    with pytest.raises(ConfigError, match="as it is"):
        alone.try_together(lambda: (_ for _ in ()).throw(ConfigError("as it is")))


def test_a_failing_driver_ends_all():
    def work(processes: Processes) -> Any:
        def drive(call):
            call(1)
            raise ValueError("no more ideas")

        return processes.drive(drive, lambda request: request)

    first, second = on_each(2, work)
    assert isinstance(first, ValueError)
    assert isinstance(second, EndedTogether) and str(second) == "process 0: ValueError: no more ideas"


@pytest.mark.parametrize("fence", [False, True], ids=["open", "swallowed"])
def test_served_work_that_fails_on_one_ends_all(fence):
    def work(processes: Processes) -> Any:
        def serve(request):
            return processes.try_together(lambda: 1 // (request - processes.rank))

        def drive(call):
            if not fence:
                return call(1)
            try:
                call(1)
            except Exception:  # as the fence around a reflector does
                return "went on"

        return processes.drive(drive, serve)

    for ended in on_each(2, work):
        assert isinstance(ended, EndedTogether)
        assert str(ended).startswith("process 1: ZeroDivisionError")


def test_a_users_mistake_keeps_its_line():
    def work(processes: Processes) -> Any:
        def mistaken():
            raise ConfigError("task.name: unknown")

        return processes.on_main(mistaken)

    assert [str(e) for e in on_each(2, work)] == ["process 0: task.name: unknown"] * 2
