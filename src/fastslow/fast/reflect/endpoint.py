"""A reflector behind any OpenAI-compatible server, built for servers that misbehave.

Timeouts, lost connections, 429 and 5xx are tried again; everything else that goes wrong with one reply costs one
proposal, with its reason. The key comes from the environment variable named in the config and goes nowhere else.
"""

from __future__ import annotations

import email.utils
import os
import random
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import urlsplit

import openai
from openai.types.chat import ChatCompletion

from fastslow.config import EndpointReflector as EndpointConfig
from fastslow.errors import EndpointError
from fastslow.fast.base import FailedTry, Proposal, Record
from fastslow.fast.reflect.prompt import BadReply, build_prompt, pick_component, read_reply, text_hash
from fastslow.seeds import derive_seed
from fastslow.tasks.feedback import one_line
from fastslow.types import Context

FIRST_WAIT = 1.0
"""Seconds before the first retry, doubled with each further one, times a jitter between 0.5 and 1.5."""

LONGEST_WAIT = 60.0
"""Seconds: neither the back-off nor a server's Retry-After waits longer."""

_NO_KEY = "no-key"
_CHARS_PER_TOKEN = 4
_CHECK_TOKENS = 16
_LONGEST_LINE = 400


class EndpointReflector:
    """See the module. ``concurrent``: the calls of one iteration may go out together.

    ``sleep`` waits a number of seconds between tries. The spending caps hold for the whole run: :meth:`get_state`
    goes into checkpoints.
    """

    name = "endpoint"
    concurrent = True

    def __init__(self, config: EndpointConfig, sleep: Callable[[float], None] = time.sleep) -> None:
        self.config = config
        self._sleep = sleep
        self._key = os.environ.get(config.api_key_env, "").strip()
        if not self._key and config.base_url is None:
            raise EndpointError(
                f"fast.reflector.api_key_env: the environment variable {config.api_key_env} is not set; "
                "set it to your key, or set fast.reflector.base_url to a server that needs none"
            )
        try:
            self._client = openai.OpenAI(
                base_url=config.base_url, api_key=self._key or _NO_KEY, max_retries=0, timeout=config.timeout
            )
        except (openai.OpenAIError, ValueError) as error:
            raise EndpointError(self._line(f"fast.reflector.base_url: {error}")) from None
        self._lock = threading.Lock()
        self._calls = self._tokens = self._reserved = 0

    @classmethod
    def from_config(cls, config: EndpointConfig, generate: Any = None) -> EndpointReflector:
        return cls(config)

    def __repr__(self) -> str:
        return f"EndpointReflector(model={self.config.model!r}, base_url={self._address()!r})"

    def get_state(self) -> dict[str, int]:
        """What was spent in this run so far, JSON-ready."""
        return {"calls": self._calls, "tokens": self._tokens}

    def set_state(self, state: dict[str, int]) -> None:
        self._calls, self._tokens = int(state["calls"]), int(state["tokens"])

    def check(self) -> None:
        """One small call before any compute is spent; raises EndpointError with the field and the mend."""
        spent = _Spent()
        try:
            self._ask("Reply with the word OK.", _CHECK_TOKENS, random.Random(0), spent, min(1, self.config.retries))
        except _CapReached:
            return  # A resumed run that has spent its cap goes on without reflection.
        except (openai.AuthenticationError, openai.PermissionDeniedError) as error:
            mend = (
                f"{self._address()} refuses the key ({error.status_code}); set {self.config.api_key_env} to a valid one"
            )
            raise EndpointError(self._line(f"fast.reflector.api_key_env: {mend}")) from None
        except openai.NotFoundError as error:
            mend = f"{self._address()} has no model {self.config.model!r} (404: {error.message})"
            hint = "mend the name, or fast.reflector.base_url, which usually ends in /v1"
            raise EndpointError(self._line(f"fast.reflector.model: {mend}; {hint}")) from None
        except openai.APIConnectionError as error:
            mend = f"{self._address()} can't be reached ({error}); start the server or mend the address"
            raise EndpointError(self._line(f"fast.reflector.base_url: {mend}")) from None
        except (openai.OpenAIError, BadReply, ValueError, RecursionError) as error:
            mend = f"{self._address()} doesn't answer as a chat server should ({error}); mend the address or the server"
            raise EndpointError(self._line(f"fast.reflector.base_url: {mend}")) from None

    def propose(self, context: Context, records: Sequence[Record], components: Sequence[str], seed: int) -> Proposal:
        """An edit of one component. Never raises for what a server does; the reason tells."""
        started = time.monotonic()
        spent = _Spent()
        rng = random.Random(derive_seed(seed, "endpoint"))
        new: dict[str, str] | None = None
        prompt_hash = ""
        try:
            component = pick_component(components, seed)
            prompt = build_prompt(context, component, records)
            prompt_hash = text_hash(prompt)
            text, finish_reason = self._ask(prompt, self.config.max_tokens, rng, spent, self.config.retries)
            text, reason = read_reply(text, finish_reason)
            new = {component: text}
        except (openai.OpenAIError, BadReply, ValueError, RecursionError) as error:
            reason = self._reason(error, spent)
        return Proposal(
            new,
            self._line(reason),
            calls=spent.calls,
            tokens=spent.tokens,
            seconds=time.monotonic() - started,
            prompt_hash=prompt_hash,
            failed=tuple(spent.failed),
        )

    def _reason(self, error: Exception, spent: _Spent) -> str:
        """Why a try failed, its kind before the first colon."""
        if isinstance(error, BadReply):
            return str(error)
        if isinstance(error, openai.APIStatusError):
            return f"endpoint error {error.status_code}: {error.message}"
        if isinstance(error, openai.APITimeoutError):
            return f"endpoint timed out: {self.config.timeout:g} s, {spent.calls} tries"
        if isinstance(error, openai.APIConnectionError):
            return f"endpoint can't be reached: {error.__cause__ or error}"
        return f"unreadable response: {error}"  # JSON's own errors, where a body can't be read or is nested too deep

    def _ask(self, prompt: str, max_tokens: int, rng: random.Random, spent: _Spent, retries: int) -> tuple[str, str]:
        """(text, finish reason) from the first try that succeeds; the last try's error otherwise."""
        for attempt in range(retries + 1):
            started, before = time.monotonic(), spent.tokens
            try:
                return self._try(prompt, max_tokens, spent)
            except (openai.APIConnectionError, openai.APIStatusError) as error:
                if attempt == retries or not _is_passing(error):
                    raise
                backoff = FIRST_WAIT * 2**attempt * (0.5 + rng.random())
                asked = _retry_after(error)
                self._sleep(min(LONGEST_WAIT, backoff if asked is None else max(asked, 0.0)))
                reason = self._line(self._reason(error, spent))
                spent.failed.append(FailedTry(spent.tokens - before, time.monotonic() - started, reason))
        raise AssertionError("unreachable")

    def _try(self, prompt: str, max_tokens: int, spent: _Spent) -> tuple[str, str]:
        guess = len(prompt) // _CHARS_PER_TOKEN + max_tokens
        self._reserve(guess)
        used = 0
        spent.calls += 1
        try:
            response = self._client.chat.completions.create(
                model=self.config.model,
                messages=[{"role": "user", "content": prompt}],
                temperature=self.config.temperature,
                # OpenAI's newer models refuse max_tokens; most other servers know nothing else.
                **{"max_completion_tokens" if self.config.base_url is None else "max_tokens": max_tokens},
            )
            used = _tokens_used(response, prompt)
        finally:
            with self._lock:
                self._reserved -= guess
                self._tokens += used
            spent.tokens += used
        return _content(response)

    def _reserve(self, guess: int) -> None:
        """Count a call before it is made, with the tokens it may take, so that no cap is passed even by threads."""
        calls, tokens = self.config.max_calls, self.config.max_total_tokens
        with self._lock:
            if calls is not None and self._calls >= calls:
                raise _CapReached(f"spending cap reached: {self._calls} of {calls} calls")
            if tokens is not None and self._tokens + self._reserved + guess > tokens:
                raise _CapReached(
                    f"spending cap reached: {self._tokens} of {tokens} tokens, and a reply may take {guess}"
                )
            self._calls += 1
            self._reserved += guess

    def _address(self) -> str:
        """Where the client calls, without any user name or password."""
        url = urlsplit(str(self.config.base_url or "https://api.openai.com/v1"))
        return f"{url.scheme}://{url.netloc.rpartition('@')[2]}{url.path}"

    def _line(self, text: str) -> str:
        """One printable line, without the key: servers like to quote it back."""
        line = " ".join(text.split())
        line = line.replace(self._key, "***") if self._key else line
        line = line if len(line) <= _LONGEST_LINE else line[: _LONGEST_LINE - 1] + "…"
        return one_line(line, _LONGEST_LINE)


