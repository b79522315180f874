from __future__ import annotations

import hashlib
import threading
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastslow.errors import TaskError
from fastslow.tasks.problems import clean_text, majority_share, problem_id, split_problems
from fastslow.tasks.scoring import MAX_HANGS, SafeTask, validate_task
from fastslow.types import Context, Problem, Score


class Fixed:
    """A task whose scorer is the function given."""

    name = "fixed"
    train = (Problem("a", "q", "7"),)
    val = (Problem("b", "r", "8"),)
    seed_context = Context({"instructions": ""})

    def __init__(self, function, needs_timeout=False):
        self.score = function
        self.needs_timeout = needs_timeout


PROBLEM = Fixed.train[0]


def broken(problem, completion):
    raise RuntimeError("no such\ntable")


def test_a_scorer_that_raises_is_zero_told_and_counted():
    task = SafeTask(Fixed(broken))
    score = task.score(PROBLEM, "x")
    assert score.reward == 0 and score.error == score.feedback
    assert "RuntimeError" in score.error and "\n" not in score.error
    task.score(PROBLEM, "x")
    assert task.errors == Counter({score.error: 2})


def test_a_scorer_that_exits_does_not_end_the_run():
    def leave(problem, completion):
        raise SystemExit(3)

    assert "SystemExit" in SafeTask(Fixed(leave)).score(PROBLEM, "x").error


def test_an_interrupt_by_the_user_goes_through():
    def interrupted(problem, completion):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        SafeTask(Fixed(interrupted)).score(PROBLEM, "x")


@pytest.mark.parametrize("reward", [float("nan"), float("inf"), None, "1.0", b"1", [1], 10**400])
def test_a_reward_that_is_no_finite_number_is_an_error(reward):
    score = SafeTask(Fixed(lambda p, c: Score(reward))).score(PROBLEM, "x")
    assert score.reward == 0 and "not a finite number" in score.error


@pytest.mark.parametrize("reward", [1, 0.25, -3.5, 2.0, True])
def test_finite_rewards_in_the_range_are_kept_as_floats(reward):
    score = SafeTask(Fixed(lambda p, c: Score(reward, "told")), None, (-4.0, 2.0)).score(PROBLEM, "x")
    assert score == Score(float(reward), "told") and type(score.reward) is float


@pytest.mark.parametrize(
    ("reward", "limits"), [(85, (0, 1)), (-0.5, (0, 1)), (1.1, (0, 1)), (-2, (-1, 1)), (3, (0, 2))]
)
def test_a_reward_out_of_its_range_is_the_scorer_s_failure(reward, limits):
    score = SafeTask(Fixed(lambda p, c: Score(reward)), None, limits).score(PROBLEM, "x")
    said = f"the scorer gave {reward:g} as reward, outside task.reward_range = [{limits[0]}, {limits[1]}]"
    assert score == Score(0.0, said, said)
    assert SafeTask(Fixed(lambda p, c: Score(1 + 1e-9))).score(PROBLEM, "x").error is None  # a scorer's rounding


def test_twenty_failures_in_a_row_end_the_run_with_the_most_common_one():
    replies = iter([*["bad"] * 19, "fine", *["bad"] * 12, *["worse"] * 7, "bad"])

    def judge(problem, completion):
        reply = next(replies)
        if reply == "fine":
            return Score(0.0)
        raise ValueError(reply)

    task = SafeTask(Fixed(judge))
    assert [task.score(PROBLEM, "x").error is None for _ in range(39)] == [False] * 19 + [True] + [False] * 19
    with pytest.raises(TaskError) as caught:
        task.score(PROBLEM, "x")
    assert str(caught.value) == (
        "task fixed: the scorer failed on 20 replies in a row, most often: the scorer failed: ValueError: bad; mend it "
        "(a reply that it can't read earns 0, not an error)"
    )


def test_threads_that_hang_are_counted_and_end_the_run():
    release = threading.Event()

    def hang(problem, completion):
        if completion == "hang":
            release.wait(30)
        return Score(1.0)

    task = SafeTask(Fixed(hang, needs_timeout=True), timeout=0.05)
    try:
        for _ in range(MAX_HANGS - 1):
            assert task.score(PROBLEM, "hang").reward == 0
            assert task.score(PROBLEM, "fine").reward == 1
        with pytest.raises(TaskError, match=r"task fixed: 8 scoring calls hung \(.* = 0\.05 s\), and their threads"):
            task.score(PROBLEM, "hang")
    finally:
        release.set()


