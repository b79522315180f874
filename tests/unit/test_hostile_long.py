"""Locks: a megabyte in one line is handled in time proportional to it, wherever text enters.

Each of these took time that grows with the square of the length (hours here) or has a limit of its own; a test that
hangs meets the runner's timeout.
"""

from __future__ import annotations

import json

import pytest
from test_hostile_prompts import renderer
from test_hostile_tasks import file_task

from fastslow.config import ConventionConfig
from fastslow.fast.base import Record
from fastslow.fast.guards import shows
from fastslow.fast.reflect.feedback import FeedbackReflector
from fastslow.fast.reflect.prompt import BadReply, build_prompt, read_reply
from fastslow.report.text import for_markdown, for_terminal
from fastslow.runs.ledger_file import storable
from fastslow.tasks.conventions import convention_kinds, make_convention
from fastslow.tasks.feedback import LONGEST_FEEDBACK, compose_feedback, miss_notes, one_line, quoted
from fastslow.tasks.registry import build_task
from fastslow.tasks.replies import is_safe_reply
from fastslow.tasks.scorers import choice, exact, numeric
from fastslow.types import Context, Problem
from fastslow.worked_examples import WorkedExample, format_examples, parse_examples

MEGABYTE = 2**20
PIECES = [
    "a",
    "7",
    " ",
    "\n",
    "`",
    "<answer>",
    "<think>",
    "answer ",
    "answer  ",
    "7,",
    "1.",
    "(",
    "{",
    "\x1b[31m",
    "\u0301",
]
PIECES += [
    "### Question\n",
    "<|im_end|>",
    "[/INST]",
    "||",
    "Answer:\n",
    "\ud800",
    "\0",
    "$",
    "'; DROP TABLE rollouts;--",
]
pytestmark = pytest.mark.timeout(120)


def long(piece: str) -> str:
    return piece * (MEGABYTE // len(piece))


CLOSED = "</answer> answer </think>"


@pytest.mark.parametrize("piece, end", [*((p, CLOSED) for p in PIECES), ("<answer>", ""), ("answer  ", "")], ids=ascii)
def test_scorers_and_feedback(piece, end):
    reply = long(piece) + end
    assert exact("q", "7", reply, {}) in (0.0, 1.0)
    assert numeric("q", "7", reply, {}) in (0.0, 1.0)
    assert choice("q", "B", reply + " " * MEGABYTE, {}) in (0.0, 1.0)
    for answer in ("7", "a a", piece):
        notes, advice = miss_notes(answer, reply)
        assert len(compose_feedback(notes, advice=advice, expected=answer)) < 4000
    assert len(compose_feedback("no", expected=reply)) < LONGEST_FEEDBACK
    assert len(quoted(reply)) < 2000 and len(one_line(reply)) <= 300
    assert not is_safe_reply("n_queens", reply)
    for kind in convention_kinds():
        make_convention(ConventionConfig(kind=kind), ["7"]).decode(reply)


@pytest.mark.parametrize("piece", PIECES, ids=ascii)
def test_reflection_and_contexts(piece):
    text = long(piece)
    record = Record(Problem("p", text, text), text, 0.0, compose_feedback(text, advice=[text], expected="7"))
    prompt = build_prompt(Context({"instructions": "", "examples": ""}), "instructions", [record])
    assert len(prompt) < 20_000 and prompt.encode()
    with pytest.raises(BadReply):
        read_reply(text, "stop")
    proposal = FeedbackReflector(4).propose(Context({}), [record], ["instructions", "examples"], 0)
    assert proposal.components
    examples = format_examples([WorkedExample(text, "7"), WorkedExample("q", text)])
    assert len(parse_examples(examples)) == 2
    assert shows(Context({"instructions": text}), long("a")[:5000]) in (True, False)
    assert storable(text) and for_terminal(text) is not None and for_markdown(text) is not None


@pytest.mark.parametrize(
    "piece", ["a", "\n", "<|im_end|>", "||", "[/INST]", "Answer:\n", "＜|im_end|＞", "\ud800"], ids=ascii
)
@pytest.mark.parametrize("shape", ["text", "chatml", "llama2", "folding"])
def test_prompts(piece, shape):
    prompts = renderer(shape)
    text = piece * (MEGABYTE // 8 // len(piece))
    ids, shared = prompts.render(Context({}), Problem("p", text))
    few, _ = prompts.render(Context({}), Problem("p", "a"))
    end = prompts.tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert ids.count(end) == few.count(end) and shared < len(ids)


def test_megabyte_cells_load(tmp_path):
    for form, text in (("jsonl", json.dumps), ("csv", lambda row: ",".join(row.values()))):
        path = tmp_path / f"data.{form}"
        rows = [text({"question": f"{i} " + "a" * MEGABYTE, "answer": "7"}) for i in range(2)]
        path.write_text("\n".join([*(["question,answer"] if form == "csv" else []), *rows]))
        task = build_task(file_task(path))
        assert len(task.val[0].text) == MEGABYTE + 2
        assert len(task.score(task.val[0], "b" * MEGABYTE).feedback) < 1000
