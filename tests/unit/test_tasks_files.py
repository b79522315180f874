from __future__ import annotations

import json
import sys

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastslow.config import FileTask
from fastslow.errors import TaskError
from fastslow.tasks import build_task
from fastslow.tasks.feedback import advice_in, expected_in
from fastslow.tasks.math_child import MathChild
from fastslow.tasks.scorers import choice_letter, exact, last_number

ROWS = [{"question": f"What is {i} + 1?", "answer": str(i + 1), "level": i} for i in range(12)]


def write(path, rows=ROWS):
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n\n" for row in rows))
    elif path.suffix == ".csv":
        path.write_text(
            "\ufeffquestion,answer,level\n" + "".join(f"{r['question']},{r['answer']},{r['level']}\n" for r in rows)
        )
    else:
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return path


def build(path, **changes):
    return build_task(FileTask(path=str(path), **{"train_size": 8, "val_size": 4, **changes}))


@pytest.mark.parametrize("ending", ["jsonl", "csv", "parquet"])
def test_every_format_gives_the_same_problems(tmp_path, ending):
    task = build(write(tmp_path / f"sums.{ending}"))
    assert task.name == "sums" and (len(task.train), len(task.val)) == (8, 4)
    assert {(p.text, p.answer) for p in (*task.train, *task.val)} == {(r["question"], r["answer"]) for r in ROWS}
    assert task.train == build(write(tmp_path / "sums.jsonl")).train
    assert int(task.train[0].metadata["level"]) == int(task.train[0].answer) - 1


def test_hub_datasets_go_through_their_own_loader(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    calls = []
    monkeypatch.setattr(datasets, "load_dataset", lambda *a, **k: calls.append((a, k)) or ROWS)
    task = build("hub:someone/sums", subset="easy", split="test")
    assert calls == [(("someone/sums", "easy"), {"split": "test"})] and task.name == "sums" and len(task.train) == 8


def test_a_hub_failure_is_one_line(monkeypatch):
    import datasets

    def fail(*args, **kwargs):
        raise datasets.exceptions.DatasetNotFoundError("no such\ndataset")

    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(TaskError, match=r"^task\.path: hub:a/b .*no such dataset$"):
        build("hub:a/b")


def test_chat_questions_keep_their_earlier_turns(tmp_path):
    def chat(i):
        turns = [("system", "Count."), ("user", "1"), ("assistant", "2"), ("user", f"{i}")]
        return {"messages": [{"role": r, "content": c} for r, c in turns], "answer": i + 1}

    task = build(write(tmp_path / "chat.jsonl", [chat(i) for i in range(12)]), question="messages")
    problem = task.train[0]
    assert int(problem.answer) == int(problem.text) + 1
    assert [m["role"] for m in problem.messages] == ["system", "user", "assistant"]


def test_repeated_questions_are_dropped_and_counted(tmp_path):
    task = build(write(tmp_path / "twice.jsonl", ROWS + ROWS[:3]))
    assert len({p.id for p in (*task.train, *task.val)}) == 12
    assert "3 repeated question(s) dropped" in task.notes[0]


def test_validation_questions_are_dropped_from_training(tmp_path):
    write(tmp_path / "val.jsonl", ROWS[:3])
    task = build(write(tmp_path / "sums.jsonl"), val_path=str(tmp_path / "val.jsonl"), train_size=100)
    assert len(task.train) == 9 and len(task.val) == 3
    assert not {p.text for p in task.train} & {p.text for p in task.val}
    assert "3 question(s)" in task.notes[0]


@pytest.mark.parametrize(
    ("text", "changes", "words"),
    [
        ("", {}, "holds no rows"),
        ('{"question": "a", "answer": "b"}\n{"question"', {}, "line 2 is not JSON"),
        ("[1]\n", {}, "line 1: expected an object"),
        ("[" * 100_000, {}, "line 1 is not JSON: RecursionError"),
        ('{"q": "a", "a": "b"}', {}, "task.question: {path} has no column 'question'; it has q, a"),
        ('{"q": "a", "a": "b"}', {"question": "q"}, "has no column 'answer'; it has q, a"),
        ('{"question": "a", "answer": "b"}', {}, "at least 2 are needed"),
        ('{"question": " ", "answer": "b"}', {}, "row 1 of {path}: 'question' is empty"),
        ('{"question": "a", "answer": null}', {}, "'answer' must be text or a number, found nothing"),
        ('{"question": {}, "answer": "1"}', {}, "must be text or a list of messages, found dict"),
        ('{"question": [{"role": "assistant", "content": "a"}], "answer": "1"}', {}, "must be the user's"),
        ('{"question": [{"role": "user"}], "answer": "1"}', {}, "needs a role and a content"),
        ('{"question": "a", "answer": "b"}', {"scorer": "fuzzy"}, "task.scorer: 'fuzzy' is neither one of"),
        (
            '{"question": "a", "answer": "b"}',
            {"scorer": "no_such_module:f"},
            "task.scorer: 'no_such_module' can't be found",
        ),
        ('{"question": "a", "answer": "b"}', {"scorer": "math:no_such"}, "has no function 'no_such'"),
        ('{"question": "a", "answer": "b"}', {"answer": None}, "task.answer: the scorer 'exact' compares"),
        (
            '{"question": "a", "answer": "b"}\n{"question": "b", "answer": "c"}',
            {"scorer": "numeric"},
            "holds no number",
        ),
    ],
)
def test_faults_are_one_line_that_names_field_and_mend(tmp_path, text, changes, words):
    path = tmp_path / "data.jsonl"
    path.write_text(text)
    with pytest.raises(TaskError) as error:
        build(path, **changes)
    assert words.replace("{path}", str(path)) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("none.jsonl", None, "no such file"),
        ("data.xlsx", b"", "expected .jsonl, .csv, .parquet"),
        ("data.jsonl", b"\xff\xfe{}", "is not UTF-8"),
        ("data.parquet", b"not parquet", "is not readable as Parquet"),
        ("data.csv", b"question,answer\n" + b"a" * (2**24 + 1) + b",1\n", "after line 1 is not CSV"),
    ],
)
def test_files_that_cannot_be_read(tmp_path, name, data, words):
    if data is not None:
        (tmp_path / name).write_bytes(data)
    with pytest.raises(TaskError, match=r"^task\.path: ") as error:
        build(tmp_path / name)
    assert words in str(error.value) and "\n" not in str(error.value)


