"""A run keeps the dtypes that ``auto`` came to when it began.

Locks: measured once, and read on resume whatever would be measured then; what was asked for by name is not settled; a
damaged file is one line; a run that never began leaves none behind.
"""

from __future__ import annotations

import json

import pytest
import torch

from fastslow.config import ModelConfig, RunConfig
from fastslow.errors import RunError
from fastslow.policy import compute
from fastslow.runs.directory import RunDirectory
from fastslow.runs.settled import settle_dtypes

AUTO = ModelConfig(device="cpu")


@pytest.fixture
def measured(monkeypatch) -> list[torch.dtype]:
    """What a measurement finds from now on."""
    found = [torch.bfloat16]
    seconds = {torch.bfloat16: {torch.float32: 4.0, torch.bfloat16: 1.0}, torch.float32: {torch.float32: 1.0}}
    seconds[torch.float32][torch.bfloat16] = 7.0
    monkeypatch.setattr(compute, "decoding_seconds", lambda: seconds[found[-1]])
    return found


def dtypes(model: ModelConfig) -> tuple[str, str]:
    return model.sampling_dtype, model.train_dtype


def test_resume_keeps_what_was_measured_first(tmp_path, measured):
    run = RunDirectory(tmp_path)
    assert dtypes(settle_dtypes(AUTO, run)) == ("bfloat16", "bfloat16")
    measured.append(torch.float32)
    assert dtypes(settle_dtypes(AUTO, run)) == ("bfloat16", "bfloat16")
    assert dtypes(settle_dtypes(AUTO, RunDirectory(tmp_path / "other"))) == ("float32", "float32")


def test_only_auto_is_settled(tmp_path, measured):
    named = ModelConfig(device="cpu", sampling_dtype="float32", train_dtype="float32")
    assert settle_dtypes(named, RunDirectory(tmp_path)) is named
    assert list(tmp_path.iterdir()) == []
    half = settle_dtypes(ModelConfig(device="cpu", train_dtype="float32"), RunDirectory(tmp_path))
    assert dtypes(half) == ("bfloat16", "float32")


@pytest.mark.parametrize("text", ["", "[]", "{}", json.dumps({"sampling_dtype": "int4", "train_dtype": "float32"})])
def test_a_damaged_file_is_one_line(tmp_path, text):
    run = RunDirectory(tmp_path)
    run.settled_path.write_text(text)
    with pytest.raises(RunError, match=r"settled\.json: cannot be read") as error:
        settle_dtypes(AUTO, run)
    assert "\n" not in str(error.value)


def test_a_run_that_never_began_leaves_no_file(tmp_path, measured):
    config = RunConfig(task={"name": "chain_sum"})
    with RunDirectory.create(tmp_path / "run", config) as run:
        settle_dtypes(AUTO, run)
        run.discard()
    assert not (tmp_path / "run").exists()
