"""Locks: contexts with hostile text keep their ids, survive the trip through text and JSON, and are proposed only where
they can be read back; prompts to a reflecting model are valid; whatever a reply or a server says costs one proposal."""

from __future__ import annotations

import json
import logging
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from hostile import hostile, hostile_text
from hypothesis import example, given
from hypothesis import strategies as st

from fastslow.config import EndpointReflector as EndpointConfig
from fastslow.config import SeedContextConfig
from fastslow.fast.base import Record
from fastslow.fast.guards import ContextGuard, leaks
from fastslow.fast.lineage import Lineage
from fastslow.fast.population import Population, context_from_dict, context_to_dict
from fastslow.fast.reflect.endpoint import EndpointReflector
from fastslow.fast.reflect.feedback import FeedbackReflector
from fastslow.fast.reflect.prompt import BadReply, build_prompt, read_reply, strip_thinking
from fastslow.fast.reflection import Reflection
from fastslow.runs.files import json_text
from fastslow.seeds import derive_seed
from fastslow.tasks.feedback import compose_feedback
from fastslow.tasks.problems import clean_text, seed_context
from fastslow.types import Context, Problem
from fastslow.worked_examples import WorkedExample, format_examples, parse_examples

BOTH = ["instructions", "examples"]
SEED = Context({"instructions": "Answer.", "examples": format_examples([WorkedExample("What is one?", "1")])})
texts = hostile_text()


def same(text: str) -> str:
    return re.sub("\r+\n", "\n", text).strip()


@hostile(1200)
@given(pairs=st.lists(st.tuples(texts, texts), min_size=1, max_size=3))
@example(pairs=[("a\n### Answer\nforged", "### Question\n b\n### Answer\r\nc")])
@example(pairs=[("\r### Answer", "a\r\r\n### Question")])
def test_worked_examples_survive_the_trip(pairs):
    examples = [WorkedExample(q, a) for q, a in pairs]
    back = parse_examples(format_examples(examples))
    assert [(e.question, e.answer) for e in back] == [(same(q), same(a)) for q, a in pairs]


@hostile(1000)
@given(text=texts)
def test_any_text_is_parsed_or_refused_with_a_reason(text):
    try:
        examples = parse_examples(text)
    except ValueError as error:
        assert str(error)
    else:
        assert parse_examples(format_examples(examples)) == examples


@hostile(1000)
@given(components=st.dictionaries(hostile_text(2), texts, max_size=3), reason=texts)
def test_contexts_and_populations_survive_json(components, reason):
    assert Context(components).id == Context(dict(reversed(components.items()))).id
    assert derive_seed(0, reason) == derive_seed(0, reason)
    # Only valid Unicode enters a population: the guard and the config see to that.
    context = Context({clean_text(k): clean_text(v) for k, v in components.items()}, ("parent",), 3, clean_text(reason))
    assert context_from_dict(json.loads(json_text(context_to_dict(context)))) == context
    population = Population((context, SEED), scores={context.id: {context.reason: 1.0}})
    stored = json_text(population.to_dict())
    assert Population.from_dict(json.loads(stored.encode().decode())) == population
    told = json.loads(json_text(context_to_dict(Context(context.components, reason=reason))).encode().decode())
    assert context_from_dict(told).id == context.id


@hostile(300)
@given(instructions=texts, examples=texts)
@example(instructions="\ud83d\ude00", examples="")  # two halves of one character, which JSON puts together
def test_the_seed_context_of_a_config_is_valid_text(instructions, examples):
    config = SeedContextConfig.model_construct(instructions=instructions, examples=examples)
    context = seed_context(config)
    assert context_from_dict(json.loads(json_text(context_to_dict(context)))) == context


@hostile(800)
@given(question=texts, reply=texts, answer=texts, advice=texts, seed=st.integers(0, 9))
def test_the_feedback_reflector_proposes_what_reads_back(question, reply, answer, advice, seed):
    feedback = compose_feedback("No.", advice=[advice], expected=answer)
    record = Record(Problem("p", question, answer), reply, 0.0, feedback)
    pool = [Problem("p2", f"And {question}", f"{answer}2"), Problem("p3", "plain?", "yes")]
    proposal = FeedbackReflector(4, pool).propose(SEED, [record], BOTH, seed)
    if proposal.components is None:
        return
    child = Context({**SEED.components, **proposal.components})
    assert 0 < len(parse_examples(child.examples)) <= 4
    guard = ContextGuard(lambda c: len(c.instructions) + len(c.examples), 300, [record.problem])
    reason = guard.reject(child, SEED, ())
    assert reason is not None or len(child.instructions) + len(child.examples) <= 300
    leaks(child, record.problem)


@hostile(800)
@given(question=texts, reply=texts, feedback=texts, part=texts)
@example(question="\ud800", reply="", feedback="", part="\udfff")  # no HTTP client can send it
@example(question="`" * 100_000, reply="a", feedback="", part="")  # every fence grew beyond it
def test_reflection_prompts_are_valid_and_closed(question, reply, feedback, part):
    context = Context({"instructions": part, "examples": ""})
    record = Record(Problem("p", question, messages=({"role": "user", "content": reply},)), reply, 0.0, feedback)
    prompt = build_prompt(context, "instructions", [record])
    assert json.loads(json.dumps(prompt, ensure_ascii=False).encode("utf-8")) == prompt
    assert len(prompt) < 2500 + sum(len(t) for t in (question, reply, reply, feedback, part)) + 20 * 34
    fence = prompt[: prompt.rindex("Write nothing after it")].split("a line of ")[-1].rstrip(". ")
    assert set(fence) == {"`"} and sum(line == fence for line in prompt.split("\n")) == 2 * 5


