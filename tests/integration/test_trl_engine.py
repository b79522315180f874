"""``engine: trl`` in a config, on one process with a tiny model.

Behaviours locked: the run's folder is a local run's (metrics, ledger, contexts, summary), so tables and measuring read
it; a run resumed after more steps were asked for ends as an unbroken one; wrong settings are one line and leave no
folder; every shipped accelerate config is one that accelerate reads.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from accelerate.commands.config.config_args import load_config_from_file
from safetensors.torch import load_file
from trl_fakes import tiny_folder

from fastslow.config import config_dir
from fastslow.config_io import load_config, override_config, parse_config
from fastslow.engines import pick_engine
from fastslow.engines.trl import train
from fastslow.engines.trl_args import trainer_args
from fastslow.errors import ConfigError, FastslowError
from fastslow.measure.sources import open_run
from fastslow.policy import compute
from fastslow.runs.directory import RunDirectory
from fastslow.runs.metrics import read_metrics
from fastslow.runs.summary import read_summary

ROOT = Path(__file__).resolve().parents[2]
SCORER = "def odd(question, answer, completion, metadata):\n    return float(sum(map(ord, completion)) % 2)\n"


@pytest.fixture(autouse=True)
def _offline(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_DISABLE_TELEMETRY", "1")


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("place")
    tiny_folder(place / "model")
    rows = [json.dumps({"question": f"Word number {i}?", "answer": "a"}) for i in range(16)]
    (place / "rows.jsonl").write_text("\n".join(rows) + "\n")
    (place / "trl_test_scorer.py").write_text(SCORER)
    return place


def config(place: Path, *changes: str):
    data = {
        "engine": "trl",
        "steps": 3,
        "model": {
            "name": str(place / "model"),
            "device": "cpu",
            "threads": 1,
            "train_dtype": "float32",
            "float32_matmul": "default",
        },
        "task": {"path": str(place / "rows.jsonl"), "scorer": "trl_test_scorer:odd", "train_size": 12, "val_size": 4},
        "sampling": {"max_new_tokens": 6},
        "fast": {"population": 2, "every": 2, "budget": 24},
        "slow": {"group_size": 4, "problems_per_step": 2, "lr": 1e-3, "warmup": 2, "kl": 0.01, "truncated": "zero"},
        "evaluation": {"every": 2},
        "checkpoint_every": 2,
    }
    return override_config(parse_config(data), changes)


def weights(run: Path, step: int) -> dict:
    return load_file(run / "checkpoints" / f"step-{step:06d}" / "weights.safetensors")


def test_a_run_leaves_what_a_local_run_leaves_and_resumes(place, tmp_path, monkeypatch):
    monkeypatch.chdir(place)
    whole, part = tmp_path / "whole", tmp_path / "part"
    settings = config(place)
    assert pick_engine(settings) is train
    summary = train(settings, whole)
    assert summary == read_summary(RunDirectory(whole).summary_path)
    lines = read_metrics(RunDirectory(whole).metrics_path)
    assert [(line["kind"], line["step"]) for line in lines] == [
        ("evaluation", 0), ("fast", 0), ("slow", 1), ("slow", 2), ("evaluation", 2), ("fast", 2), ("slow", 3),
        ("evaluation", 3),
    ]  # fmt: skip
    slow = [line for line in lines if line["kind"] == "slow"]
    assert [line["lr"] for line in slow] == pytest.approx([5e-4, 1e-3, 1e-3])  # of the step itself, warmed up
    assert summary.rollouts.slow == 24 and 0 < summary.rollouts.fast <= 48 and summary.rollouts.evaluation > 0
    assert summary.accuracy is not None and set(summary.drift) == {"seed_context", "evolved_context"}
    assert sorted(p.name for p in (whole / "contexts").iterdir()) == ["cycle-0000.json", "cycle-0001.json"]
    opened = open_run(whole)
    assert opened.population.best.id == json.loads((whole / "contexts" / "cycle-0001.json").read_text())["contexts"][0]
    assert opened.trained_policy().weights_step == 3

    train(config(place, "steps=2"), part)
    train(settings, part, resume=True)
    again, first = weights(part, 3), weights(whole, 3)
    assert again.keys() == first.keys() and all((again[n] == first[n]).all() for n in first)
    kinds = [(line["kind"], line["step"]) for line in read_metrics(RunDirectory(part).metrics_path)]
    assert kinds == [(line["kind"], line["step"]) for line in lines]
    assert train(settings, part, resume=True).steps == 3  # finished: nothing is done twice


def test_rl_and_adapters(place, tmp_path, monkeypatch):
    monkeypatch.chdir(place)
    settings = config(place, "method=rl", "steps=1", "model.lora.rank=2", "max_rollouts=8")
    summary = train(settings, tmp_path / "rl")
    assert (summary.rollouts.fast, summary.rollouts.slow, summary.steps) == (0, 8, 1)
    stored = weights(tmp_path / "rl", 1)
    assert stored and all("lora_" in name for name in stored)
    assert open_run(tmp_path / "rl").trained_policy() is not None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("slow.loss=gspo", "slow.loss: gspo is not in engine: trl"),
        ("trl.gradient_accumulation_steps=3", "8 rollouts don't divide over 1 processes x 3 steps"),
        ("trl.options.vllm_gpu_memory_utilisation=0.3", "no argument of GRPOConfig; vllm_gpu_memory_utilization"),
        ("trl.options.learning_rate=1e-6", "is set by the config's own keys"),
        ("model.name=./nowhere", "no such folder"),
    ],
)
def test_what_cannot_work_is_one_line_and_leaves_no_folder(place, tmp_path, change, message):
    with pytest.raises(FastslowError, match=message) as caught:
        train(config(place, change), tmp_path / "run")
    assert "\n" not in str(caught.value) and not (tmp_path / "run").exists()


def test_gepa_is_local_whatever_the_engine(place):
    assert pick_engine(config(place, "method=gepa")).__module__ == "fastslow.engines.local"


@pytest.mark.parametrize("path", sorted((ROOT / "configs" / "paper").glob("*.yaml")), ids=lambda p: p.stem)
def test_the_papers_settings(path, tmp_path):
    loaded = load_config(path)
    slow = loaded.slow
    engine = "local" if loaded.schedule else "trl"  # which runs no schedule
    assert (loaded.engine, slow.group_size, loaded.fast.every, slow.problems_per_step) == (engine, 8, 6, 32)
    assert loaded.fast.population == (8 if path.stem.endswith("_k8") else 4) and loaded.fast_budget == 960
    assert (slow.loss, slow.cap, slow.kl) == ("cispo", 4.0, 0.001)
    if engine == "local":
        return
    small = override_config(loaded, ["model.device=cpu", "trl.use_vllm=false", "trl.report_to=[]"])
    args = trainer_args(small, str(tmp_path), processes=8)
    assert (args.loss_type, args.epsilon_high, args.beta, args.per_device_train_batch_size) == ("cispo", 4.0, 0.001, 2)
    with pytest.raises(ConfigError, match="don't divide over 3 processes"):
        trainer_args(small, str(tmp_path), processes=3)


@pytest.mark.parametrize("path", sorted((ROOT / "configs" / "accelerate").glob("*.yaml")), ids=lambda p: p.stem)
def test_accelerate_reads_its_configs(path):
    loaded = load_config_from_file(str(path))
    kind = {"ddp": "MULTI_GPU", "fsdp2": "FSDP", "zero3": "DEEPSPEED", "cpu": "MULTI_GPU"}[path.stem]
    assert str(loaded.distributed_type).endswith(kind)
    assert loaded.use_cpu is (path.stem == "cpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="about a machine without GPU")
def test_without_a_gpu_auto_may_be_bfloat16(tmp_path, monkeypatch):
    """The trainer refuses bfloat16 unless it is told that the CPU is meant, also where ``auto`` found it."""
    monkeypatch.setattr(compute, "decoding_seconds", lambda: {torch.float32: 4.0, torch.bfloat16: 1.0})
    args = trainer_args(load_config(config_dir() / "demo.yaml", ["engine=trl"]), str(tmp_path), processes=1)
    assert args.bf16 and args.use_cpu and args.cast_lm_head_to_fp32
