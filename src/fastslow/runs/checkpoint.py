"""Checkpoints: one atomic directory each, ``step-000012/``, of safetensors and JSON; never pickle.

A checkpoint is written aside, every file and folder synced, then renamed into place; only then are old ones removed.
Its manifest holds the size and SHA-256 of every file, so that damage is told apart from a model that learnt badly.
torch is imported only inside the functions that move tensors.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Collection, Mapping
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastslow.errors import RunError
from fastslow.runs.files import (
    describe_os_error,
    disk_errors,
    free_bytes,
    json_text,
    sync_file,
    sync_folder,
    write_text,
)
from fastslow.runs.versions import package_versions

if TYPE_CHECKING:
    from torch import Tensor

FORMAT = 1
_NAME = re.compile(r"step-(\d{6,})")
_GROUP = re.compile(r"[a-z0-9_-]+")
_FILE = re.compile(r"[a-z0-9_-]+\.(safetensors|json)")
_STATE, _MANIFEST, _WEIGHTS = "state.json", "manifest.json", "weights.safetensors"
_TEMPORARY, _REPLACED, _DOOMED = ".tmp-", ".old-", ".del-"
_HEADER_BYTES = 1 << 20  # room for headers, state and manifest beside the tensors, when disk space is reckoned


def save_checkpoint(
    folder: Path, step: int, tensors: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, Any], keep: int
) -> Path:
    """Write ``folder/step-XXXXXX`` and keep the ``keep`` newest; returns its path.

    ``tensors``: file name (``weights``, ``optimizer``, …) -> tensor name -> tensor. Tied tensors must be passed once:
    two that share memory are a ``ValueError``. ``state``: anything JSON can hold. Where the disk refuses or is full,
    nothing of the new one stays, the last good one does, and a :class:`RunError` tells how much room is needed.
    """
    text = json_text(dict(state))
    groups = {name: _storable(name, group) for name, group in tensors.items()}
    needed = sum(t.numel() * t.element_size() for group in groups.values() for t in group.values()) + len(text)
    final = folder / f"step-{step:06d}"
    aside = folder / f"{_TEMPORARY}{final.name}"
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        remove_strays(folder)
    if free_bytes(folder) < needed + _HEADER_BYTES:
        full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        raise RunError(describe_os_error(full, final, needed))
    try:
        with disk_errors(final, needed):
            _write_aside(aside, step, groups, text)
            _put_in_place(aside, final)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    with disk_errors(folder):
        _prune(folder, keep, newest=final)
    return final


def load_checkpoint(
    path: Path, only: Collection[str] | None = None
) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    """Tensors (on the CPU) and state of a checkpoint, after every file is checked against the manifest.

    ``only``: names of the tensor files to read, for example ``{"weights"}``; default: all.

    Raises :class:`RunError` naming the damaged file and the previous good checkpoint.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    manifest = verify_checkpoint(path)
    tensors: dict[str, dict[str, Tensor]] = {}
    for name in manifest["files"]:
        if name.endswith(".safetensors") and (only is None or name.removesuffix(".safetensors") in only):
            try:
                tensors[name.removesuffix(".safetensors")] = load_file(path / name, device="cpu")
            except (OSError, SafetensorError) as error:
                raise _damaged(path, name, f"cannot be read ({' '.join(str(error).split())})") from error
    return tensors, json.loads((path / _STATE).read_text(encoding="utf-8"))


def load_latest(folder: Path) -> tuple[Path, dict[str, dict[str, Tensor]], dict[str, Any]] | None:
    """The newest checkpoint as (path, tensors, state), or None where there is none.

    A damaged newest one is refused, not skipped: going on silently from an older one would repeat steps unseen.
    """
    steps = _steps(folder)
    if not steps:
        return None
    return (steps[-1], *load_checkpoint(steps[-1]))


def newest_checkpoint(folder: Path) -> Path | None:
    """The newest by its step, damaged or not (:func:`load_checkpoint` tells), or None."""
    steps = _steps(folder)
    return steps[-1] if steps else None


def latest_checkpoint(folder: Path) -> Path | None:
    """The newest complete checkpoint (all files there, at their full size), or None. Contents are not read."""
    for path in reversed(_steps(folder)):
        with suppress(RunError):
            _check_files(path, _read_manifest(path))
            return path
    return None


def verify_checkpoint(path: Path) -> dict[str, Any]:
    """Check every byte of a checkpoint; returns its manifest ``{format, step, versions, files, digest}``."""
    manifest = _read_manifest(path)
    _check_files(path, manifest)
    for name, entry in manifest["files"].items():
        if _sha256(path / name) != entry["sha256"]:
            raise _damaged(path, name, "has changed since it was written")
    return manifest


def keep_last_weights(folder: Path) -> None:
    """Of a finished run's checkpoints leave the newest, and of that the weights: a third of its size.

    The manifest goes first, written aside and renamed: a kill in between leaves files that it no longer lists.
    """
    last = newest_checkpoint(folder)
    if last is None:
        return
    manifest = _read_manifest(last)
    gone = [name for name in manifest["files"] if name.endswith(".safetensors") and name != _WEIGHTS]
    kept = {key: value for key, value in manifest.items() if key != "digest"}
    kept["files"] = {name: entry for name, entry in manifest["files"].items() if name not in gone}
    with disk_errors(last):
        write_text(last / _MANIFEST, json_text({**kept, "digest": _digest(kept)}))
        for name in gone:
            (last / name).unlink(missing_ok=True)
        _prune(folder, 1, newest=last)


