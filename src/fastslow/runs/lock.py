"""One process per run directory: an advisory lock that the system releases when its process dies."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from fastslow.errors import RunError
from fastslow.runs.files import disk_errors

_held: set[int] = set()


class RunLock:
    """Holds ``path`` locked until :meth:`release` or the death of the process; raises :class:`RunError` if taken."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with disk_errors(path):
            self._handle: int | None = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
            try:
                fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                owner = os.pread(self._handle, 32, 0).decode("ascii", "replace").strip()
                os.close(self._handle)
                who = f" (process {owner})" if owner.isdigit() else ""
                raise RunError(
                    f"{path.parent}: another run{who} is at work here; wait for it, or use another --out"
                ) from None
            except OSError:
                os.close(self._handle)
                raise
            os.ftruncate(self._handle, 0)
            os.pwrite(self._handle, f"{os.getpid()}\n".encode(), 0)
        _held.add(self._handle)

    def release(self) -> None:
        """Let go; harmless when called twice. The empty file stays: removing it would race with the next owner."""
        if self._handle is not None:
            _held.discard(self._handle)
            os.close(self._handle)
            self._handle = None


def _forget_in_child() -> None:
    """A forked worker shares the open file, and would keep the lock alive after its parent's death."""
    for handle in _held:
        os.close(handle)
    _held.clear()


os.register_at_fork(after_in_child=_forget_in_child)
