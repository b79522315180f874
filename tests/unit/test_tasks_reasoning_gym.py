from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastslow.config import ReasoningGymTask
from fastslow.errors import TaskError
from fastslow.tasks import build_task, majority_share
from fastslow.tasks.feedback import ANSWER_ALONE, advice_in, expected_in
from fastslow.tasks.presets import SMALL
from fastslow.tasks.replies import extract_answer, is_literal, is_small_expression
from fastslow.tasks.rg_datasets import HASH_DEPENDENT, dataset_names, distinct_entries, example_entry

ANY_TEXT = st.text(alphabet=st.characters(codec=None, categories=None), max_size=300)


def small(name, **changes):
    return build_task(ReasoningGymTask(name=name, **{"train_size": 12, "val_size": 4, **changes}))


@pytest.fixture(scope="module")
def sums():
    return build_task(ReasoningGymTask(name="chain_sum"))


def test_validation_questions_are_never_in_train(sums):
    train, val = ({p.text for p in problems} for problems in (sums.train, sums.val))
    assert not train & val
    assert len(train) == len(sums.train) and len(val) == len(sums.val)


def test_one_digit_sums_are_all_found_and_shared_out(sums):
    """10 x 10 pairs of digits, plus or minus: 200 questions, of which a quarter validates."""
    assert (len(sums.train), len(sums.val)) == (150, 50)
    assert "only 200 different questions" in sums.notes[0]


def test_the_seed_chooses_data_and_split():
    one, again, other = (small("products", seed=seed) for seed in (0, 0, 1))
    assert [p.id for p in one.train] == [p.id for p in again.train] != [p.id for p in other.train]


@pytest.mark.parametrize("name", sorted(set(SMALL) - HASH_DEPENDENT))
def test_small_presets_build_and_their_gold_scores_one(name):
    task = small(name)
    assert len(task.train) == 12 and len(task.val) == 4
    assert all(task.score(p, f" {p.answer}\n").reward == 1 for p in task.train)
    assert not task.errors


@pytest.mark.parametrize("name", [n for n in dataset_names() if n not in ("composite", "knight_swap", "futoshiki")])
def test_every_dataset_gives_an_entry_at_the_small_level(name):
    entry = example_entry(name)
    assert entry["question"].strip() and (entry["answer"] is None or entry["answer"].strip())


_QUESTIONS = """
import json
from fastslow.tasks.rg_datasets import distinct_entries
print(json.dumps([e["question"] for n in ("chain_sum", "ransom_note") for e in distinct_entries(n, "small", {}, 9, 0)]))
"""


def test_questions_are_the_same_in_every_process():
    """ransom_note walks over sets of letters: without care its questions follow Python's hash seed."""
    environment = {**os.environ, "PYTHONHASHSEED": "1"}
    done = subprocess.run(
        [sys.executable, "-c", _QUESTIONS], env=environment, capture_output=True, text=True, check=True
    )
    here = [e["question"] for name in ("chain_sum", "ransom_note") for e in distinct_entries(name, "small", {}, 9, 0)]
    assert json.loads(done.stdout) == here


def test_exact_and_graded_rewards():
    exact, graded = (small("spell_backward", reward=reward) for reward in ("exact", "graded"))
    problem = exact.train[0]
    near = problem.answer[:-1] + ("x" if problem.answer[-1] != "x" else "y")
    assert exact.score(problem, near).reward == 0
    assert 0 < graded.score(problem, near).reward < 1
    assert graded.score(problem, problem.answer).reward == 1


def test_feedback_of_a_miss(sums):
    problem = next(p for p in sums.train if p.answer == "7")
    assert sums.score(problem, "12").feedback.split("\n") == [
        "The right answer is '7'; you answered '12'.",
        "Expected reply: 7",
    ]
    told = sums.score(problem, "Well, 3 + 4 makes 7").feedback
    assert advice_in(told) == [ANSWER_ALONE] and expected_in(told) == "7"
    assert sums.score(problem, "<answer>7</answer>").feedback == "Correct."


def test_replies_that_a_loose_scorer_would_take():
    halting = small("game_of_life_halting", train_size=40)
    problem = next(p for p in halting.train if p.answer == "False")
    assert halting.score(problem, "zzz").reward == 0
    jumble = small("letter_jumble")
    assert jumble.score(jumble.train[0], jumble.train[0].answer + " zzz").reward == 0


