"""Every Reasoning Gym dataset by name, with a seeded split into distinct training and validation questions."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import enum
import io
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import reasoning_gym
from reasoning_gym.composite import DatasetSpec
from reasoning_gym.factory import DATASETS

from fastslow.config import ReasoningGymTask
from fastslow.errors import TaskError
from fastslow.seeds import derive_seed
from fastslow.tasks.feedback import CORRECT, compose_feedback, miss_notes
from fastslow.tasks.presets import small_preset
from fastslow.tasks.problems import problem_id, seed_context, split_problems
from fastslow.tasks.replies import EVALUATED_AS_EXPRESSION, extract_answer, is_safe_reply
from fastslow.tasks.scoring import SOLVED
from fastslow.types import Problem, Score

# Scorers of some datasets warn at every reply that isn't a matrix; the reward says it already.
warnings.filterwarnings("ignore", module=r"reasoning_gym\.")

_BARREN_ROUNDS = 4
_MAX_ROUNDS = 40
# These score some wrong replies as right (game_of_life_halting: any text but "True" stands for False), so
# their answers are compared as text.
_COMPARED_AS_TEXT = {"game_of_life_halting"}


class ReasoningGymSource:
    """The Task protocol over one dataset; build it with :func:`fastslow.tasks.registry.build_task`."""

    def __init__(self, config: ReasoningGymTask) -> None:
        self.name = config.name
        self.seed_context = seed_context(config.seed_context)
        self.graded = config.reward == "graded"
        self.settings = dataset_settings(config.name, config.level, config.config)
        self.needs_timeout = config.name in EVALUATED_AS_EXPRESSION or config.name == "composite"
        self._entries: dict[str, Mapping[str, Any]] = {}
        self._scorer = self._create(0, 1, config)
        split = split_problems(
            list(self._distinct(config)), config.train_size, config.val_size, config.seed, f"task {self.name}"
        )
        self.train, self.val, self.notes = split.train, split.val, split.notes

    def score(self, problem: Problem, completion: str) -> Score:
        """``exact``: 1 if Reasoning Gym counts the reply as solved, else 0; ``graded``: its own score."""
        entry = self._entries[problem.id]
        reply = extract_answer(completion)
        reward = self._reward(entry, reply)
        if reward >= SOLVED:
            return Score(1.0, CORRECT)
        if problem.answer is None:
            return Score(reward if self.graded else 0.0, compose_feedback("The reply is not a right answer."))
        notes, advice = miss_notes(problem.answer, reply)
        if self.graded and reward > 0:
            notes.append(f"The reply earned {reward:.2f} of 1.")
        feedback = compose_feedback(notes, advice=advice, expected=problem.answer)
        return Score(reward if self.graded else 0.0, feedback)

    def _reward(self, entry: Mapping[str, Any], reply: str) -> float:
        dataset = entry["metadata"].get("source_dataset", self.name)
        gold = entry["answer"]
        if isinstance(gold, str) and (reply == gold.strip() or dataset in _COMPARED_AS_TEXT):
            return 1.0 if reply.casefold() == gold.strip().casefold() else 0.0
        if not reply or not is_safe_reply(dataset, reply):
            return 0.0
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                return float(self._scorer.score_answer(reply, entry))
        except (ValueError, TypeError, ArithmeticError, LookupError, AttributeError, SyntaxError, RecursionError):
            # Several scorers parse the reply without care (prime_factorization: int(reply)): a reply that
            # can't be parsed is a wrong answer, not a broken scorer.
            return 0.0

    def _create(self, seed: int, size: int, config: ReasoningGymTask) -> Any:
        return create_dataset(self.name, {**self.settings, "seed": seed, "size": size}, config)

    def _distinct(self, config: ReasoningGymTask) -> Iterator[Problem]:
        """Problems with different questions, enough for both splits; further seeds where one holds too few."""
        wanted = config.train_size + config.val_size
        barren = 0
        for round_ in range(_MAX_ROUNDS):
            seed = derive_seed(config.seed, self.name, round_) % 2**31
            dataset = self._create(seed, wanted, config)
            before = len(self._entries)
            for index in range(len(dataset)):
                with contextlib.redirect_stdout(io.StringIO()):  # some generators print dots or errors
                    entry = dataset[index]
                text = entry["question"].strip()
                id_ = problem_id(self.name, text)
                if id_ in self._entries:
                    continue
                self._entries[id_] = entry
                answer = entry["answer"].strip() if isinstance(entry["answer"], str) else None
                yield Problem(id_, text, answer, entry["metadata"], self.name)
                if len(self._entries) == wanted:
                    return
            barren = barren + 1 if len(self._entries) - before <= len(dataset) // 100 else 0
            if barren == _BARREN_ROUNDS:
                return


def dataset_names() -> list[str]:
    """Names of all datasets, sorted. ``composite`` mixes others and needs ``task.config.datasets``."""
    return sorted(DATASETS)


def dataset_settings(name: str, level: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """The level's settings with the user's on top, ready for the dataset; raises TaskError naming the key."""
    if name not in DATASETS:
        close = difflib.get_close_matches(name, DATASETS, n=3)
        hint = f"did you mean {' or '.join(map(repr, close))}?" if close else "`fastslow tasks` lists all"
        raise TaskError(f"task.name: no Reasoning Gym dataset is called {name!r}; {hint}")
    fields = {f.name: f for f in dataclasses.fields(DATASETS[name][1])}
    for key in config:
        if key in ("seed", "size"):
            own = "task.seed" if key == "seed" else "task.train_size and task.val_size"
            raise TaskError(f"task.config.{key}: set {own} instead; the split needs it")
        if key not in fields:
            known = sorted(fields.keys() - {"seed", "size"})
            close = difflib.get_close_matches(str(key), known, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"it knows {', '.join(known)}"
            raise TaskError(f"task.config.{key}: {name} has no such setting; {hint}")
    merged = {**(small_preset(name) if level == "small" else {}), **config}
    return {key: _typed(name, key, value, fields[key].default) for key, value in merged.items()}


def _typed(name: str, key: str, value: Any, default: Any) -> Any:
    """YAML has no enums and no dataclasses: turn text and mappings into what the dataset takes."""
    if isinstance(default, enum.Enum) and not isinstance(value, enum.Enum):
        try:
            return type(default)(value)
        except ValueError:
            choices = ", ".join(repr(member.value) for member in type(default))
            raise TaskError(f"task.config.{key}: {name} takes one of {choices}, not {value!r}") from None
    if isinstance(default, tuple) and isinstance(value, list):
        return tuple(value)
    if name == "composite" and key == "datasets":
        if not isinstance(value, list) or not all(isinstance(spec, dict) and "name" in spec for spec in value):
            raise TaskError("task.config.datasets: expected a list of {name, weight, config}")
        return [
            DatasetSpec(
                spec["name"],
                spec.get("weight", 1),
                dataset_settings(spec["name"], "small", spec.get("config") or {}),
            )
            for spec in value
        ]
    return value


def create_dataset(name: str, settings: Mapping[str, Any], config: ReasoningGymTask) -> Any:
    """A dataset, or a TaskError that names the setting it refuses."""
    try:
        return reasoning_gym.create_dataset(name, **settings)
    except (AssertionError, TypeError, ValueError, ArithmeticError, AttributeError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        field = "task.config" + (f".{key}" if (key := _refused_key(name, config.config, reason)) else "")
        hint = "; `level: default` drops the small sizes" if config.level == "small" and small_preset(name) else ""
        raise TaskError(f"{field}: {name} refuses its settings: {reason}{hint}") from None


def _refused_key(name: str, config: Mapping[str, Any], reason: str) -> str | None:
    named = [key for key in config if key in reason]
    if named:
        return max(named, key=len)
    if len(config) == 1:
        return next(iter(config))
    return "datasets" if name == "composite" else None
