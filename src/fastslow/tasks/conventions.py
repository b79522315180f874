"""Hidden reporting conventions: how an answer must be written, said by no question and told only by feedback.

An instrument for the question of what should live in the context and what in the weights: the skill underneath is
learned by reward, the convention is declarative and text carries it at once. The kinds range from what a model may
do by chance to what no realistic number of rollouts finds. Each is an object of its own, so tasks with conflicting
conventions can stand side by side in one run.
"""

from __future__ import annotations

import difflib
import json
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from fastslow.config import ConventionConfig
from fastslow.errors import TaskError
from fastslow.seeds import derive_seed
from fastslow.tasks.base import Task
from fastslow.tasks.feedback import ANSWER_ALONE, CORRECT, compose_feedback, quoted, stands_in
from fastslow.tasks.scoring import SOLVED
from fastslow.types import Problem, Score

Discoverability = Literal["likely", "unlikely", "undiscoverable"]

_BRACKETS = [
    ("[", "]", "square brackets"),
    ("{", "}", "curly brackets"),
    ("<<", ">>", "double angle brackets"),
    ("((", "))", "double round brackets"),
    ("|", "|", "vertical bars"),
]
_PREFIXES = ["Result: ", "Out = ", "Final -> ", "Reply # ", "Value :: "]
_UNITS = ["points", "marks", "crates", "knots", "grams"]
_JSON_KEYS = ["answer", "result", "value", "output", "reply"]
_SEPARATORS = [" ", " / ", ", ", " = ", " and "]
_CODE_WORDS = (
    "Amber Birch Cedar Delta Ember Flint Grove Hazel Ivory Jade Karst Lotus "
    "Maple North Olive Pearl Quartz River Slate Topaz Umber Violet Willow Zephyr"
)
_MAX_LABELS = 12


@dataclass(frozen=True, slots=True)
class Convention:
    """One way to write answers.

    ``encode`` gives the reply that is expected for an answer; ``decode`` gives the answer back from a reply, or None
    where the form isn't kept. ``advice`` states the convention in one sentence, so that someone could follow it.
    ``discoverability`` says whether reward alone may find it: by chance now and then (likely), rarely (unlikely), or
    in no realistic number of rollouts (undiscoverable).
    """

    kind: str
    seed: int
    encode: Callable[[str], str]
    decode: Callable[[str], str | None]
    advice: str
    discoverability: Discoverability


class ConventionTask:
    """A task whose answers must follow a convention; questions and ids stay those of the task inside.

    The gold answers are the encoded ones, so worked examples made from them follow the convention.
    """

    def __init__(self, inner: Task, convention: Convention) -> None:
        self.inner, self.convention = inner, convention
        self.name = f"{inner.name}+{convention.kind}"
        self.seed_context = inner.seed_context
        self.needs_timeout = getattr(inner, "needs_timeout", False)
        self.notes = getattr(inner, "notes", ())
        self._plain = {p.id: p for p in (*inner.train, *inner.val)}
        self.train = tuple(self._encoded(p) for p in inner.train)
        self.val = tuple(self._encoded(p) for p in inner.val)

    def _encoded(self, problem: Problem) -> Problem:
        if problem.answer is None:
            raise TaskError(
                f"task.convention: problem {problem.id} has no gold answer to write in a convention; "
                "drop the convention or give answers"
            )
        return Problem(
            problem.id,
            problem.text,
            self.convention.encode(problem.answer),
            problem.metadata,
            self.name,
            problem.messages,
        )

    def score(self, problem: Problem, completion: str) -> Score:
        """The inner reward where the form is kept, else 0; the feedback tells form and value apart."""
        plain, reply = self._plain[problem.id], completion.strip()
        value = self.convention.decode(reply)
        inner = self.inner.score(plain, reply if value is None else value)
        if inner.error is not None:
            return inner
        if value is not None and inner.reward >= SOLVED:
            return Score(inner.reward, CORRECT)
        advice = [self.convention.advice]
        if self.inner.score(plain, reply).reward >= SOLVED:
            notes = ["The value is right, but the form is not."]
        elif value is not None:
            notes = [f"The form is right, but the value is not: you answered {quoted(value)}."]
        else:
            notes = [f"Neither the form nor the value is right: you answered {quoted(reply)}."]
            if stands_in(str(plain.answer), reply):
                notes = ["The right value stands inside a longer reply, but the form is not right."]
                advice.append(ANSWER_ALONE)
        feedback = compose_feedback(notes, advice=advice, expected=self.convention.encode(str(plain.answer)))
        return Score(inner.reward if value is not None else 0.0, feedback)


def make_convention(config: ConventionConfig, answers: Sequence[str | None] = ()) -> Convention:
    """The convention of a config. ``answers`` are the task's gold answers: code words are chosen for them.

    Raises TaskError for an unknown kind, and where an answer can't be told back from its encoded form.
    """
    maker = _MAKERS.get(config.kind)
    if maker is None:
        close = difflib.get_close_matches(config.kind, _MAKERS, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(_MAKERS)}"
        raise TaskError(f"task.convention.kind: no convention is called {config.kind!r}; {hint}")
    known = [answer for answer in answers if answer is not None]
    convention = maker(config.seed, known)
    for answer in known:
        if convention.decode(convention.encode(answer).strip()) != answer:
            raise TaskError(
                f"task.convention.kind: {config.kind} can't write the answer {quoted(answer)} so that it reads back; "
                "choose another kind"
            )
    return convention


def convention_kinds() -> list[str]:
    """All kinds, from what a model may do by chance to what reward alone never finds."""
    return list(_MAKERS)


