"""``fastslow doctor``: what this machine has, what a config would need, what is wrong and how to mend it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from fastslow.config import ModelConfig
from fastslow.config_io import load_config
from fastslow.doctor.findings import Finding, Status, problem, problems
from fastslow.doctor.machine import examine_machine
from fastslow.doctor.run import examine_run
from fastslow.doctor.software import examine_software
from fastslow.errors import ConfigError

__all__ = ["Finding", "Status", "examine", "problems"]


def examine(config_path: Path | None = None, overrides: Iterable[str] = (), out: Path = Path("runs")) -> list[Finding]:
    """Every finding about this machine and, if a config is given, about a run of it in ``out``. Takes some seconds."""
    config, unusable = None, []
    if config_path is not None:
        try:
            config = load_config(config_path, overrides)
        except ConfigError as error:
            unusable = [problem("config", str(error), "")]
    model = config.model if config is not None else ModelConfig()
    found = [*examine_machine(out, model.threads, model.device), *examine_software(model.name), *unusable]
    return found if config is None else [*found, *examine_run(config, out)]
