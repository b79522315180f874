"""What every kind of task needs: stable problem ids, and a seeded split without overlap."""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from fastslow.config import SeedContextConfig
from fastslow.errors import TaskError
from fastslow.seeds import derive_seed
from fastslow.types import EXAMPLES, INSTRUCTIONS, Context, Message, Problem


def problem_id(task: str, text: str, messages: Sequence[Message] = ()) -> str:
    """``task-`` and 12 hex digits over the task's name and the question as asked; equal in every process."""
    digest = hashlib.sha256()
    for part in (task, *(m[key] for m in messages for key in ("role", "content")), text):
        data = part.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "big") + data)
    return f"{task}-{digest.hexdigest()[:12]}"


@dataclass(frozen=True, slots=True)
class Split:
    """Disjoint problems, and notes on what a person may want to know about them (sizes cut, duplicates dropped)."""

    train: tuple[Problem, ...]
    val: tuple[Problem, ...]
    notes: tuple[str, ...] = ()


def split_problems(problems: Sequence[Problem], train_size: int, val_size: int, seed: int, where: str) -> Split:
    """Shuffle distinct problems by ``seed`` and deal them out, validation first.

    Where there are fewer than ``train_size + val_size``, both shrink in proportion; validation keeps at least a
    quarter of what there is (or the size asked for), and at most half. Raises TaskError for fewer than 2 problems.
    """
    distinct = shuffled({p.id: p for p in problems}.values(), seed)
    count = len(distinct)
    if count < 2:
        raise TaskError(f"{where}: only {count} different question(s); at least 2 are needed, to train and to validate")
    wanted = train_size + val_size
    if count >= wanted:
        return Split(tuple(distinct[val_size:wanted]), tuple(distinct[:val_size]))
    val = min(max(round(count * val_size / wanted), count // 4, 1), val_size, count // 2)
    train = min(count - val, train_size)
    note = f"{where}: only {count} different questions, {wanted} were asked for; "
    note += f"{train} for training, {val} for validation"
    return Split(tuple(distinct[val : val + train]), tuple(distinct[:val]), (note,))


def shuffled(problems: Iterable[Problem], seed: int) -> list[Problem]:
    """The problems in the seeded order of the split."""
    result = list(problems)
    random.Random(derive_seed(seed, "split")).shuffle(result)
    return result


def clean_text(text: str) -> str:
    """Text that any tokenizer takes: lone surrogates become the replacement character, all else stays."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def majority_share(problems: Sequence[Problem]) -> float:
    """Share of the most common gold answer: the accuracy of the best constant reply (0 where no gold is known).

    Problems without a gold answer count in the whole, as a constant reply earns nothing sure there.
    """
    answers = Counter(p.answer for p in problems if p.answer is not None)
    return answers.most_common(1)[0][1] / len(problems) if answers else 0.0


def seed_context(config: SeedContextConfig) -> Context:
    """The context that every method starts from, as the config gives it."""
    return Context({INSTRUCTIONS: clean_text(config.instructions), EXAMPLES: clean_text(config.examples)})
