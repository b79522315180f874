"""The text form of a context's ``examples`` component: worked examples that people and reflectors can edit.

    ### Question
    What is 2 + 3?
    ### Answer
    5

A line of an example that would itself read as a heading is indented by one space, so any text survives the trip.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

QUESTION_HEADING = "### Question"
ANSWER_HEADING = "### Answer"
_LINE_END = re.compile(r"\r+\n")
_HEADING = re.compile(r"^( *)(### (?:Question|Answer)\s*)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class WorkedExample:
    question: str
    answer: str


def format_examples(examples: Iterable[WorkedExample]) -> str:
    """Worked examples as text; :func:`parse_examples` reads it back (outer white space aside)."""
    blocks = [
        f"{QUESTION_HEADING}\n{_indent_headings(e.question.strip())}\n{ANSWER_HEADING}\n{_indent_headings(e.answer.strip())}"
        for e in examples
    ]
    return "\n\n".join(blocks)


def parse_examples(text: str) -> list[WorkedExample]:
    """Read the text form; raises ValueError with the reason where a heading is missing or out of order."""
    if not text.strip():
        return []
    found: list[WorkedExample] = []
    question: list[str] | None = None
    answer: list[str] | None = None
    for line in _LINE_END.sub("\n", text).split("\n"):
        heading = line.rstrip()
        if heading == QUESTION_HEADING:
            if question is not None and answer is None:
                raise ValueError(f"example {len(found) + 1} has a question but no '{ANSWER_HEADING}' line")
            if question is not None and answer is not None:
                found.append(_example(question, answer))
            question, answer = [], None
        elif heading == ANSWER_HEADING:
            if question is None or answer is not None:
                raise ValueError(f"an '{ANSWER_HEADING}' line without its '{QUESTION_HEADING}' line")
            answer = []
        elif answer is not None:
            answer.append(line)
        elif question is not None:
            question.append(line)
        elif line.strip():
            raise ValueError(f"examples must start with '{QUESTION_HEADING}', not {line.strip()[:40]!r}")
    if question is None or answer is None:
        raise ValueError(f"example {len(found) + 1} has a question but no '{ANSWER_HEADING}' line")
    return [*found, _example(question, answer)]


def _example(question: list[str], answer: list[str]) -> WorkedExample:
    return WorkedExample(
        _outdent("\n".join(question).strip("\n")).strip(), _outdent("\n".join(answer).strip("\n")).strip()
    )


def _indent_headings(text: str) -> str:
    return _HEADING.sub(r" \1\2", text)


def _outdent(text: str) -> str:
    return _HEADING.sub(lambda m: m.group(1)[1:] + m.group(2) if m.group(1) else m.group(0), text)
