"""Fast-Slow Training on TRL: ``FSTTrainer`` is a ``GRPOTrainer`` whose rollouts run under evolving contexts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastslow.errors import EngineError

if TYPE_CHECKING:
    from fastslow.trl.config import FSTConfig
    from fastslow.trl.trainer import FSTTrainer

__all__ = ["FSTConfig", "FSTTrainer"]

_HOMES = {"FSTConfig": "fastslow.trl.config", "FSTTrainer": "fastslow.trl.trainer"}


def __getattr__(name: str) -> Any:
    """Loaded when asked for: TRL takes seconds to import."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    try:
        importlib.import_module("trl")
    except ImportError as error:
        raise EngineError(f"TRL can't be imported ({error}); pip install 'fastslow[trl]'") from error
    return getattr(importlib.import_module(_HOMES[name]), name)
