"""From a dataset of prompts to problems, and the order in which a run meets them: a pure function of the seed, so the
fast phase knows the problems of the next T batches and a resumed run goes on with the right one."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from datasets import Dataset
from trl import is_conversational

from fastslow.errors import ConfigError
from fastslow.seeds import derive_seed
from fastslow.tasks.base import Task
from fastslow.types import Problem

INDEX = "fst_index"
"""Column added to the dataset: the problem's place in the one given."""

ANSWER_COLUMNS = ("answer", "solution")


def schedule(problems: int, per_batch: int, batches: int, seed: int, shuffle: bool = True) -> list[int]:
    """Indices of the problems of ``batches`` batches, one after the other. Each epoch has its own order, the same as
    in the local engine; what an epoch can't fill a batch with is left out."""
    if problems < per_batch:
        raise ConfigError(
            f"the training set has {problems} problems, but a batch takes {per_batch}; lower "
            "per_device_train_batch_size, or add problems"
        )
    per_epoch = problems // per_batch
    indices: list[int] = []
    for epoch in range(-(-batches // per_epoch)):
        order = list(range(problems))
        if shuffle:
            random.Random(derive_seed(seed, "data", epoch)).shuffle(order)
        indices += order[: per_epoch * per_batch]
    return indices[: batches * per_batch]


def task_dataset(task: Task) -> Dataset:
    """The training problems of a task as a dataset for the trainer."""
    return Dataset.from_dict({"prompt": [p.text for p in task.train]})


class Problems:
    """The problems behind a dataset's rows, by their index; those of ``task`` where there is one."""

    def __init__(self, dataset: Dataset, task: Task | None = None, answer_column: str | None = None) -> None:
        if "prompt" not in dataset.column_names:
            raise ConfigError(f"train_dataset: no column 'prompt' (there are {', '.join(dataset.column_names)})")
        if answer_column is not None and answer_column not in dataset.column_names:
            raise ConfigError(f"answer_column: {answer_column!r} is no column of the dataset")
        self.dataset, self.task = dataset, task
        known = [c for c in ANSWER_COLUMNS if c in dataset.column_names]
        self.answer_column = answer_column or next(iter(known), None)
        self._index = {p.id: i for i, p in enumerate(task.train)} if task is not None else {}

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Problem:
        if self.task is not None:
            return self.task.train[index]
        return problem_of_row(self.dataset[index], index, self.answer_column)

    def index(self, problem: Problem) -> int:
        return self._index[problem.id] if self.task is not None else int(problem.id.removeprefix("row-"))

    def row(self, index: int) -> dict[str, Any]:
        """The columns as a reward function sees them."""
        return {**self.dataset[index], INDEX: index}

    @property
    def has_system_turns(self) -> bool:
        """Whether the first prompt brings a system message of its own; then contexts go into the user's turn."""
        return any(m["role"] == "system" for m in self[0].messages) if len(self) else False

    @property
    def are_chats(self) -> bool:
        return self.task is None and is_conversational(self.dataset[0])


def problem_of_row(row: dict[str, Any], index: int, answer: str | None) -> Problem:
    """A row's prompt, text or a conversation that ends with the question, as a problem."""
    prompt = row["prompt"]
    gold = row[answer] if answer else None
    gold = gold if gold is None or isinstance(gold, str) else str(gold)
    if isinstance(prompt, str):
        return Problem(f"row-{index}", prompt, gold)
    messages: Sequence[dict[str, Any]] = prompt
    if not messages or messages[-1]["role"] != "user" or not isinstance(messages[-1]["content"], str):
        raise ConfigError(f"train_dataset: prompt {index} must end with a user's turn of plain text")
    earlier = tuple({"role": m["role"], "content": m["content"]} for m in messages[:-1])
    return Problem(f"row-{index}", messages[-1]["content"], gold, messages=earlier)
