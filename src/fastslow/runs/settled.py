"""What ``auto`` came to when a run began. It is measured, so a busy moment or another machine could measure otherwise,
and a resumed run in another dtype would not be the same run."""

from __future__ import annotations

from fastslow.config import ModelConfig
from fastslow.errors import RunError
from fastslow.policy import compute
from fastslow.runs.directory import RunDirectory
from fastslow.runs.files import read_json, write_json

_DTYPES = ("sampling_dtype", "train_dtype")


def settle_dtypes(model: ModelConfig, run: RunDirectory) -> ModelConfig:
    """``model`` with its dtypes as this run has them: measured and written down once, then read.

    Raises :class:`RunError` where the file is damaged, :class:`ModelError` where the device can't be used.
    """
    if "auto" not in (model.sampling_dtype, model.train_dtype):
        return model
    path = run.settled_path
    if not path.exists():
        device = compute.pick_device(model.device)
        found = {key: str(compute.pick_dtype(getattr(model, key), device)).removeprefix("torch.") for key in _DTYPES}
        write_json(path, found)
    try:
        stored = read_json(path)
        settled = {key: stored[key] for key in _DTYPES}
        return ModelConfig.model_validate({**model.model_dump(), **settled})
    except (ValueError, KeyError, TypeError):  # pydantic's and JSON's errors are ValueErrors
        raise RunError(f"{path}: cannot be read; write in the dtypes that the run began with, or start anew") from None