def _variant(options: Sequence[Any], seed: int) -> Any:
    return options[seed % len(options)]


def _wrapped(kind: str, seed: int, before: str, after: str, advice: str, label: Discoverability) -> Convention:
    """A convention that only puts text in front of the answer and behind it."""

    def decode(reply: str) -> str | None:
        # The outer white space of an affix is not asked for: "Result:7" keeps the form as well as "Result: 7".
        start, end = before.strip(), after.strip()
        if len(reply) < len(start) + len(end) or not (reply.startswith(start) and reply.endswith(end)):
            return None
        return reply[len(start) : len(reply) - len(end)].strip()

    return Convention(kind, seed, lambda answer: f"{before}{answer}{after}", decode, advice, label)


def _period(seed: int, answers: Sequence[str]) -> Convention:
    mark, name = _variant([(".", "a full stop"), ("!", "an exclamation mark"), (";", "a semicolon")], seed)
    return _wrapped("period", seed, "", mark, f"End the final answer with {name}, like 7{mark}", "likely")


def _reversed(seed: int, answers: Sequence[str]) -> Convention:
    """Answers of one character, and palindromes, stay as they are: those are free."""
    advice = "Write the characters of the final answer in reverse order, like 41 for 14."
    return Convention("reversed", seed, lambda a: a[::-1], lambda reply: reply[::-1], advice, "unlikely")


def _unit(seed: int, answers: Sequence[str]) -> Convention:
    unit = _variant(_UNITS, seed)
    advice = f"Write the unit word {unit!r} behind the final answer, like 7 {unit}"
    return _wrapped("unit", seed, "", f" {unit}", advice, "unlikely")


def _prefix(seed: int, answers: Sequence[str]) -> Convention:
    prefix = _variant(_PREFIXES, seed)
    advice = f"Begin the reply with {prefix.strip()!r} and then write the final answer, like {prefix}7"
    return _wrapped("prefix", seed, prefix, "", advice, "unlikely")


def _brackets(seed: int, answers: Sequence[str]) -> Convention:
    left, right, name = _variant(_BRACKETS, seed)
    advice = f"Write the final answer in {name}, like {left}7{right}."
    return _wrapped("brackets", seed, left, right, advice, "unlikely")


def _double(seed: int, answers: Sequence[str]) -> Convention:
    between = _variant(_SEPARATORS, seed)

    def decode(reply: str) -> str | None:
        half = reply[: (len(reply) - len(between)) // 2]
        return half if reply == f"{half}{between}{half}" else None

    advice = f"Write the final answer twice with {between!r} in between, like 7{between}7."
    return Convention("double", seed, lambda a: f"{a}{between}{a}", decode, advice, "undiscoverable")


def _json(seed: int, answers: Sequence[str]) -> Convention:
    key = _variant(_JSON_KEYS, seed)

    def encode(answer: str) -> str:
        number = re.fullmatch(r"-?(0|[1-9]\d*)(\.\d+)?", answer)
        return f'{{"{key}": {answer if number else json.dumps(answer, ensure_ascii=False)}}}'

    def decode(reply: str) -> str | None:
        try:  # numbers are kept as text, so that 1.50 stays 1.50
            data = json.loads(reply, parse_float=str, parse_int=str, parse_constant=lambda _: None)
        except (ValueError, RecursionError):
            return None
        value = data.get(key) if isinstance(data, dict) and len(data) == 1 else None
        return value if isinstance(value, str) else None

    advice = f'Write the final answer as a JSON object with the one key "{key}", like {{"{key}": 7}}'
    return Convention("json", seed, encode, decode, advice, "undiscoverable")


def _codewords(seed: int, answers: Sequence[str]) -> Convention:
    """Code words for labels (up to 12 different answers without digits), else for the ten digits."""
    words = _CODE_WORDS.split()
    random.Random(derive_seed(seed, "codewords")).shuffle(words)
    labels = sorted(set(answers))
    if not labels or any(any(c in "0123456789" for c in label) for label in labels):
        return _digit_codewords(seed, words)
    if len(labels) > _MAX_LABELS:
        raise TaskError(
            f"task.convention.kind: codewords needs answers with digits, or at most {_MAX_LABELS} labels; "
            f"this task has {len(labels)} different answers; choose another kind"
        )
    code = dict(zip(labels, words))
    back = {word: label for label, word in code.items()}
    told = ", ".join(f"{word} for {' '.join(label.split())}" for label, word in code.items())
    advice = f"Write the code word of the final answer in place of the answer: {told}."
    return Convention("codewords", seed, lambda a: code.get(a, a), back.get, advice, "undiscoverable")


def _digit_codewords(seed: int, words: Sequence[str]) -> Convention:
    code = {str(digit): words[digit] for digit in range(10)}
    back = {word: digit for digit, word in code.items()}
    pattern = re.compile("|".join(back))

    def encode(answer: str) -> str:
        return "".join(code.get(c, c) for c in answer)

    def decode(reply: str) -> str | None:
        has_plain_digit = any(c in code for c in reply)
        return None if has_plain_digit or not pattern.search(reply) else pattern.sub(lambda m: back[m.group()], reply)

    told = ", ".join(f"{word} for {digit}" for digit, word in code.items())
    advice = f"Write a code word in place of every digit of the final answer: {told}."
    return Convention("codewords", seed, encode, decode, advice, "undiscoverable")


_MAKERS: dict[str, Callable[[int, Sequence[str]], Convention]] = {
    "period": _period,
    "reversed": _reversed,
    "unit": _unit,
    "prefix": _prefix,
    "brackets": _brackets,
    "double": _double,
    "json": _json,
    "codewords": _codewords,
}