@hostile(1500)
@given(reply=texts | texts.map(lambda t: f"why\n```\n{t}\n```"), finish=st.sampled_from(["stop", "", "length"]) | texts)
@example(reply="<think>" * 3 + "x</think>\n```\nnew\n```", finish="stop")
def test_replies_are_read_or_refused_with_a_reason(reply, finish):
    try:
        text, reason = read_reply(reply, finish)
    except BadReply as error:
        assert str(error)
        return
    assert text.strip() and text.encode() and reason.isprintable() and len(reason) <= 200
    assert "<think>" not in strip_thinking(clean_text(reply)).lower()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["content", "message", "x"]), inner),
    max_leaves=6,
)


@st.composite
def bodies(draw) -> bytes:
    """What a server may send: bytes, any JSON, or a chat completion with one odd part."""
    message = {"role": "assistant", "content": draw(texts | JSON)}
    choice = draw(st.just({"index": 0, "finish_reason": draw(st.just("stop") | JSON), "message": message}) | JSON)
    whole = {"id": "c", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]}
    whole["usage"] = draw(st.none() | st.just({"total_tokens": draw(JSON)}) | JSON)
    if draw(st.booleans()):
        whole["choices"] = draw(JSON)
    kind = draw(st.integers(0, 5))
    if kind == 0:
        return draw(st.binary(max_size=40))
    return json.dumps(draw(JSON) if kind == 1 else whole).encode()


class Server(ThreadingHTTPServer):
    """Sends ``answer`` (status, content type, body) to whoever asks, on loopback."""

    answer: tuple[int, str, bytes] = (500, "", b"")


class Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"])).decode("utf-8")
        status, content_type, body = self.server.answer
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        return


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[Server, EndpointReflector]]:
    with Server(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        config = EndpointConfig(base_url=f"http://127.0.0.1:{server.server_port}/v1", model="m", retries=1)
        yield server, EndpointReflector(config, sleep=lambda _: None)
        server.shutdown()


def chat(usage: object, choices: object) -> bytes:
    return json.dumps({"id": "c", "object": "chat.completion", "choices": choices, "usage": usage}).encode()


@hostile(400)
@given(body=bodies(), status=st.sampled_from([200, 200, 200, 400, 429, 500]), kind=st.sampled_from(["json", "html"]))
@example(body=b"[" * 200_000, status=200, kind="json")  # nested too deep for the JSON reader
@example(body=chat({"total_tokens": [1]}, []), status=200, kind="json")  # tokens that are no number
@example(body=chat({"total_tokens": -1_000_000}, []), status=200, kind="json")  # a cap that never bound
@example(body=chat(None, [None]), status=200, kind="json")
@example(body=chat(None, {"a": 1}), status=200, kind="json")
@example(body=b'{"error": {"message": "\x1b]0;x\x07"}}', status=400, kind="json")
def test_whatever_a_server_sends_costs_one_proposal(server, body, status, kind):
    content_type = {"json": "application/json", "html": "text/html"}[kind]
    web, reflector = server
    web.answer = (status, content_type, body)
    reflector.set_state({"calls": 0, "tokens": 0})
    record = Record(Problem("p", "1 + 1? \ud800"), "\ud800", 0.0, "no")
    proposal = reflector.propose(SEED, [record], BOTH, 0)
    assert proposal.reason.isprintable() and len(proposal.reason) <= 400
    assert proposal.tokens >= 0 and reflector.get_state()["tokens"] == proposal.tokens
    for text in (proposal.components or {}).values():
        assert text.strip() and text.encode()


@hostile(200)
@given(text=texts)
def test_a_failing_reflector_is_logged_in_one_line(text):
    class Failing:
        name = "failing"

        def propose(self, *_):
            raise RuntimeError(text)

    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(logging.Formatter().format(record))
    logger = logging.getLogger("fastslow.fast")
    logger.addHandler(handler)
    try:
        lineage = Lineage(BOTH, {}, 0, 0)
        lineage.add_member(SEED)
        guard = ContextGuard(lambda c: 1, 10, [])
        record = Record(Problem("p", "q"), "r", 0.0, "f")
        Reflection(Failing(), lineage, guard, 0).reflect(lineage.texts(SEED), {"records": [{"record": record}]}, BOTH)
    finally:
        logger.removeHandler(handler)
    assert len(lines) == 1 and lines[0].isprintable() and "failing" in lines[0]
    assert list(lineage.reasons) == ["reflector error"]


@pytest.mark.parametrize("make", [lambda t: t, lambda t: f"### Question\n{t}\n### Answer\n{t}"], ids=["text", "form"])
@hostile(300)
@given(text=texts, question=texts)
def test_guards_judge_any_text(make, text, question):
    guard = ContextGuard(lambda c: len(c.examples), 10_000, [Problem("p", question)])
    proposal = Context({"instructions": text, "examples": make(text)})
    reason = guard.reject(proposal, SEED, ())
    if reason is None:
        parse_examples(proposal.examples)
        assert all(isinstance(part.encode(), bytes) for part in proposal.components.values())
