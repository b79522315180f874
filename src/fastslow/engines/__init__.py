"""Who runs a config: one process here, or TRL on many devices."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fastslow.config import RunConfig
    from fastslow.runs.summary import RunSummary


def pick_engine(config: RunConfig) -> Callable[..., RunSummary]:
    """``train(config, out, *, resume, progress)`` of the engine that ``config`` names.

    ``method: gepa`` trains no weights, so there is nothing to spread: it is local whatever the config names.
    """
    if config.engine == "trl" and config.method != "gepa":
        from fastslow.engines.trl import train
    else:
        from fastslow.engines.local import train
    return train


def is_main_process() -> bool:
    """Whether this process is the one of its launcher (``accelerate launch``, ``torchrun``) that writes and prints."""
    return int(os.environ.get("RANK", "0")) == 0
