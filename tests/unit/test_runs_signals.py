"""Locks: the first signal stops a run at once or, while weights and state disagree, right after; later ones change
nothing; whoever handled the signals before does so again; a command line's last word is not cut off."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading

import pytest

from fastslow.errors import RunError
from fastslow.runs.signals import Interrupted, Stopped, StopSignals

both = pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])


@both
def test_the_first_raises_and_later_ones_change_nothing(number):
    before = signal.getsignal(number)
    with StopSignals():
        with pytest.raises(Interrupted):
            signal.raise_signal(number)
        signal.raise_signal(number)
        signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(number) is before


@both
def test_held_it_waits_for_the_release_and_is_never_lost(number):
    with StopSignals() as signals:
        signals.hold()
        signal.raise_signal(number)
        signal.raise_signal(number)
        with pytest.raises(Interrupted):
            signals.release()
        with pytest.raises(Interrupted):
            signals.release()  # should the first have been swallowed, by a destructor for example


def test_without_a_signal_nothing_happens():
    with StopSignals() as signals:
        signals.hold()
        signals.release()


def test_no_fence_takes_it_for_a_failure_and_the_line_names_place_and_mend():
    assert not issubclass(Interrupted, Exception)
    assert issubclass(Stopped, RunError)
    assert str(Stopped("stopped at step 3", "go on with --resume")) == "stopped at step 3; go on with --resume"


def test_off_the_main_thread_the_handlers_stay():
    found = []

    def run():
        with StopSignals():
            found.append(signal.getsignal(signal.SIGTERM))

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert found == [before]


PROGRAM = """
import signal, sys
from fastslow.runs.signals import Interrupted, StopSignals, last_word
with last_word():
    try:
        with StopSignals():
            if "stop" in sys.argv:
                signal.raise_signal(signal.SIGINT)
    except Interrupted:
        signal.raise_signal(signal.SIGINT)
        print("the last word")
    if "inside" in sys.argv:
        signal.raise_signal(signal.SIGINT)
signal.raise_signal(signal.SIGINT)
"""


def program(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", PROGRAM, *arguments], capture_output=True, text=True)


def test_a_late_ctrl_c_does_not_cut_off_the_last_word():
    done = program("stop")
    assert (done.returncode, done.stdout, done.stderr) == (0, "the last word\n", "")


@pytest.mark.parametrize("where", ["inside", "after"])
def test_where_no_run_was_stopped_ctrl_c_works_as_ever(where):
    done = program(where)
    assert done.returncode == -signal.SIGINT and "KeyboardInterrupt" in done.stderr
