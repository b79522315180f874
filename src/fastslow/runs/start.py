"""Starting from another run's weights: ``model.init_from``, a run's folder or one of its checkpoints."""

from __future__ import annotations

from pathlib import Path

from fastslow.config import ModelConfig, RunConfig
from fastslow.errors import ConfigError, RunError
from fastslow.policy.loading import StartWeights, load_policy
from fastslow.policy.model import Policy
from fastslow.runs.checkpoint import load_checkpoint, newest_checkpoint
from fastslow.runs.directory import RunDirectory


def load_started_policy(config: ModelConfig) -> Policy:
    """:func:`~fastslow.policy.loading.load_policy`, with the weights of ``config.init_from`` where that is set."""
    return load_policy(config, start_weights(config))


def pin_start(config: RunConfig) -> RunConfig:
    """``config`` with ``model.init_from`` naming the very checkpoint, since a run's newest may change.

    Raises :class:`RunError` where there is none, :class:`ConfigError` where it belongs to another model.
    """
    if config.model.init_from is None:
        return config
    checkpoint = find_checkpoint(config.model.init_from)
    _source_model(checkpoint, config.model)
    return config.model_copy(update={"model": config.model.model_copy(update={"init_from": str(checkpoint)})})


def find_checkpoint(source: str | Path) -> Path:
    """The newest checkpoint of a run's folder, or ``source`` itself where it is a checkpoint."""
    path = Path(source).expanduser()
    run = RunDirectory(path)
    if run.config_path.is_file():
        newest = newest_checkpoint(run.checkpoints)
        if newest is None:
            raise RunError(f"{path}: no checkpoint yet; let the run reach its first one")
        return newest
    if (path / "manifest.json").is_file() and RunDirectory(path.parent.parent).config_path.is_file():
        return path
    raise RunError(f"model.init_from: {source}: no run and no checkpoint of a run; give the folder of either")


def start_weights(config: ModelConfig) -> tuple[StartWeights, ...]:
    """What ``config.init_from`` stands for, in the order to put it in; empty where it is None.

    A run of adapters holds only these, so what that run itself started from comes first.
    """
    if config.init_from is None:
        return ()
    checkpoint = find_checkpoint(config.init_from)
    source = _source_model(checkpoint, config)
    tensors, _ = load_checkpoint(checkpoint, only={"weights"})
    if "weights" not in tensors:
        raise RunError(f"{checkpoint}: holds no weights; choose another checkpoint")
    earlier = start_weights(source) if source.lora is not None else ()
    return (*earlier, StartWeights(tensors["weights"], source.lora))


def _source_model(checkpoint: Path, config: ModelConfig) -> ModelConfig:
    run = RunDirectory(checkpoint.parent.parent)
    model = run.load_config().model
    if (model.name, model.revision) != (config.name, config.revision):
        raise ConfigError(
            f"model.init_from: {run.path} trained {model.name}, but model.name is {config.name}; set model.name to it"
        )
    return model
