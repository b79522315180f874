"""The model reflects on itself: the policy under training also edits its own contexts."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from fastslow.config import PolicyReflector as PolicyReflectorConfig
from fastslow.errors import ConfigError
from fastslow.fast.base import Proposal, Record
from fastslow.fast.reflect.prompt import BadReply, build_prompt, pick_component, read_reply, text_hash
from fastslow.types import Context

Generate = Callable[[str, int], tuple[str, str] | tuple[str, str, int]]
"""(prompt, seed) -> (reply, finish reason ``stop`` or ``length``, and the tokens read and written, where they are
counted), under the current weights."""


class _Reply(NamedTuple):
    text: str
    finish_reason: str
    tokens: int = 0


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
        prompt_hash, reply = "", _Reply("", "")
        new: dict[str, str] | None = None
        try:
            component = pick_component(components, seed)
            prompt = build_prompt(context, component, records)
            prompt_hash = text_hash(prompt)
            reply = _Reply(*self.generate(prompt, seed))
            text, reason = read_reply(reply.text, reply.finish_reason)
            new = {component: text}
        except BadReply as error:
            reason = str(error)
        seconds = time.monotonic() - started
        return Proposal(new, reason, calls=1, tokens=reply.tokens, seconds=seconds, prompt_hash=prompt_hash)
