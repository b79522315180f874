"""Reflectors, by the ``type`` of their config: one line each. A new one is one file and one line."""

from __future__ import annotations

import importlib

from fastslow.config import ReflectorConfig
from fastslow.fast.base import Reflector
from fastslow.fast.reflect.policy import Generate

# Named, not imported: only the endpoint needs the HTTP client, which takes a second to import.
REFLECTORS = {
    "feedback": "fastslow.fast.reflect.feedback:FeedbackReflector",
    "endpoint": "fastslow.fast.reflect.endpoint:EndpointReflector",
    "policy": "fastslow.fast.reflect.policy:PolicyReflector",
}


def build_reflector(config: ReflectorConfig, generate: Generate | None = None) -> Reflector:
    """The reflector that ``config.fast.reflector`` asks for; ``generate`` is the policy's voice, if there is one."""
    module, name = REFLECTORS[config.type].split(":")
    return getattr(importlib.import_module(module), name).from_config(config, generate)
