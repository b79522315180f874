"""What a checkpoint of the trainer lacks: population, archive, counters and a reflector's spending, in one JSON file
beside the weights, optimizer, scheduler and random states that the trainer saves itself."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from fastslow.errors import RunError
from fastslow.runs.files import read_json, write_json
from fastslow.runs.state import RunState

STATE_FILE = "fastslow.json"
FORMAT = 1
_NAME = re.compile(r"checkpoint-(\d+)")


class StateWriter(TrainerCallback):
    """Writes ``fastslow.json`` last into every checkpoint: one that has it is whole."""

    def __init__(self, collect: Callable[[], dict[str, Any]]) -> None:
        self.collect = collect

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if args.should_save:
            folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            write_json(folder / STATE_FILE, {"format": FORMAT, **self.collect()})


def newest_checkpoint(folder: str | Path) -> Path | None:
    """The newest whole checkpoint in ``folder``, or None; what a kill left half written is passed over."""
    folder = Path(folder)
    found = [p for p in folder.iterdir() if _NAME.fullmatch(p.name)] if folder.is_dir() else []
    whole = [p for p in found if (p / STATE_FILE).is_file()]
    return max(whole, key=lambda p: int(p.name.rpartition("-")[2]), default=None)


def read_state(checkpoint: str | Path) -> dict[str, Any]:
    """The stored state; raises :class:`RunError` where the checkpoint has none."""
    path = Path(checkpoint) / STATE_FILE
    if not path.is_file():
        good = newest_checkpoint(Path(checkpoint).parent)
        mend = f"resume from {good}" if good else "start anew"
        raise RunError(f"{checkpoint}: no {STATE_FILE} in it (a save cut short, or a checkpoint of plain GRPO); {mend}")
    data = read_json(path)
    if data.get("format") != FORMAT:
        raise RunError(f"{path}: format {data.get('format')}, known here: {FORMAT}; use the version that wrote it")
    return data


def run_state(data: dict[str, Any]) -> RunState:
    return RunState.from_dict(data["state"])
