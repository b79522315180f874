"""The model reflects on itself: the policy under training also edits its own contexts."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from fastslow.config import PolicyReflector as PolicyReflectorConfig
from fastslow.errors import ConfigError
from fastslow.fast.base import Proposal, Record
from fastslow.fast.reflect.prompt import BadReply, build_prompt, pick_component, read_reply
from fastslow.types import Context

Generate = Callable[[str, int], tuple[str, str]]
"""(prompt, seed) -> (reply, finish reason ``stop`` or ``length``), under the current weights."""


class PolicyReflector:
    """Asks ``generate`` for an edit; the reply is read as strictly as an endpoint's."""

    name = "policy"

    def __init__(self, generate: Generate) -> None:
        self.generate = generate

    @classmethod
    def from_config(cls, config: PolicyReflectorConfig, generate: Generate | None) -> PolicyReflector:
        if generate is None:
            raise ConfigError(
                "fast.reflector.type: policy needs a model that can generate; use feedback or endpoint here"
            )
        return cls(generate)

    def propose(self, context: Context, records: Sequence[Record], components: Sequence[str], seed: int) -> Proposal:
        started = time.monotonic()
        try:
            component = pick_component(components, seed)
            text, finish_reason = self.generate(build_prompt(context, component, records), seed)
            new, reason = read_reply(text, finish_reason)
        except BadReply as error:
            return Proposal(None, str(error), calls=1, seconds=time.monotonic() - started)
        return Proposal({component: new}, reason, calls=1, seconds=time.monotonic() - started)