def test_a_scorer_that_hangs_is_left_behind_and_the_next_call_works():
    release = threading.Event()

    def hang(problem, completion):
        if completion == "hang":
            release.wait(30)
        return Score(1.0)

    task = SafeTask(Fixed(hang, needs_timeout=True), timeout=0.05)
    try:
        assert "task.score_timeout" in task.score(PROBLEM, "hang").error
        assert task.score(PROBLEM, "fine").reward == 1
    finally:
        release.set()


def test_built_in_scorers_run_on_the_callers_thread():
    seen = []
    SafeTask(Fixed(lambda p, c: seen.append(threading.current_thread()) or Score(1.0)), timeout=1).score(PROBLEM, "x")
    assert seen == [threading.current_thread()]


def test_errors_with_ever_new_texts_stay_bounded():
    def echo(problem, completion):
        raise ValueError(completion)

    task = SafeTask(Fixed(echo))
    for i in range(300):
        if i % 10 == 0:  # one that works between, so that the run goes on
            task.inner.score = lambda problem, completion: Score(0.0)
            task.score(PROBLEM, "fine")
            task.inner.score = echo
        task.score(PROBLEM, str(i))
    assert len(task.errors) <= 101 and task.errors.total() == 300


def test_gold_answers_that_do_not_score_one_are_told():
    with pytest.raises(TaskError) as error:
        validate_task(SafeTask(Fixed(lambda p, c: Score(0.4 if c == "8" else 1.0, "off\nby one"))))
    text = str(error.value)
    assert all(part in text for part in ("problem b", "'8'", "0.4", "off by one")) and "\n" not in text


def problems(n):
    return [Problem(f"p{i}", f"q{i}", str(i)) for i in range(n)]


@given(n=st.integers(2, 300), train=st.integers(1, 200), val=st.integers(1, 200), seed=st.integers(0, 5))
def test_split_is_disjoint_and_within_its_sizes(n, train, val, seed):
    split = split_problems(problems(n), train, val, seed, "task")
    a, b = {p.id for p in split.train}, {p.id for p in split.val}
    assert not a & b and 1 <= len(a) <= train and 1 <= len(b) <= val
    if n >= train + val:
        assert (len(a), len(b), split.notes) == (train, val, ())
    else:
        assert len(b) <= n // 2 and len(b) >= min(n // 4, val) and split.notes


def test_split_of_200_problems_keeps_a_quarter_for_validation():
    split = split_problems(problems(200), 512, 64, 0, "task")
    assert (len(split.train), len(split.val)) == (150, 50)


def test_split_depends_on_the_seed_alone():
    one, two = (split_problems(problems(50), 30, 10, seed, "task") for seed in (0, 1))
    assert one == split_problems(problems(50), 30, 10, 0, "task") and one.val != two.val


def test_one_problem_cannot_be_split():
    with pytest.raises(TaskError, match="at least 2"):
        split_problems(problems(1) * 5, 1, 1, 0, "task x")


def test_problem_ids_are_stable():
    framed = b"\0" * 7 + b"\x01t" + b"\0" * 7 + b"\x01q"  # each part behind its length in 8 bytes
    assert problem_id("t", "q") == "t-" + hashlib.sha256(framed).hexdigest()[:12] == "t-1f9ccc161c02"
    assert problem_id("t", "q") != problem_id("t", "q", [{"role": "user", "content": "earlier"}])


def test_majority_share_is_the_best_constant_reply():
    answers = ["True", "True", "False", "True"]
    assert majority_share([Problem(str(i), "", a) for i, a in enumerate(answers)]) == 0.75
    assert majority_share([Problem("a", "")]) == 0


@given(st.text(alphabet=st.characters(codec=None, categories=None)))
def test_clean_text_can_always_be_encoded(text):
    cleaned = clean_text(text)
    cleaned.encode("utf-8")
    assert clean_text(cleaned) == cleaned
