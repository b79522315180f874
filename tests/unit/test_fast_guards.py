from __future__ import annotations

import pytest

from fastslow.errors import TaskError
from fastslow.fast.guards import ContextGuard, leaks, refuse_leaks
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
    assert reason == "copies training problems: 3 of them, at most 2"


def test_leaks_needs_the_whole_question_as_whole_words() -> None:
    shown = context("", worked(11))
    assert leaks(shown, PROBLEMS[11])
    assert not leaks(shown, PROBLEMS[1])
    assert not leaks(context("Now add 1 + 23 for me"), Problem("q", "add 1 + 2"))
    assert leaks(context("Now add 1 + 2, for me"), Problem("q", "add 1 + 2"))
    assert not leaks(context("a word: yes"), Problem("short", "yes"))


@pytest.mark.parametrize(
    "text",
    [
        "WHAT  IS\t11 + 11",
        "what is 11+11",
        "(What is 11 + 11)",
        "What, is: 11 + 11!",
        "**What is** `11 + 11`?",
        "# What is _11 + 11_",
        "\u201cWhat is 11\u00a0+\u00a011?\u201d",
        "W\u00adhat is 11 \u200b+ 11",
        "\uff37\uff48\uff41\uff54 is 11 \uff0b 11\uff1f",
        "Remember: what is 11 + 11 = 22.",
    ],
)
def test_a_paraphrase_in_case_space_markup_or_punctuation_is_still_a_copy(text: str) -> None:
    assert leaks(context(text), PROBLEMS[11])
    assert leaks(context("", f"### Question\n{text}\n### Answer\n22"), PROBLEMS[11])


@pytest.mark.parametrize(
    "text",
    ["What is 11 + 11 - 2?", "What is 11 + 111?", "What is 11 + 1?", "what was 11 + 11", "What is 11 - 11?", "11 + 11"],
)
def test_another_question_is_no_copy(text: str) -> None:
    assert not leaks(context(text), PROBLEMS[11])


def test_a_decimal_is_not_its_whole_part() -> None:
    assert not leaks(context("What is 11 + 11.5?"), PROBLEMS[11])
    assert not leaks(context("Now add 5 + 30000 + 11000"), Problem("q", "30000 + 11000"))


def test_lists_of_problems_are_refused_in_any_component_and_any_dress() -> None:
    listed = "; ".join(f"what is {i}+{i} -> {2 * i}" for i in range(10, 13))
    for proposal in (context(listed), context("Add.", f"### Question\n{listed}\n### Answer\nx")):
        reason = guard().reject(proposal, PARENT, ())
        assert reason == "copies training problems: 3 of them, at most 2"


def test_a_list_of_long_answers_is_refused_and_of_common_ones_not() -> None:
    verses = [f"verse number {i} of the long ballad" for i in range(6)]
    own = [Problem(f"p{i}", f"Recite part {i}, please.", v) for i, v in enumerate(verses)]
    same = [Problem(f"s{i}", f"Recite tune {i}, please.", verses[0]) for i in range(6)]
    for problems, refused in ((own, True), (same, False)):
        judge = ContextGuard(lambda c: 1, 1000, problems, max_examples=2)
        reason = judge.reject(context("Know: " + " / ".join(v.upper() for v in verses)), PARENT, ())
        assert reason == ("copies training problems: 6 of them, at most 2" if refused else None)


def test_a_validation_problem_in_a_proposal_is_refused_even_once() -> None:
    held_out = [Problem("v", "What is 77 + 78?", "155")]
    judge = ContextGuard(lambda c: 1, 1000, PROBLEMS, max_examples=2, held_out=held_out)
    assert judge.reject(context("Note that what is 77+78 gives 155."), PARENT, ()) == "shows a validation problem"
    assert judge.reject(context("Note that what is 77 + 79 gives 156."), PARENT, ()) is None


def test_a_seed_context_that_shows_validation_problems_is_an_error() -> None:
    held_out = [Problem("v1", "What is 77 + 78?", "155"), Problem("v2", "What is 5 + 78?", "83")]
    with pytest.raises(TaskError, match=r"^task\.seed_context: shows 1 of the validation problems \(such as v1\)"):
        refuse_leaks(context("", "### Question\nWhat is 77+78\n### Answer\n155"), held_out)
    refuse_leaks(context("Add."), held_out)
