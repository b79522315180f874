"""The tiny run that the fault tests break: its folder, its config, what it said and what it saved."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from tiny_models import save_tiny

from fastslow.config import RunConfig
from fastslow.config_io import parse_config
from fastslow.progress import describe
from fastslow.runs.checkpoint import load_latest
from fastslow.runs.metrics import read_metrics

SCORER = "def score(question, answer, completion, metadata):\n    return float(len(completion) % 2)\n"


def make_home(folder: Path) -> Path:
    """The folder of a tiny model, its data and its scorer."""
    save_tiny(folder / "model")
    rows = [{"question": f"Which word is number {i} of them all?", "answer": f"word{i}"} for i in range(16)]
    (folder / "data.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    (folder / "even_scorer.py").write_text(SCORER)
    return folder


def config(home: Path, method: str = "rl", **changes) -> RunConfig:
    data = {
        "method": method,
        "steps": 4,
        "model": {"name": str(home / "model"), "threads": 1, "sampling_dtype": "float32", "train_dtype": "float32",
                  "float32_matmul": "default"},
        "task": {
            "path": str(home / "data.jsonl"), "scorer": "even_scorer:score", "check_gold": False,
            "train_size": 12, "val_size": 4,
        },
        "sampling": {"max_new_tokens": 5, "stop": list("etaoinshrdluABC ")},
        "fast": {"population": 2, "every": 2, "budget": 12, "proposals": 1},
        "slow": {"group_size": 4, "problems_per_step": 4, "lr": 1e-2, "warmup": 2, "kl": 0.0},
        "evaluation": {"every": 0},
        "checkpoint_every": 1,
        "keep_checkpoints": 9,
    }  # fmt: skip
    for key, value in changes.items():
        data[key] = {**data[key], **value} if isinstance(data.get(key), dict) else value
    return parse_config(data)


class Said:
    """Keeps what a run shows: one line an event, and its notes."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, text) -> None:
        self.lines.append(text)

    def show(self, kind, state, values) -> None:
        self.lines.append(describe(kind, state, values))

    def __str__(self) -> str:
        return "\n".join(self.lines)


def slow_lines(folder: Path) -> list[dict]:
    return [line for line in read_metrics(folder / "metrics.jsonl") if line["kind"] == "slow"]


def saved_weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_latest(folder / "checkpoints")[1]["weights"]
