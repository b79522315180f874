"""The Sampler protocol: who turns requests into completions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from fastslow.types import Completion, Context, Request


class Sampler(Protocol):
    """Samples under the weights of ``weights_step``. The same requests in the same order give the same text on CPU."""

    weights_step: int

    def sample(self, requests: Sequence[Request]) -> list[list[Completion]]:
        """One list of ``n`` completions per request, in the order of the requests."""
        ...

    def context_tokens(self, context: Context) -> int:
        """Tokens that the context adds in front of every problem."""
        ...
