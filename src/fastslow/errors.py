"""Errors a user can mend. The command line prints their one line and exits with 2; nothing else is caught there."""

from __future__ import annotations


class FastslowError(Exception):
    """Something the user can mend; the message is one line that names the field and the mend."""


class ConfigError(FastslowError):
    """A config value is unknown, missing, or at odds with another."""


class TaskError(FastslowError):
    """A dataset or a scorer can't be used as given."""


class ModelError(FastslowError):
    """A model or its tokenizer can't be loaded or used as asked."""


class EndpointError(FastslowError):
    """A reflection endpoint refuses or can't be reached."""


class RunError(FastslowError):
    """A run directory or a checkpoint can't be used."""


class EngineError(FastslowError):
    """An engine, or the library under it, can't run what is asked."""
