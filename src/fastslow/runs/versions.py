"""Versions of what a result depends on, for checkpoints and summaries."""

from __future__ import annotations

import platform
import re
from importlib.metadata import PackageNotFoundError, version

from fastslow.config import shipped

PACKAGES = ("fastslow", "torch", "transformers", "safetensors", "peft", "numpy", "gepa", "reasoning-gym", "trl")


def package_versions() -> dict[str, str]:
    """Python and the installed packages among :data:`PACKAGES`; nothing is imported."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def tested_versions() -> dict[str, str]:
    """The pinned versions that the tests pass with (``constraints.txt``), by name such as ``reasoning-gym``."""
    pins = shipped("constraints.txt").read_text(encoding="utf-8").splitlines()
    pairs = (pin.split("==") for pin in pins if "==" in pin and not pin.startswith("#"))
    return {re.sub(r"[-_.]+", "-", name).lower(): wanted.strip() for name, wanted in pairs}
