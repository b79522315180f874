"""The endpoint reflector against a real HTTP server on loopback that misbehaves in turn."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from fastslow.config import EndpointReflector as EndpointConfig
from fastslow.errors import EndpointError
from fastslow.fast.base import Record
from fastslow.fast.reflect import build_reflector
from fastslow.fast.reflect.endpoint import LONGEST_WAIT, EndpointReflector
from fastslow.types import Context, Problem

KEY = "sk-very-secret-0123456789"
CONTEXT = Context({"instructions": "Add the numbers."})
RECORDS = [Record(Problem("p1", "What is 2 + 3?", "[5]"), "5", 0.0, "Advice: Use square brackets.")]
GOOD = "Brackets are missing.\n```\nAdd the numbers. Write [n].\n```"


def completion(text: str | None, finish_reason: str = "stop", tokens: int = 10) -> tuple[int, dict, str]:
    body = {
        "id": "c",
        "object": "chat.completion",
        "created": 0,
        "model": "m",
        "choices": [{"index": 0, "finish_reason": finish_reason, "message": {"role": "assistant", "content": text}}],
        "usage": {"prompt_tokens": tokens - 4, "completion_tokens": 4, "total_tokens": tokens},
    }
    return 200, {"Content-Type": "application/json"}, json.dumps(body)


def failure(status: int, message: str = "no", **headers: str) -> tuple[int, dict, str]:
    fields = {"Content-Type": "application/json", **{k.replace("_", "-"): v for k, v in headers.items()}}
    return status, fields, json.dumps({"error": {"message": message}})


HANG = "hang"
DROP = "drop"


class Server:
    """Answers with the scripted replies, one each, then with the last one again."""

    def __init__(self) -> None:
        self.script: list = []
        self.requests: list[dict] = []
        self.keys: list[str] = []
        self.released = threading.Event()
        self.lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with outer.lock:
                    outer.requests.append(body)
                    outer.keys.append(self.headers["Authorization"])
                    reply = outer.script.pop(0) if len(outer.script) > 1 else outer.script[0]
                if reply == HANG:
                    outer.released.wait(10)
                if reply in (HANG, DROP):
                    self.close_connection = True
                    return
                status, headers, text = reply
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(text.encode())))
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, *args: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}/v1"
        threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def close(self) -> None:
        self.released.set()
        self.http.shutdown()
        self.http.server_close()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("TEST_REFLECTION_KEY", KEY)
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "127.0.0.1")
    started = Server()
    yield started
    started.close()


def reflector(server: Server, waits: list[float] | None = None, **settings: object) -> EndpointReflector:
    config = EndpointConfig(
        **{
            "model": "m",
            "base_url": server.url,
            "api_key_env": "TEST_REFLECTION_KEY",
            "timeout": 0.5,
            "retries": 4,
            **settings,
        }
    )
    return EndpointReflector(config, sleep=(waits if waits is not None else []).append)


def propose(r: EndpointReflector, seed: int = 0):
    return r.propose(CONTEXT, RECORDS, ["instructions"], seed)


def test_misbehaving_server_costs_retries_and_single_proposals_but_nothing_is_lost(server: Server) -> None:
    server.script = [
        failure(429, Retry_After="7"),
        failure(500),
        HANG,
        DROP,
        completion(GOOD),  # the fifth try of the first proposal
        (200, {"Content-Type": "application/json"}, "<html>not json"),
        (200, {"Content-Type": "text/event-stream"}, 'data: {"choices": []}\n\ndata: [DONE]\n\n'),
        completion("no fence at all"),
        completion(GOOD[:-4], "length"),
        completion(""),
        completion(None),
        completion("<think>on and on"),
        completion(f"<think>hm ```</think>{GOOD}"),
    ]
    waits: list[float] = []
    r = reflector(server, waits)
    proposals = [propose(r, seed) for seed in range(9)]

    assert [p.components is not None for p in proposals] == [True] + [False] * 7 + [True]
    assert proposals[0].components == proposals[-1].components == {"instructions": "Add the numbers. Write [n]."}
    assert proposals[0].reason == "Brackets are missing."
    kinds = [p.reason.split(":")[0] for p in proposals[1:-1]]
    assert kinds == [
        "unreadable response",
        "not a chat completion",
        "no fenced block in the reply",
        "reply cut off at the token limit",
        "empty reply",
        "empty reply",
        "reply cut off while thinking",
    ]
    assert [p.calls for p in proposals] == [5, 1, 1, 1, 1, 1, 1, 1, 1]
    assert len(server.requests) == 13 == r.get_state()["calls"]
    assert sum(p.tokens for p in proposals) == r.get_state()["tokens"] >= 7 * 10
    assert waits[0] == 7.0 and len(waits) == 4
    # Back-off doubles from one second, jittered by a factor between 0.5 and 1.5.
    assert all(0.5 * 2**i <= wait <= 1.5 * 2**i for i, wait in enumerate(waits) if i > 0)


def test_jitter_is_seeded(server: Server) -> None:
    server.script = [failure(503)]
    runs: list[list[float]] = [[], [], []]
    for waits, seed in zip(runs, (1, 1, 2), strict=True):
        proposal = propose(reflector(server, waits), seed)
        assert proposal.components is None and proposal.reason.startswith("endpoint error 503:")
        assert proposal.calls == 5
    assert runs[0] == runs[1] != runs[2]


@pytest.mark.parametrize("told", ["100000", "inf", "nan", "Wed, 21 Oct 2999 07:28:00 GMT"])
def test_a_huge_retry_after_is_capped(server: Server, told: str) -> None:
    server.script = [failure(429, Retry_After=told), completion(GOOD)]
    waits: list[float] = []
    assert propose(reflector(server, waits)).components
    assert waits == [LONGEST_WAIT]


def test_an_unreadable_retry_after_falls_back_to_the_back_off(server: Server) -> None:
    server.script = [failure(429, Retry_After="soon"), completion(GOOD)]
    waits: list[float] = []
    assert propose(reflector(server, waits)).components
    assert 0.5 <= waits[0] <= 1.5


def test_a_refused_key_fails_one_proposal_and_is_never_repeated(server: Server) -> None:
    server.script = [failure(401, f"bad key {KEY}"), completion(GOOD)]
    r = reflector(server)
    refused = propose(r)
    assert refused.components is None and refused.calls == 1
    assert KEY not in refused.reason and "***" in refused.reason
    assert propose(r).components
    assert KEY not in repr(r) and KEY not in json.dumps(r.get_state())
    assert server.keys == [f"Bearer {KEY}"] * 2


@pytest.mark.parametrize(
    ("reply", "field"),
    [
        (failure(401, f"bad key {KEY}"), "fast.reflector.api_key_env"),
        (failure(403, "forbidden"), "fast.reflector.api_key_env"),
        (failure(404, "model not found"), "fast.reflector.model"),
        (DROP, "fast.reflector.base_url"),
        (failure(500, "broken"), "fast.reflector.base_url"),
        ((200, {"Content-Type": "text/html"}, "<html>\nhello</html>"), "fast.reflector.base_url"),
    ],
)
def test_check_names_the_field_and_the_mend_in_one_line(server: Server, reply: object, field: str) -> None:
    server.script = [reply]
    with pytest.raises(EndpointError) as caught:
        reflector(server).check()
    message = str(caught.value)
    assert message.startswith(field + ":") and "\n" not in message and KEY not in message


def test_check_passes_with_one_small_call(server: Server) -> None:
    server.script = [completion(None, "length", tokens=20)]
    r = reflector(server)
    r.check()
    assert r.get_state() == {"calls": 1, "tokens": 20}
    assert server.requests[0]["max_tokens"] <= 16


def test_no_server_at_all_is_told_by_check(server: Server) -> None:
    r = reflector(server, base_url="http://user:pa55@127.0.0.1:9/v1", retries=0)
    with pytest.raises(EndpointError, match=r"fast\.reflector\.base_url: http://127\.0\.0\.1:9/v1 can't be reached"):
        r.check()
    assert "pa55" not in repr(r)
    assert propose(r).reason.startswith("endpoint can't be reached")


def test_a_missing_key_is_an_error_only_without_a_server_of_your_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TEST_REFLECTION_KEY", raising=False)
    with pytest.raises(EndpointError, match="TEST_REFLECTION_KEY"):
        build_reflector(EndpointConfig(model="m", api_key_env="TEST_REFLECTION_KEY"))
    build_reflector(EndpointConfig(model="m", base_url="http://127.0.0.1:9/v1", api_key_env="TEST_REFLECTION_KEY"))


def test_the_call_cap_holds_over_retries_threads_and_resumes(server: Server) -> None:
    server.script = [failure(500)]
    r = reflector(server, max_calls=7)
    threads = [threading.Thread(target=propose, args=(r, seed)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(server.requests) == 7

    resumed = reflector(server, max_calls=7)
    resumed.set_state(json.loads(json.dumps(r.get_state())))
    capped = propose(resumed)
    assert capped.components is None and capped.reason.startswith("spending cap reached: 7 of 7 calls")
    resumed.check()
    assert len(server.requests) == 7


def test_the_token_cap_leaves_room_for_a_whole_reply(server: Server) -> None:
    server.script = [completion(GOOD, tokens=900)]
    r = reflector(server, max_total_tokens=2500, max_tokens=500)
    results = [propose(r, seed) for seed in range(5)]
    # 0 and 900 spent leave room for a prompt and 500 tokens; 1800 don't.
    assert [p.components is not None for p in results] == [True, True, False, False, False]
    assert r.get_state() == {"calls": 2, "tokens": 1800}


def test_a_hanging_server_is_left_after_the_timeout(server: Server) -> None:
    server.script = [HANG]
    started = time.monotonic()
    proposal = propose(reflector(server, retries=0, timeout=0.2))
    assert proposal.reason.startswith("endpoint timed out: 0.2 s, 1 tries")
    assert proposal.seconds <= time.monotonic() - started
