from __future__ import annotations

import pytest

from fastslow.fast.guards import ContextGuard, leaks
from fastslow.types import Context, Problem
from fastslow.worked_examples import WorkedExample, format_examples

PROBLEMS = [Problem(f"p{i}", f"What is {i} + {i}?", str(2 * i)) for i in range(20)]


def guard(max_tokens: int = 1000) -> ContextGuard:
    return ContextGuard(lambda c: len(" ".join(c.components.values()).split()), max_tokens, PROBLEMS, max_examples=2)


def context(instructions: str = "", examples: str = "") -> Context:
    return Context({"instructions": instructions, "examples": examples})


def worked(*numbers: int) -> str:
    return format_examples(WorkedExample(PROBLEMS[i].text, "x") for i in numbers)


PARENT = context("Add.")


def test_a_plain_edit_passes() -> None:
    assert guard().reject(context("Add well.", worked(1, 2)), PARENT, ()) is None


@pytest.mark.parametrize(
    ("proposal", "kind"),
    [
        (PARENT, "unchanged"),
        (context(" ", "\n"), "empty context"),
        (context("Seen before."), "already tried in this cycle"),
        (context("a b c d e f"), "token cap"),
        (context("Add.", "2 + 2 is 4"), "examples can't be read"),
        (context("Add.", "### Question\nWhat?"), "examples can't be read"),
        (context("Add.", worked(1, 2, 3)), "too many examples"),
        (context("Lone \ud800 surrogate"), "text that is not valid Unicode"),
    ],
)
def test_each_kind_of_refusal(proposal: Context, kind: str) -> None:
    limit = 5 if kind == "token cap" else 1000
    assert guard(limit).reject(proposal, PARENT, {context("Seen before.").id}).split(":")[0] == kind


def test_the_cap_itself_is_allowed() -> None:
    assert guard(6).reject(context("a b c d e f"), PARENT, ()) is None


def test_copied_questions_count_wherever_they_stand() -> None:
    smuggled = "Know that WHAT is 7\n +  7? gives 14."
    assert guard().reject(context(smuggled, worked(1)), PARENT, ()) is None
    reason = guard().reject(context(smuggled, worked(1, 2)), PARENT, ())
    assert reason == "copies training questions: 3 of them, at most 2"


def test_leaks_needs_the_whole_question_as_whole_words() -> None:
    shown = context("", worked(11))
    assert leaks(shown, PROBLEMS[11])
    assert not leaks(shown, PROBLEMS[1])
    assert not leaks(context("Now add 1 + 23 for me"), Problem("q", "add 1 + 2"))
    assert leaks(context("Now add 1 + 2, for me"), Problem("q", "add 1 + 2"))
    assert not leaks(context("a word: yes"), Problem("short", "yes"))