def remove_strays(folder: Path) -> None:
    """Remove what a killed save left behind. Only for the process that writes: it alone knows that none is at work."""
    for path in folder.iterdir() if folder.is_dir() else ():
        if path.name.startswith(_REPLACED):
            whole = folder / path.name.removeprefix(_REPLACED)
            if not whole.exists():  # killed between the two renames of a replacement
                path.rename(whole)
                continue
        if path.name.startswith((_TEMPORARY, _REPLACED, _DOOMED)):
            shutil.rmtree(path)


def _storable(group: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous tensors that share no memory; safetensors would store shared ones twice, or refuse."""
    if not _GROUP.fullmatch(group):
        raise ValueError(f"checkpoint group {group!r}: use lower-case letters, digits, - and _")
    stored = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    spans = sorted(
        (str(t.device), t.data_ptr(), t.data_ptr() + t.numel() * t.element_size(), name)
        for name, t in stored.items()
        if t.numel()
    )
    for (device, _, end, name), (next_device, start, _, next_name) in pairwise(spans):
        if device == next_device and start < end:
            raise ValueError(
                f"checkpoint group {group!r}: {name!r} and {next_name!r} share memory; pass tied tensors once"
            )
    return stored


def _write_aside(aside: Path, step: int, groups: Mapping[str, dict[str, Tensor]], state: str) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    aside.mkdir()
    for name, tensors in groups.items():
        try:
            save_file(tensors, aside / f"{name}.safetensors")
        except SafetensorError as error:  # it wraps the system's error as text: "… (os error 28)"
            code = re.search(r"(?:os error|code:) (\d+)", str(error))
            number = int(code[1]) if code else errno.EIO
            raise OSError(number, os.strerror(number)) from error
    (aside / _STATE).write_text(state, encoding="utf-8")
    files = {p.name: {"sha256": _sha256(p), "size": p.stat().st_size} for p in sorted(aside.iterdir())}
    manifest = {"format": FORMAT, "step": step, "versions": package_versions(), "files": files}
    (aside / _MANIFEST).write_text(json_text({**manifest, "digest": _digest(manifest)}), encoding="utf-8")
    for path in aside.iterdir():
        sync_file(path)
    sync_folder(aside)


def _put_in_place(aside: Path, final: Path) -> None:
    old = final.with_name(_REPLACED + final.name)
    if final.exists():  # the same step saved again, for example at the end of a run
        final.rename(old)
    try:
        aside.rename(final)
    except BaseException:
        if old.exists():
            old.rename(final)
        raise
    sync_folder(final.parent)
    if old.exists():
        shutil.rmtree(old)


def _prune(folder: Path, keep: int, newest: Path) -> None:
    steps = [p for p in _steps(folder) if p != newest]
    for path in steps[: max(0, len(steps) - max(0, keep - 1))]:
        doomed = path.with_name(_DOOMED + path.name)
        path.rename(doomed)  # first out of sight: a kill here must not leave half a checkpoint
        shutil.rmtree(doomed)


def _steps(folder: Path) -> list[Path]:
    """Checkpoints by step, oldest first."""
    if not folder.is_dir():
        return []
    found = [(int(m[1]), p) for p in folder.iterdir() if (m := _NAME.fullmatch(p.name)) and p.is_dir()]
    return [path for _, path in sorted(found)]


def _read_manifest(path: Path) -> dict[str, Any]:
    if not path.is_dir():
        raise RunError(f"{path}: no such checkpoint; give a folder such as checkpoints/step-000012")
    try:
        manifest = json.loads((path / _MANIFEST).read_text(encoding="utf-8"))
        digest = manifest.pop("digest")
        files, step, version = manifest["files"], manifest["step"], manifest["format"]
    except FileNotFoundError:
        raise _damaged(path, _MANIFEST, "is missing") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise _damaged(path, _MANIFEST, "cannot be read") from None
    if digest != _digest(manifest):
        raise _damaged(path, _MANIFEST, "has changed since it was written")
    if version != FORMAT:
        raise RunError(f"{path}: checkpoint format {version}, known here: {FORMAT}; use the version that wrote it")
    if path.name != f"step-{step:06d}" and _NAME.fullmatch(path.name):
        raise _damaged(path, _MANIFEST, f"belongs to step {step}")
    if _STATE not in files or not all(_FILE.fullmatch(name) for name in files):
        raise _damaged(path, _MANIFEST, "lists files of no checkpoint")
    return {**manifest, "digest": digest}


def _check_files(path: Path, manifest: Mapping[str, Any]) -> None:
    for name, entry in manifest["files"].items():
        file = path / name
        if not file.is_file():
            raise _damaged(path, name, "is missing")
        if file.stat().st_size != entry["size"]:
            raise _damaged(path, name, f"has {file.stat().st_size} bytes, not {entry['size']}")


def _damaged(path: Path, name: str, fault: str) -> RunError:
    good = _previous_good(path)
    previous = f"the previous one is {good.name}" if good else "there is no earlier one: --resume starts from step 0"
    return RunError(f"{path}: damaged checkpoint: {name} {fault}; delete this folder; {previous}")


def _previous_good(path: Path) -> Path | None:
    steps = _steps(path.parent)
    earlier = steps[: steps.index(path)] if path in steps else []
    for candidate in reversed(earlier):
        with suppress(RunError):
            verify_checkpoint(candidate)
            return candidate
    return None


def _digest(manifest: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
