"""The end of a TRL run as a checkpoint of a run: so ``fastslow eval`` and its kin read it as any other."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from fastslow.config import RunConfig
from fastslow.errors import RunError
from fastslow.runs.checkpoint import save_checkpoint
from fastslow.runs.directory import RunDirectory
from fastslow.runs.state import RunState
from fastslow.trl.checkpoint import newest_checkpoint

if TYPE_CHECKING:
    from torch import Tensor

_ADAPTER = re.compile(r"\.(lora_[AB])\.weight$")


def export_weights(run: RunDirectory, config: RunConfig, state: RunState) -> Path:
    """Write ``checkpoints/step-…`` from the trainer's newest checkpoint, which holds whole weights or an adapter."""
    source = newest_checkpoint(run.checkpoints)
    if source is None:
        raise RunError(f"{run.checkpoints}: the run ended without a checkpoint; resume it")
    weights = {_policy_name(name): tensor for name, tensor in _tensors(source)}
    learner = {"updates": state.step}
    saved = {"state": state.to_dict(), "learner": learner, "method": config.method, "engine": "trl"}
    return save_checkpoint(run.checkpoints, state.step, {"weights": weights}, saved, config.keep_checkpoints)


def _tensors(folder: Path) -> Iterator[tuple[str, Tensor]]:
    from safetensors.torch import load_file

    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise RunError(
            f"{folder}: no whole weights in it; merge the shards first (accelerate merge-weights; for FSDP, "
            "fsdp_state_dict_type: FULL_STATE_DICT saves them whole)"
        )
    for file in files:
        yield from load_file(file).items()


def _policy_name(name: str) -> str:
    """An adapter's weights are stored without the adapter's own name."""
    return _ADAPTER.sub(r".\1.default.weight", name)