def test_your_own_scorer_beside_the_file(tmp_path):
    (tmp_path / "helper_beside.py").write_text("BEST = 1.0\n")
    (tmp_path / "judge.py").write_text(
        "from helper_beside import BEST\n"
        "def score(question, answer, completion, metadata):\n"
        "    if completion == 'raise': raise KeyError('lost')\n"
        "    if completion == 'tell': return 0.5, 'Half way.'\n"
        "    return BEST * (completion == answer)\n"
    )
    before = list(sys.path)
    task = build(write(tmp_path / "sums.jsonl"), scorer="judge:score")
    assert sys.path == before
    problem = task.train[0]
    assert task.score(problem, problem.answer).reward == 1
    assert task.score(problem, "raise").error == "the scorer failed: KeyError: 'lost'"
    told = task.score(problem, "tell")
    assert told.reward == 0.5 and told.feedback == f"Half way.\nExpected reply: {problem.answer}"
    assert expected_in(task.score(problem, "no").feedback) == problem.answer


def test_scorers_of_two_folders_are_not_mixed_up(tmp_path):
    tasks = []
    for number in (1, 2):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "judge.py").write_text(f"def score(q, a, c, m): return 1.0 if c == a else 0.{number}\n")
        tasks.append(build(write(folder / "sums.jsonl"), scorer="judge:score"))
    assert [t.score(t.train[0], "no").reward for t in tasks] == [0.1, 0.2]


@pytest.mark.parametrize("code", ["1/0", "def broken(:", "raise SystemExit(1)", "import no_such_thing_here"])
def test_a_scorer_that_cannot_be_imported_is_one_line(tmp_path, code):
    (tmp_path / "bad.py").write_text(code + "\n")
    with pytest.raises(TaskError, match=r"^task\.scorer: ") as error:
        build(write(tmp_path / "sums.jsonl"), scorer="bad:score")
    assert "\n" not in str(error.value)


def test_gold_check_can_be_turned_off(tmp_path):
    (tmp_path / "zero.py").write_text("def score(q, a, c, m): return 0.0\n")
    path = write(tmp_path / "sums.jsonl")
    with pytest.raises(TaskError, match="its gold answer"):
        build(path, scorer="zero:score")
    assert build(path, scorer="zero:score", check_gold=False).train


def test_a_convention_on_a_file(tmp_path):
    task = build(write(tmp_path / "sums.jsonl"), convention="json")
    assert task.train[0].answer.startswith('{"answer": ')


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("so 3 + 4 = 7", 7),
        ("1,234.5 metres", 1234.5),
        ("10-4", 4),
        ("it is -4.", -4),
        ("\u22124", -4),
        ("2.5e-3", 0.0025),
        ("x2", None),
        ("none", None),
        ("", None),
    ],
)
def test_last_number(text, number):
    assert last_number(text) == number


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("B", "B"),
        ("(c)", "C"),
        ("B. Paris", "B"),
        ("The answer is D", "D"),
        ("Answer: (A)", "A"),
        ("A cat", None),
        ("Paris", None),
        ("", None),
    ],
)
def test_choice_letter(text, letter):
    assert choice_letter(text) == letter


def test_exact_folds_case_and_white_space():
    assert exact("", "New  York", " new york\n", {}) == 1 and exact("", "New York", "York", {}) == 0


def test_math_verify_survives_an_endless_power():
    """A power tower sends the algebra into a call that nothing but ending the process stops."""
    scorer = MathChild(timeout=2)
    assert scorer.score("", "\\frac{1}{2}", "so $0.5$", {}) == 1
    with pytest.raises(TimeoutError):
        scorer.score("", "7", "9**9**9**9", {})
    assert scorer.score("", "7", "\ud800 it is 7", {}) == 1


def test_hostile_text_in_a_file_is_cleaned(tmp_path):
    rows = [{"question": f"\ud800\x00 {i} " + "x" * 10**5, "answer": "\udfff"} for i in range(4)]
    task = build(write(tmp_path / "hostile.jsonl", rows), train_size=2, val_size=2)
    assert all((p.text + p.answer).encode("utf-8") for p in task.train)


@given(st.text(alphabet=st.characters(codec=None, categories=None), max_size=300))
def test_built_in_scorers_take_any_reply(reply):
    assert exact("", "7", reply, {}) in (0, 1)
    assert last_number(reply) is None or isinstance(last_number(reply), float)
    assert choice_letter(reply) is None or len(choice_letter(reply)) >= 1


def test_the_example_builds_and_scores():
    from pathlib import Path

    from fastslow.config_io import load_config

    config = load_config(Path(__file__).parents[2] / "examples" / "own_task.yaml")
    task = build_task(config.task)
    assert (len(task.train), len(task.val)) == (22, 8)
    problem = task.train[0]
    assert task.score(problem, f" {problem.answer.title()}.").reward == 1
    wordy = task.score(problem, f"I think {problem.answer}")
    assert wordy.reward == 0.2 and advice_in(wordy.feedback) == ["Reply with the name of the team alone."]
