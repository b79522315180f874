"""What ``auto`` came to when a run began. It is measured, so a busy moment or another machine could measure otherwise,
and a resumed run in other arithmetic would not be the same run."""

from __future__ import annotations

from fastslow.config import ModelConfig
from fastslow.errors import RunError
from fastslow.policy import compute
from fastslow.runs.directory import RunDirectory
from fastslow.runs.files import read_json, write_json

_KEYS = ("sampling_dtype", "train_dtype", "float32_matmul")


def settle_compute(model: ModelConfig, run: RunDirectory) -> ModelConfig:
    """``model`` with dtypes and matrix products as this run has them: measured and written down once, then read.

    Raises :class:`RunError` where the file is damaged, :class:`ModelError` where the device can't be used.
    """
    if "auto" not in (getattr(model, key) for key in _KEYS):
        return model
    path = run.settled_path
    if not path.exists():
        device = compute.pick_device(model.device)
        matmul = compute.pick_matmul(model.float32_matmul, device)
        compute.set_matmul(matmul)  # float32 is to be compared as it will be used
        dtypes = (compute.pick_dtype(d, device) for d in (model.sampling_dtype, model.train_dtype))
        found = [*(str(d).removeprefix("torch.") for d in dtypes), matmul]
        write_json(path, dict(zip(_KEYS, found, strict=True)))
    try:
        stored = read_json(path)
        settled = {key: stored[key] for key in _KEYS}
        return ModelConfig.model_validate({**model.model_dump(), **settled})
    except (ValueError, KeyError, TypeError):  # pydantic's and JSON's errors are ValueErrors
        raise RunError(f"{path}: cannot be read; write in what the run began with, or start anew") from None
