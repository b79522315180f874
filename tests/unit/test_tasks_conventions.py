from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastslow.config import ConventionConfig
from fastslow.errors import TaskError
from fastslow.tasks.conventions import _CODE_WORDS, ConventionTask, convention_kinds, make_convention
from fastslow.tasks.feedback import advice_in, expected_in
from fastslow.types import Context, Problem, Score

KINDS = convention_kinds()


class Sums:
    """Two sums with exact scoring; the second is half right when the reply is 'near'."""

    name = "sums"
    train = (Problem("a", "3 + 4", "7"),)
    val = (Problem("b", "10 + 4", "14"),)
    seed_context = Context({"instructions": "", "examples": ""})

    def score(self, problem, completion):
        return Score({problem.answer: 1.0, "near": 0.5}.get(completion, 0.0), "inner feedback")


def wrap(kind, seed=0):
    return ConventionTask(Sums(), make_convention(ConventionConfig(kind=kind, seed=seed), ["7", "14"]))


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("period", "7."),
        ("reversed", "7"),
        ("unit", "7 points"),
        ("prefix", "Result: 7"),
        ("brackets", "[7]"),
        ("double", "7 7"),
        ("json", '{"answer": 7}'),
    ],
)
def test_seed_zero_form(kind, expected):
    assert make_convention(ConventionConfig(kind=kind)).encode("7") == expected


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", [0, 1, 2, 7])
@given(number=st.integers(-999, 999))
def test_every_number_reads_back(kind, seed, number):
    convention = make_convention(ConventionConfig(kind=kind, seed=seed))
    assert convention.decode(convention.encode(str(number))) == str(number)


@pytest.mark.parametrize("kind", KINDS)
@given(reply=st.text(alphabet=st.characters(codec=None, categories=None), max_size=200))
def test_no_reply_breaks_decoding(kind, reply):
    value = make_convention(ConventionConfig(kind=kind)).decode(reply)
    assert value is None or isinstance(value, str)


@pytest.mark.parametrize("kind", KINDS)
def test_labels_read_back_and_gold_scores_one(kind):
    convention = make_convention(ConventionConfig(kind=kind), ["True", "False"])
    assert [convention.decode(convention.encode(label)) for label in ("True", "False")] == ["True", "False"]
    task = wrap(kind)
    for problem in (*task.train, *task.val):
        assert task.score(problem, problem.answer) == Score(1.0, "Correct.")


@pytest.mark.parametrize("kind", KINDS)
def test_question_and_id_do_not_tell_the_convention(kind):
    task = wrap(kind)
    assert [(p.id, p.text) for p in task.train] == [("a", "3 + 4")]


@pytest.mark.parametrize("kind", [k for k in KINDS if k != "reversed"])
def test_a_right_value_in_the_wrong_form_earns_nothing_and_tells_the_form(kind):
    task = wrap(kind)
    score = task.score(task.val[0], "14")
    assert score.reward == 0
    assert score.feedback.startswith("The value is right, but the form is not.")
    assert advice_in(score.feedback) == [task.convention.advice]
    assert expected_in(score.feedback) == task.val[0].answer


def test_reversed_leaves_palindromes_as_they_are():
    task = wrap("reversed")
    assert task.val[0].answer == "41"
    assert task.score(task.train[0], "7").reward == 1
    assert task.score(task.val[0], "14").feedback.startswith("The value is right, but the form is not.")


def test_right_form_wrong_value():
    score = wrap("brackets").score(wrap("brackets").train[0], "[8]")
    assert score.reward == 0
    assert score.feedback.split("\n") == [
        "The form is right, but the value is not: you answered '8'.",
        "Advice: Write the final answer in square brackets, like [7].",
        "Expected reply: [7]",
    ]


def test_partial_credit_only_in_the_right_form():
    task = wrap("brackets")
    assert task.score(task.train[0], "[near]").reward == 0.5
    assert task.score(task.train[0], "near").reward == 0


def test_right_value_in_a_longer_reply_is_told_to_stand_alone():
    task = wrap("brackets")
    feedback = task.score(task.train[0], "The sum is 7, I think").feedback
    assert advice_in(feedback) == [task.convention.advice, "Reply with the answer alone."]


@pytest.mark.parametrize("kind", KINDS)
def test_the_seed_chooses_the_variant(kind):
    encoded = {make_convention(ConventionConfig(kind=kind, seed=seed)).encode("137") for seed in range(3)}
    assert len(encoded) == (1 if kind == "reversed" else 3)


def test_codewords_differ_for_every_digit():
    convention = make_convention(ConventionConfig(kind="codewords"), [str(i) for i in range(20)])
    assert len({convention.encode(str(d)) for d in range(10)}) == 10
    assert convention.decode("7") is None


def test_conflicting_conventions_stand_side_by_side():
    square, curly = wrap("brackets", 0), wrap("brackets", 1)
    assert (square.train[0].answer, curly.train[0].answer) == ("[7]", "{7}")
    assert square.score(square.train[0], "{7}").reward == 0 and curly.score(curly.train[0], "{7}").reward == 1
    assert square.score(square.train[0], "[7]").reward == 1


@pytest.mark.parametrize(
    ("kind", "answers", "words"),
    [
        ("brakets", ["7"], "did you mean 'brackets'?"),
        ("codewords", [chr(97 + i) * 2 for i in range(13)], "at most 12 labels"),
        ("codewords", ["1 " + _CODE_WORDS], "can't write the answer"),
    ],
)
def test_what_cannot_work_is_refused_in_one_line(kind, answers, words):
    with pytest.raises(TaskError, match=r"task\.convention\.kind") as error:
        make_convention(ConventionConfig(kind=kind), answers)
    assert words in str(error.value) and "\n" not in str(error.value)


def test_a_problem_without_gold_answer_is_refused():
    class NoGold(Sums):
        train = (dataclasses.replace(Sums.train[0], answer=None),)

    with pytest.raises(TaskError, match="no gold answer"):
        ConventionTask(NoGold(), make_convention(ConventionConfig(kind="brackets")))
