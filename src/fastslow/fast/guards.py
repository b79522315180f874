"""What no proposal may do: outgrow the token cap, break the examples' form, or memorise the training problems."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import lru_cache

from fastslow.errors import TaskError
from fastslow.types import Context, Problem
from fastslow.worked_examples import parse_examples

MAX_EXAMPLES = 8
"""Worked examples a context may hold where the config doesn't say."""

_SHORTEST_QUESTION = 8
"""Folded questions under this many characters turn up in honest text, so they prove no copying."""

_SHORTEST_ANSWER = 16
"""The same of gold answers; and only an answer that no other problem has tells which problem was copied."""

_TOKEN = re.compile(r"\d+(?:\.\d+)?|[^\W\d_]+|[^\w\s]")
_MARKUP = re.compile(r"\*\*|`")
_UNHEARD = frozenset(".,;:!?\"'#…“”‘’„«»。、，？！")
_GOES_ON = re.compile(r"[-+*/^%×÷] (?:\( )*\d")
_WENT_BEFORE = re.compile(r"\d (?:\) )*[-+*/^%×÷]$")


class ContextGuard:
    """Checks proposals against ``problems``, the training problems of this cycle.

    ``count_tokens`` gives the tokens a context adds to every prompt; ``max_tokens`` caps them. A training problem
    counts as copied where its question stands in the context, in any component, or a long answer that is its alone.
    Questions of ``held_out``, the validation problems, may not stand in a context at all.
    """

    def __init__(
        self,
        count_tokens: Callable[[Context], int],
        max_tokens: int,
        problems: Sequence[Problem],
        max_examples: int = MAX_EXAMPLES,
        held_out: Sequence[Problem] = (),
    ) -> None:
        self.count_tokens = count_tokens
        self.max_tokens = max_tokens
        self.max_examples = max_examples
        self.held_out = {folded(p.text) for p in held_out}
        answers = [folded(p.answer or "") for p in problems]
        often = Counter(answers)
        self.copies = {
            (folded(p.text), answer if len(answer) >= _SHORTEST_ANSWER and often[answer] == 1 else "")
            for p, answer in zip(problems, answers, strict=True)
        }

    def reject(self, proposal: Context, parent: Context | None, seen: Collection[str]) -> str | None:
        """The reason to refuse ``proposal``, or None; ``seen`` holds the ids already tried in this cycle.

        What stands before the first colon names the kind, so that reasons can be counted.
        """
        if parent is not None and proposal.id == parent.id:
            return "unchanged"
        if proposal.is_empty:
            return "empty context"
        if proposal.id in seen:
            return "already tried in this cycle"
        return self._bad_text(proposal.components) or self._bad_examples(proposal) or self._too_long(proposal)

    def _bad_text(self, components: Mapping[str, str]) -> str | None:
        for name, text in components.items():
            try:
                text.encode("utf-8")
            except UnicodeEncodeError:
                return f"text that is not valid Unicode: in {name}"
        return None

    def _bad_examples(self, proposal: Context) -> str | None:
        try:
            examples = parse_examples(proposal.examples)
        except ValueError as error:
            return f"examples can't be read: {error}"
        if len(examples) > self.max_examples:
            return f"too many examples: {len(examples)}, at most {self.max_examples}"
        if any(shows(proposal, question) for question in self.held_out):
            return "shows a validation problem"
        copied = sum(any(shows(proposal, text) for text in copy) for copy in self.copies)
        if copied > self.max_examples:
            return f"copies training problems: {copied} of them, at most {self.max_examples}"
        return None

    def _too_long(self, proposal: Context) -> str | None:
        tokens = self.count_tokens(proposal)
        return f"token cap: {tokens} tokens, at most {self.max_tokens}" if tokens > self.max_tokens else None


def leaks(context: Context, problem: Problem) -> bool:
    """Whether the context shows the problem's question (case, white space, markup and punctuation aside).

    Such a problem says nothing about the context: its answer stands there to be copied.
    """
    return shows(context, folded(problem.text))


def refuse_leaks(context: Context, held_out: Sequence[Problem]) -> None:
    """Raise :class:`TaskError` where the seed context shows validation problems: their accuracy would mean nothing."""
    shown = [p for p in held_out if leaks(context, p)]
    if shown:
        raise TaskError(
            f"task.seed_context: shows {len(shown)} of the validation problems (such as {shown[0].id}); "
            "take them out, or set another task.seed for the split"
        )


def shows(context: Context, question: str) -> bool:
    """Whether ``question``, already folded, stands in one of the context's components as whole words."""
    if len(question) < _SHORTEST_QUESTION:
        return False
    return any(_stands_in(question, folded(text)) for text in context.components.values())


@lru_cache(maxsize=4096)
def folded(text: str) -> str:
    """The words, numbers and operators of a text, one space between: lower case, without markup and punctuation."""
    plain = unicodedata.normalize("NFKC", text).casefold().replace("\u2212", "-")
    plain = "".join(c for c in plain if unicodedata.category(c) != "Cf")  # soft hyphens, zero-width spaces
    return " ".join(t for t in _TOKEN.findall(_MARKUP.sub(" ", plain)) if t not in _UNHEARD)


def _stands_in(needle: str, text: str) -> bool:
    text = f" {text} "
    start = text.find(f" {needle} ")
    while start >= 0:
        # "add 1 + 2" must not be found inside "add 1 + 2 - 3".
        after, before = text[start + len(needle) + 2 :], text[max(0, start - 16) : start]
        goes_on = needle[-1].isdigit() and _GOES_ON.match(after)
        if not goes_on and not (needle[0].isdigit() and _WENT_BEFORE.search(before)):
            return True
        start = text.find(f" {needle} ", start + 1)
    return False
