"""What no proposal may do: outgrow the token cap, break the examples' form, or memorise the training problems."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import lru_cache

from fastslow.types import Context, Problem
from fastslow.worked_examples import parse_examples

MAX_EXAMPLES = 8
"""Worked examples a context may hold where the config doesn't say."""

_SHORTEST_QUESTION = 8
"""Folded questions under this many characters turn up in honest text, so they prove no copying."""


class ContextGuard:
    """Checks proposals against ``problems``, the training problems of this cycle.

    ``count_tokens`` gives the tokens a context adds to every prompt; ``max_tokens`` caps them.
    """

    def __init__(
        self,
        count_tokens: Callable[[Context], int],
        max_tokens: int,
        problems: Sequence[Problem],
        max_examples: int = MAX_EXAMPLES,
    ) -> None:
        self.count_tokens = count_tokens
        self.max_tokens = max_tokens
        self.max_examples = max_examples
        self.questions = {folded(p.text) for p in problems}

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
        copied = sum(shows(proposal, question) for question in self.questions)
        if copied > self.max_examples:
            return f"copies training questions: {copied} of them, at most {self.max_examples}"
        return None

    def _too_long(self, proposal: Context) -> str | None:
        tokens = self.count_tokens(proposal)
        return f"token cap: {tokens} tokens, at most {self.max_tokens}" if tokens > self.max_tokens else None


def leaks(context: Context, problem: Problem) -> bool:
    """Whether the context shows the problem's question word for word (case and white space aside).

    Such a problem says nothing about the context: its answer stands there to be copied.
    """
    return shows(context, folded(problem.text))


def shows(context: Context, question: str) -> bool:
    """Whether ``question``, already folded, stands in one of the context's components as whole words."""
    if len(question) < _SHORTEST_QUESTION:
        return False
    return any(_stands_in(question, _folded_cached(text)) for text in context.components.values())


def folded(text: str) -> str:
    """Lower case, with every run of white space as one space."""
    return re.sub(r"\s+", " ", text).strip().casefold()


_folded_cached = lru_cache(maxsize=256)(folded)


def _stands_in(needle: str, text: str) -> bool:
    start = text.find(needle)
    while start >= 0:
        before, after = text[max(0, start - 1) : start], text[start + len(needle) : start + len(needle) + 1]
        # "add 1 + 2" must not be found inside "add 1 + 23".
        if not (before.isalnum() and needle[0].isalnum()) and not (after.isalnum() and needle[-1].isalnum()):
            return True
        start = text.find(needle, start + 1)
    return False
