"""Every name of TRL that is not public and that we lean on, in this one place, with a check that says when one moves.

Tested with TRL 1.16. The public parts are ``rollout_func``, ``GRPOConfig``, the trainer's callbacks, ``train`` and
``log``; what they can't do is done through the names below:

* ``_generate_single_turn``: sample from prompt token ids with transformers, vLLM colocated or a vLLM server, whatever
  shards the model;
* ``_generate_and_score_completions``: its result is where advantages and token weights are put in;
* ``_calculate_rewards``: its result is what those are computed from; the fast phase scores through it too;
* the keys of the batch in ``BATCH_KEYS``.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import trl
from trl import GRPOTrainer

from fastslow.errors import EngineError

TESTED = ("1.16",)
"""Minor versions of TRL whose private names were checked by the tests."""

SIGNATURES: dict[str, tuple[str, ...]] = {
    "_generate_single_turn": ("self", "prompt_ids", "images", "multimodal_fields", "num_generations"),
    "_generate_and_score_completions": ("self", "inputs"),
    "_calculate_rewards": ("self", "inputs", "prompts", "completions", "completion_ids_list"),
    "_compute_loss": ("self", "model", "inputs"),
}
"""Methods of ``GRPOTrainer``, with the parameters they must begin with."""

BATCH_KEYS = ("prompt_ids", "completion_ids", "completion_mask", "advantages", "num_items_in_batch")
"""What ``_generate_and_score_completions`` must return; ``tool_mask``, which weighs the tokens, may be absent."""

LOSS_READS = ('completion_mask * inputs["tool_mask"]', 'inputs["num_items_in_batch"]', "old_per_token_logps")
"""What ``_compute_loss`` must make of the batch: the mask that weighs a token, and the divisor of the sum."""


def check_trl(trainer: type = GRPOTrainer) -> None:
    """Raise :class:`EngineError` with one line where TRL's inside is not the one we know."""
    for name, wanted in SIGNATURES.items():
        method = getattr(trainer, name, None)
        if method is None:
            raise EngineError(_moved(f"GRPOTrainer.{name} is gone"))
        found = tuple(inspect.signature(inspect.unwrap(method)).parameters)
        if found[: len(wanted)] != wanted:
            raise EngineError(_moved(f"GRPOTrainer.{name} takes {found[1:]}, not {wanted[1:]}"))
    source = inspect.getsource(inspect.unwrap(trainer._compute_loss))
    for text in LOSS_READS:
        if text not in source:
            raise EngineError(_moved(f"GRPOTrainer._compute_loss no longer reads {text}"))


def check_batch(batch: dict[str, Any]) -> None:
    """Raise :class:`EngineError` where a generated batch lacks a key that we write or read."""
    missing = [key for key in BATCH_KEYS if key not in batch]
    if missing:
        raise EngineError(_moved(f"a generated batch has no {', '.join(missing)}"))


def is_tested() -> bool:
    """Whether the TRL at hand is one that the tests ran with."""
    return any(version("trl").startswith(f"{minor}.") for minor in TESTED)


def generate(
    trainer: GRPOTrainer, prompts: Sequence[Sequence[int]]
) -> tuple[list[list[int]], list[list[float | None]] | None]:
    """One completion for each prompt of this process: its token ids and, from vLLM alone, their log-probabilities.

    All processes must call it together, each with the same number of prompts.
    """
    return trainer._generate_single_turn([list(ids) for ids in prompts], None, {}, 1)


def _moved(what: str) -> str:
    tested = " or ".join(f"{minor}.*" for minor in TESTED)
    return f"trl {trl.__version__}: {what}; install trl {tested} (pip install 'trl~={TESTED[-1]}.0')"
