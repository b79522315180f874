"""Whatever was sampled or scored carries the weights step that made it; under any other step it is refused."""

from __future__ import annotations


class StaleError(RuntimeError):
    """Something made under other weights was about to be used as current; the line names both weights steps."""


def require_current(what: str, made_under: int, current: int) -> None:
    """Raise :class:`StaleError` unless ``what`` was made under the weights step ``current``."""
    if made_under != current:
        raise StaleError(
            f"{what}: made under the weights of step {made_under}, but the weights are those of step {current}; "
            "sample and score again"
        )
