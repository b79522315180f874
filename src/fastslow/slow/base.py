"""The SlowLearner protocol: who moves the weights from scored groups."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from fastslow.types import Group


class SlowLearner(Protocol):
    """One call is one optimizer step. ``state`` and ``load_state`` serve checkpoints."""

    def update(self, groups: Sequence[Group]) -> dict[str, float]:
        """Move the weights; returns metrics (loss, grad_norm, lr, kl in nats, flat_groups, tokens, …)."""
        ...

    def state(self) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
        """(tensor groups by name, JSON-ready values)."""
        ...

    def load_state(self, tensors: dict[str, dict[str, Any]], state: dict[str, Any]) -> None: ...
