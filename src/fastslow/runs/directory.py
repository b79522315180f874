"""The run directory: everything one run leaves behind, in one folder that one process writes at a time.

::

    runs/NAME/  config.yaml  settled.json  metrics.jsonl  summary.json  ledger.sqlite
                contexts/cycle-0003.json  checkpoints/step-000012/  plots/
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from fastslow.config import RunConfig
from fastslow.config_io import dump_config, parse_config
from fastslow.errors import ConfigError, RunError
from fastslow.runs.checkpoint import remove_strays
from fastslow.runs.files import disk_errors, read_json, remove_temporary, write_json, write_text
from fastslow.runs.lock import RunLock

GROWING_KEYS = ("steps", "max_rollouts")
"""Config keys that a resumed run may raise."""

PATIENCE_KEYS = ("slow.max_skipped_steps", "task.score_timeout", "task.reward_range")
"""Config keys that a resumed run may set anew, to go on where it stopped; every other key must stay as it was."""

_CYCLE = re.compile(r"cycle-(\d+)\.json")
_LOCK = ".lock"


class RunDirectory:
    """A run's folder. ``RunDirectory(path)`` only names the files; :meth:`create` makes, checks and locks them."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.config_path = self.path / "config.yaml"
        self.metrics_path = self.path / "metrics.jsonl"
        self.summary_path = self.path / "summary.json"
        self.ledger_path = self.path / "ledger.sqlite"
        self.settled_path = self.path / "settled.json"
        self.contexts = self.path / "contexts"
        self.checkpoints = self.path / "checkpoints"
        self.plots = self.path / "plots"
        self._lock: RunLock | None = None
        self._is_new = False
        self._new_folders: list[Path] = []  # made by create(), the innermost first

    @classmethod
    def create(cls, path: str | Path, config: RunConfig, resume: bool = False) -> RunDirectory:
        """Make the folder of a new run, or open an existing one to go on; locked for this process until closed.

        Raises :class:`RunError` before any compute: a run is already there and ``resume`` is not asked for; there is
        nothing to resume; the config differs from the stored one; another process is at work; the disk refuses.
        """
        run = cls(path)
        exists = run.config_path.exists()
        if exists and not resume:
            raise RunError(f"{run.path}: a run is already here; use --resume to go on, or another --out")
        if resume and not exists:
            raise RunError(f"{run.path}: no run to resume here; leave out --resume to start one")
        if not exists:
            run._refuse_foreign_folder()
            run._is_new = True
            run._new_folders = [p for p in (run.path, *run.path.parents) if not p.exists()]
        with disk_errors(run.path):
            run.path.mkdir(parents=True, exist_ok=True)
            run._probe()
        run._lock = RunLock(run.path / _LOCK)
        try:
            run._prepare(config, resume)
        except BaseException:
            run.close()
            raise
        return run

    def discard(self) -> None:
        """Undo :meth:`create` of a new run in which nothing was computed yet; a run to resume is left alone."""
        if self._lock is None or not self._is_new:
            return
        with suppress(OSError):  # whatever else came into the folder meanwhile stays, and the folder with it
            self.config_path.unlink()
            self.settled_path.unlink(missing_ok=True)
            for folder in (self.contexts, self.checkpoints, self.plots):
                folder.rmdir()
            (self.path / _LOCK).unlink()
            for folder in self._new_folders:
                folder.rmdir()

    def close(self) -> None:
        """Release the lock; the folder may then be resumed."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def __enter__(self) -> RunDirectory:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def load_config(self) -> RunConfig:
        """The stored config; raises :class:`RunError` where there is none or it can't be used."""
        try:
            data = yaml.safe_load(self.config_path.read_text(encoding="utf-8"))
            if not isinstance(data, dict):
                raise RunError(f"{self.config_path}: expected keys and values; the file is damaged")
            return parse_config(data, where=str(self.config_path))
        except FileNotFoundError:
            raise RunError(f"{self.path}: not a run (no config.yaml); give the folder of a run") from None
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            what = " ".join(str(error).split())
            raise RunError(f"{self.config_path}: cannot be read ({what}); restore it, or use another --out") from error
        except ConfigError as error:
            raise RunError(f"{error}; was it written by another version?") from error

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        write_json(self.summary_path, dict(summary))

    def read_summary(self) -> dict[str, Any]:
        return read_json(self.summary_path)

    def write_population(self, cycle: int, population: Mapping[str, Any]) -> Path:
        """Snapshot of a population (``Population.to_dict()``) after the fast phase of ``cycle``."""
        path = self.contexts / f"cycle-{cycle:04d}.json"
        write_json(path, dict(population))
        return path

    def read_population(self, cycle: int | None = None) -> dict[str, Any]:
        """The snapshot of ``cycle``, by default the newest; raises :class:`RunError` where there is none."""
        cycles = self.population_cycles()
        if cycle is None and cycles:
            cycle = cycles[-1]
        if cycle not in cycles:
            known = f"cycles {cycles[0]} to {cycles[-1]} are there" if cycles else "this run has had no fast phase yet"
            raise RunError(f"{self.contexts}: no population of cycle {cycle}; {known}")
        return read_json(self.contexts / f"cycle-{cycle:04d}.json")

    def population_cycles(self) -> list[int]:
        """Cycles that have a snapshot, oldest first."""
        if not self.contexts.is_dir():
            return []
        return sorted(int(m[1]) for p in self.contexts.iterdir() if (m := _CYCLE.fullmatch(p.name)))

    def rewind_populations(self, last_cycle: int) -> None:
        """Forget snapshots later than ``last_cycle`` (-1: all): on resume, what came after the checkpoint."""
        with disk_errors(self.contexts):
            for cycle in self.population_cycles():
                if cycle > last_cycle:
                    (self.contexts / f"cycle-{cycle:04d}.json").unlink()

    def _refuse_foreign_folder(self) -> None:
        if not self.path.exists():
            return
        if not self.path.is_dir():
            raise RunError(f"{self.path}: is a file, not a folder; choose another --out")
        strangers = sorted(p.name for p in self.path.iterdir() if not p.name.startswith("."))
        if set(strangers) - {"contexts", "checkpoints", "plots"}:
            raise RunError(
                f"{self.path}: holds other files (such as {strangers[0]}) and is no run; choose another --out"
            )

    def _probe(self) -> None:
        """A write now, so that a read-only folder is known before any compute."""
        with tempfile.TemporaryFile(dir=self.path):
            pass

    def _prepare(self, config: RunConfig, resume: bool) -> None:
        if resume:
            stored = self.load_config()
            _check_resumable(self.path, stored, config)
        elif self.config_path.exists():  # another process made it between the first look and the lock
            raise RunError(f"{self.path}: a run is already here; use --resume to go on, or another --out")
        with disk_errors(self.path):
            for folder in (self.contexts, self.checkpoints, self.plots):
                folder.mkdir(exist_ok=True)
            remove_strays(self.checkpoints)
            remove_temporary(self.path)
            remove_temporary(self.contexts)
        if not resume or stored != config:
            write_text(self.config_path, dump_config(config))


def _check_resumable(path: Path, stored: RunConfig, config: RunConfig) -> None:
    """Equal but for the growing keys; raises :class:`RunError` naming the first key that differs."""
    before, after = flatten(stored.model_dump(mode="json")), flatten(config.model_dump(mode="json"))
    for key in [*before, *(k for k in after if k not in before)]:
        old, new = before.get(key), after.get(key)
        if old == new or key in PATIENCE_KEYS:
            continue
        if key in GROWING_KEYS:
            if new is None or (old is not None and new > old):
                continue
            raise RunError(
                f"{path}: {key} was {old} and can only grow on --resume (asked: {new}); keep it, or use another --out"
            )
        raise RunError(f"{path}: {key} was {old!r}, now {new!r}; resume with the stored value, or use another --out")


def flatten(data: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """
    >>> flatten({"slow": {"lr": 1e-5}, "steps": 2})
    {'slow.lr': 1e-05, 'steps': 2}
    """
    flat: dict[str, Any] = {}
    for key, value in data.items():
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat
