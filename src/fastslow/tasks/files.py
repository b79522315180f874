"""Your own file of questions as a task: JSONL, CSV, Parquet, or a dataset of the hub."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastslow.config import FileTask
from fastslow.errors import TaskError
from fastslow.tasks.feedback import CORRECT, compose_feedback, expected_in, miss_notes, one_line, quoted
from fastslow.tasks.problems import Split, clean_text, problem_id, seed_context, shuffled, split_problems
from fastslow.tasks.replies import extract_answer
from fastslow.tasks.rows import HUB, read_rows
from fastslow.tasks.scorers import make_scorer
from fastslow.tasks.scoring import SOLVED
from fastslow.types import Message, Problem, Score

_ROLE = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,31}")


class FileSource:
    """The Task protocol over a file and a scorer; build it with :func:`fastslow.tasks.registry.build_task`."""

    def __init__(self, config: FileTask) -> None:
        self.name = config.name or Path(config.path.removeprefix(HUB)).stem
        self.seed_context = seed_context(config.seed_context)
        folders = [Path.cwd()] if config.path.startswith(HUB) else [Path(config.path).resolve().parent, Path.cwd()]
        self._scorer = make_scorer(config.scorer, list(dict.fromkeys(folders)), config.score_timeout)
        if config.answer is None and self._scorer.needs_answer:
            raise TaskError(f"task.answer: the scorer {config.scorer!r} compares with a gold answer; name its column")
        split = self._split(config)
        self.train, self.val, self.notes = split.train, split.val, split.notes

    def score(self, problem: Problem, completion: str) -> Score:
        """The scorer's reward; a miss is told with the expected reply, where a gold answer is known."""
        result = self._scorer.function(problem.text, problem.answer, completion, dict(problem.metadata))
        reward, told = result if isinstance(result, tuple) else (result, "")
        if not isinstance(reward, (int, float)) or not reward < SOLVED:
            return Score(reward, told or CORRECT)
        if problem.answer is None:
            return Score(reward, told or compose_feedback("The reply did not earn the full reward."))
        notes, advice = miss_notes(problem.answer, extract_answer(completion))
        if told:
            notes, advice = [str(told)], []
        expected = None if told and expected_in(str(told)) is not None else problem.answer
        return Score(reward, compose_feedback(notes, advice=advice, expected=expected))

    def _split(self, config: FileTask) -> Split:
        problems, notes = self._problems(config, config.path, "task.path")
        if config.val_path is None:
            split = split_problems(
                problems, config.train_size, config.val_size, config.seed, f"task.path: {config.path}"
            )
            return Split(split.train, split.val, (*notes, *split.notes))
        held_out, val_notes = self._problems(config, config.val_path, "task.val_path")
        held_ids = {p.id for p in held_out}
        kept = [p for p in problems if p.id not in held_ids]
        if len(kept) < len(problems):
            dropped = len(problems) - len(kept)
            val_notes.append(
                f"{config.path}: {dropped} question(s) stand in {config.val_path} too; dropped from training"
            )
        if not kept:
            raise TaskError(f"task.val_path: every question of {config.path} stands in {config.val_path} too")
        train = shuffled(kept, config.seed)[: config.train_size]
        val = shuffled(held_out, config.seed)[: config.val_size]
        return Split(tuple(train), tuple(val), (*notes, *val_notes))

    def _problems(self, config: FileTask, path: str, field: str) -> tuple[list[Problem], list[str]]:
        rows = read_rows(path, field, config.split, config.subset)
        _check_columns(rows[0], config, path)
        found: dict[str, Problem] = {}
        for number, row in enumerate(rows, start=1):
            problem = self._problem(row, config, f"row {number} of {path}")
            found.setdefault(problem.id, problem)
        doubles = len(rows) - len(found)
        return list(found.values()), [f"{path}: {doubles} repeated question(s) dropped"] if doubles else []

    def _problem(self, row: Mapping[str, Any], config: FileTask, where: str) -> Problem:
        messages, text = _question(row.get(config.question), config.question, where)
        answer = None if config.answer is None else _answer(row.get(config.answer), config.answer, where)
        others = {k: v for k, v in row.items() if k not in (config.question, config.answer)}
        return Problem(problem_id(self.name, text, messages), text, answer, others, self.name, messages)


def _check_columns(row: Mapping[str, Any], config: FileTask, path: str) -> None:
    for field, column in (("question", config.question), ("answer", config.answer)):
        if column is not None and column not in row:
            present = one_line(", ".join(map(str, row)))
            raise TaskError(f"task.{field}: {path} has no column {column!r}; it has {present}")


def _question(value: Any, column: str, where: str) -> tuple[tuple[Message, ...], str]:
    """(earlier chat turns, the question): text, or a list of chat messages that ends with the user's."""
    if isinstance(value, list) and value:
        if not all(isinstance(m, Mapping) and isinstance(m.get("content"), str) and m.get("role") for m in value):
            raise TaskError(f"task.question: {where}: each message in {column!r} needs a role and a content text")
        *earlier, last = value
        for number, message in enumerate(value, start=1):
            if not isinstance(message["role"], str) or not _ROLE.fullmatch(message["role"]):
                told = quoted(str(message["role"]), 40)
                raise TaskError(
                    f"task.question: {where}: message {number} in {column!r} has the role {told}; "
                    "a role is one word, like system, user or assistant"
                )
        if last["role"] != "user":
            raise TaskError(f"task.question: {where}: the last message in {column!r} must be the user's")
        turns = tuple({"role": m["role"], "content": clean_text(m["content"])} for m in earlier)
        return turns, _filled(last["content"], column, where)
    if isinstance(value, (int, float)):
        value = str(value)
    if not isinstance(value, str):
        raise TaskError(f"task.question: {where}: {column!r} must be text or a list of messages, found {_kind(value)}")
    return (), _filled(value, column, where)


def _filled(text: str, column: str, where: str) -> str:
    if not text.strip():
        raise TaskError(f"task.question: {where}: {column!r} is empty")
    return clean_text(text).strip()


def _answer(value: Any, column: str, where: str) -> str:
    if not isinstance(value, (str, int, float)) or not str(value).strip():
        hint = "; set task.answer: null if only the scorer knows" if value is None else ""
        raise TaskError(f"task.answer: {where}: {column!r} must be text or a number, found {_kind(value)}{hint}")
    return clean_text(str(value)).strip()


def _kind(value: Any) -> str:
    return "nothing" if value is None or value == "" or value == [] else type(value).__name__
