"""A run keeps the dtypes and the matrix products that ``auto`` came to when it began.

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
from fastslow.runs.settled import settle_compute

AUTO = ModelConfig(device="cpu", float32_matmul="default")


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
    assert dtypes(settle_compute(AUTO, run)) == ("bfloat16", "bfloat16")
    measured.append(torch.float32)
    assert dtypes(settle_compute(AUTO, run)) == ("bfloat16", "bfloat16")
    assert dtypes(settle_compute(AUTO, RunDirectory(tmp_path / "other"))) == ("float32", "float32")


def test_only_auto_is_settled(tmp_path, measured):
    named = ModelConfig(device="cpu", sampling_dtype="float32", train_dtype="float32", float32_matmul="onednn")
    assert settle_compute(named, RunDirectory(tmp_path)) is named
    assert list(tmp_path.iterdir()) == []
    half = settle_compute(AUTO.model_copy(update={"train_dtype": "float32"}), RunDirectory(tmp_path))
    assert dtypes(half) == ("bfloat16", "float32")


@pytest.mark.parametrize("text", ["", "[]", "{}", json.dumps({"sampling_dtype": "int4", "train_dtype": "float32"})])
def test_a_damaged_file_is_one_line(tmp_path, text):
    run = RunDirectory(tmp_path)
    run.settled_path.write_text(text)
    with pytest.raises(RunError, match=r"settled\.json: cannot be read") as error:
        settle_compute(AUTO, run)
    assert "\n" not in str(error.value)


def test_a_run_that_never_began_leaves_no_file(tmp_path, measured):
    config = RunConfig(task={"name": "chain_sum"})
    with RunDirectory.create(tmp_path / "run", config) as run:
        settle_compute(AUTO, run)
        run.discard()
    assert not (tmp_path / "run").exists()


def test_matrix_products_are_settled_too(tmp_path, measured, monkeypatch):
    times = {"default": 2.0, "onednn": 1.0}
    monkeypatch.setattr(compute, "_matmuls", lambda: (times, {"default": 1e-6, "onednn": 3e-6}))
    monkeypatch.setattr(compute, "set_matmul", lambda name: None)
    auto = ModelConfig(device="cpu")
    assert settle_compute(auto, RunDirectory(tmp_path)).float32_matmul == "onednn"
    times["default"] = 0.1
    assert settle_compute(auto, RunDirectory(tmp_path)).float32_matmul == "onednn"
    assert settle_compute(auto, RunDirectory(tmp_path / "other")).float32_matmul == "default"


def test_products_that_are_faster_by_being_less_exact_are_not_taken(monkeypatch):
    monkeypatch.setattr(
        compute, "_matmuls", lambda: ({"default": 2.0, "onednn": 1.0}, {"default": 1e-6, "onednn": 1e-3})
    )
    assert compute.pick_matmul("auto", torch.device("cpu")) == "default"
    assert compute.pick_matmul("onednn", torch.device("cpu")) == "onednn"


def test_measuring_leaves_the_switch_as_it_was():
    before = torch.backends.mkldnn.matmul.fp32_precision
    compute._matmuls.cache_clear()
    seconds, errors = compute._matmuls()
    assert torch.backends.mkldnn.matmul.fp32_precision == before
    assert all(0 < s < 1 for s in seconds.values()) and all(0 < e < 1e-2 for e in errors.values())
