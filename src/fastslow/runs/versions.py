"""Versions of what a result depends on, for checkpoints and summaries."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

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
