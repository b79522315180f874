"""One process of a two-process run; writes what it ended with to ``<out>/rank<r>.json``. Not a test of its own."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "unit"))

import torch
from accelerate import PartialState
from accelerate.utils import DistributedType
from torch.distributed.tensor import DTensor
from transformers import TrainerCallback
from trl_fakes import Notes, ParityTask, settings, trainer


class KilledAt(TrainerCallback):
    """The second process dies after ``step`` steps, as a machine does."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args, state, control, **_) -> None:
        if state.global_step == self.step and os.environ["RANK"] == "1":
            os.kill(os.getpid(), signal.SIGKILL)


class Fails(ParityTask):
    """Its scorer breaks on the second process, in the middle of the fast phase."""

    calls = 0

    def score(self, problem, completion):
        self.calls += 1
        if os.environ["RANK"] == "1" and self.calls > 3:
            raise ValueError("the scorer broke")
        return super().score(problem, completion)


def whole(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--kill-at", type=int, default=0)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--fail", action="store_true")
    parser.add_argument("--fsdp2", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    # One problem a step: its eight rollouts span both processes.
    args = settings(
        given.out, per_device_train_batch_size=2, gradient_accumulation_steps=2, num_generations=8, max_steps=4,
        save_strategy="steps", save_steps=2, ddp_timeout=60, ddp_find_unused_parameters=False,
    )  # fmt: skip
    if given.fsdp2:  # accelerate shards on accelerators alone; told that this is one, it shards here
        PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
    notes = Notes()
    fst = trainer(given.model, args, task=(Fails if given.fail else ParityTask)(), listener=notes)
    if given.kill_at:
        fst.add_callback(KilledAt(given.kill_at))
    fst.train(resume_from_checkpoint=True if given.resume else None)

    digest = hashlib.sha256()
    sharded = 0
    for _, parameter in sorted(fst.model.named_parameters()):
        sharded += isinstance(parameter, DTensor)
        digest.update(whole(parameter.detach()).float().numpy().tobytes())
    result = {
        "weights": digest.hexdigest(),
        "sharded": sharded,
        "population": fst.population.to_dict(),
        "rollouts": fst.fst_state.rollouts,
        "step": fst.state.global_step,
        "cycles": notes.cycles,
        "groups": [[r.problem_id for r in batch] for batch in notes.slow_rollouts],
    }
    rank = fst.processes.rank
    (given.out / f"rank{rank}.json").write_text(json.dumps(result, sort_keys=True))


if __name__ == "__main__":
    main()