class _CapReached(BadReply):
    """No further request fits the spending caps."""


class _Spent:
    """What one proposal took, retries included."""

    def __init__(self) -> None:
        self.calls = self.tokens = 0
        self.failed: list[FailedTry] = []


def _is_passing(error: openai.APIError) -> bool:
    """Whether the same request may succeed a little later."""
    return not isinstance(error, openai.APIStatusError) or error.status_code in (408, 429) or error.status_code >= 500


def _retry_after(error: openai.APIError) -> float | None:
    """Seconds a server asks to wait (a number, or an HTTP date), or None."""
    told = error.response.headers.get("retry-after") if isinstance(error, openai.APIStatusError) else None
    if told is None:
        return None
    try:
        return float(told)
    except ValueError:
        pass
    try:
        return email.utils.parsedate_to_datetime(told).timestamp() - time.time()
    except (ValueError, OverflowError):
        return None


def _tokens_used(response: Any, prompt: str) -> int:
    """As the server counts; a rough guess where it doesn't tell, so that the cap still binds."""
    told = getattr(getattr(response, "usage", None), "total_tokens", None)
    if isinstance(told, int) and told >= 0:
        return told
    return (len(prompt) + len(str(response))) // _CHARS_PER_TOKEN


def _content(response: Any) -> tuple[str, str]:
    """The client hands through whatever arrives with status 200, so nothing is taken for granted."""
    choices = getattr(response, "choices", None)
    if not isinstance(response, ChatCompletion) or not isinstance(choices, list) or not choices:
        raise BadReply(f"not a chat completion: {str(response)[:80]!r}")
    choice = choices[0]
    message = getattr(choice, "message", None)
    if message is not None and getattr(message, "refusal", None):
        raise BadReply("the model refused: " + str(message.refusal)[:80])
    content = getattr(message, "content", None)
    if content is not None and not isinstance(content, str):
        raise BadReply(f"not a chat completion: content of type {type(content).__name__}")
    return content or "", str(getattr(choice, "finish_reason", None) or "")