def test_a_reply_is_never_evaluated(tmp_path):
    """Some of Reasoning Gym's scorers eval the reply; none of them may see code."""
    mark = tmp_path / "evaluated"
    code = f"__import__('pathlib').Path({str(mark)!r}).touch()"
    for name in ("string_insertion", "spiral_matrix", "binary_matrix", "n_queens", "countdown", "puzzle24"):
        task = small(name, train_size=2, val_size=1)
        for reply in (code, f"[{code}]", f"1 + {code}"):
            assert task.score(task.train[0], reply).reward < 1
    assert not mark.exists()


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("17 + 79 - 69", True),
        ("-10*x**9/9 + 10*x**3 + C", True),
        ("exp(2*x)*sin(x)/2", True),
        ("sqrt(x**2 + 1)**3", True),
        ("x^2", True),
        ("9**9**9**9", False),
        ("(9**9)**9**9", False),
        ("((9**20)**20)**20", False),
        ("10**999999999", False),
        ("open('x')", False),
        ("x.__class__", False),
        ("__import__('os')", False),
        ("[1]*9", False),
        ("1 +", False),
        ("(" * 400, False),
    ],
)
def test_only_small_plain_arithmetic_passes_as_expression(text, safe):
    assert is_small_expression(text) is safe


def test_literals():
    assert is_literal("[1, 'a']") and not is_literal("f(1)") and not is_literal("\x00") and not is_literal("[" * 5000)


def test_answer_tags():
    assert extract_answer(" <answer> 7 </answer>") == "7"
    assert extract_answer("<answer>1</answer> no: <ANSWER>2</ANSWER>") == "2"
    assert extract_answer("<answer>7") == "<answer>7"


@pytest.fixture(scope="module")
def hostile_tasks():
    names = (
        "chain_sum",
        "spell_backward",
        "prime_factorization",
        "number_sorting",
        "countdown",
        "spiral_matrix",
        "codeio",
    )
    return [small(name, train_size=2, val_size=1) for name in [*names, "codeio"]]


@settings(max_examples=200, deadline=None)
@given(reply=ANY_TEXT)
def test_hostile_replies_are_only_wrong(hostile_tasks, reply):
    for task in hostile_tasks:
        score = task.score(task.train[0], reply)
        assert 0 <= score.reward <= 1 and isinstance(score.feedback, str)
    assert not any(task.errors for task in hostile_tasks)


def test_huge_replies_are_only_wrong(hostile_tasks):
    for task in hostile_tasks:
        for reply in ("9" * 10**6, "[" * 10**6, "1e999999999", "x\n" * 10**5, "<answer>" * 10**5):
            assert task.score(task.train[0], reply).reward < 1


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"name": "chain_sums"},
            "task.name: no Reasoning Gym dataset is called 'chain_sums'; did you mean",
        ),
        ({"config": {"max_term": 3}}, "task.config.max_term: chain_sum has no such setting; did you mean 'max_terms'?"),
        ({"config": {"max_terms": 1}}, "task.config.max_terms: chain_sum refuses its settings"),
        ({"config": {"max_digits": "many"}}, "task.config.max_digits: chain_sum refuses its settings"),
        ({"config": {"seed": 3}}, "task.config.seed: set task.seed instead"),
        ({"name": "composite"}, "task.config.datasets"),
        (
            {"name": "word_sorting", "config": {"transformation": "loud"}},
            "task.config.transformation: word_sorting",
        ),
    ],
)
def test_faults_are_one_line_that_names_the_field(changes, words):
    with pytest.raises(TaskError) as error:
        build_task(ReasoningGymTask(**{"name": "chain_sum", **changes}))
    assert words in str(error.value) and "\n" not in str(error.value)


def test_settings_go_over_the_preset_and_enums_are_read():
    task = small("word_sorting", config={"transformation": "uppercase", "max_words": 2})
    assert all(p.answer.isupper() and p.answer.count(",") == 1 for p in task.train)


def test_a_mixture_of_datasets():
    specs = [{"name": "chain_sum", "weight": 1}, {"name": "gcd", "weight": 2, "config": {"max_value": 6}}]
    task = small("composite", config={"datasets": specs}, train_size=20)
    assert all(task.score(p, p.answer).reward == 1 for p in task.train)


def test_problems_without_a_gold_answer_are_told_right_from_wrong():
    task = small("propositional_logic", train_size=3, val_size=1)
    assert task.train[0].answer is None
    score = task.score(task.train[0], "zzz")
    assert score.reward == 0 and "not a right answer" in score.feedback


def test_majority_share_of_a_task(sums):
    answers = [p.answer for p in sums.train]
    assert majority_share(sums.train) == max(answers.count(a) for a in answers) / 150
    assert 0.05 < majority_share(sums.train) < 0.2


def test_a_convention_wraps_the_built_task():
    task = build_task(ReasoningGymTask(name="chain_sum", convention="brackets"))
    assert task.name == "chain_sum+brackets"
    problem = task.train[0]
    assert problem.answer[0] + problem.answer[-1] == "[]"
    assert task.score(problem, problem.answer).reward == 1 and task.score(problem, problem.answer[1:-1]).reward == 0


def test_no_torch():
    code = "import sys, fastslow.tasks.reasoning_gym, fastslow.tasks.files; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_dataset_that_runs_programs_leaves_no_file_here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert len(small("codeio", train_size=24, val_size=2).train) == 24
    assert example_entry("codeio")["question"]
    assert not list(tmp_path.iterdir())
