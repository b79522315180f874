"""From (context, problem) to prompt tokens, split where the context ends and the problem begins.

The split lets every rollout under a context share its computation. Untrusted text can't close its turn: whatever
would read as the prompt's own structure inside instructions, examples or problems is broken up before rendering (see
:mod:`fastslow.policy.untrusted`).
"""

from __future__ import annotations

from typing import Any

from fastslow.config import PromptConfig
from fastslow.errors import ModelError
from fastslow.policy.untrusted import Neutralizer, indent_labels, label_pattern, safe_role
from fastslow.types import Context, Problem
from fastslow.worked_examples import WorkedExample, parse_examples

_PROBES = ("0", "1")  # two questions that differ from their first character on


class PromptRenderer:
    """Renders prompts for one tokenizer. ``style`` is resolved from ``auto``: chat where a template exists.

    ``prefers_user_turn`` says that the model ignores system messages, so ``auto`` puts instructions in a user turn.
    """

    def __init__(self, tokenizer: Any, config: PromptConfig, prefers_user_turn: bool = False) -> None:
        self.tokenizer = tokenizer
        self.config = config
        has_template = bool(getattr(tokenizer, "chat_template", None))
        if config.style == "chat" and not has_template:
            raise ModelError("model.prompt.style: chat needs a tokenizer with a chat template; use style: text")
        self.style = config.style if config.style != "auto" else ("chat" if has_template else "text")
        self.instructions = self._place_instructions(prefers_user_turn)
        self.examples = "turns" if config.examples == "auto" else config.examples
        self._neutralizer = Neutralizer(tokenizer, self._apply_template if self.style == "chat" else None)
        labels = (config.question_prefix, config.answer_prefix)
        self._labels = label_pattern(labels)
        self._labels_anywhere = label_pattern(labels, at_start=True)
        self._prefix_texts: dict[str, str] = {}
        self._prefix_ids: dict[str, tuple[int, ...]] = {}

    def render(self, context: Context, problem: Problem) -> tuple[tuple[int, ...], int]:
        """Prompt token ids and how many of them, at the front, are the context's alone."""
        prefix = self.prefix_text(context)
        full = self.full_text(context, problem)
        if not full.startswith(prefix):  # a template that rewrites earlier turns: nothing to share
            return self._encode(full, first=True), 0
        prefix_ids = self._prefix_ids.get(context.id)
        if prefix_ids is None:
            prefix_ids = self._prefix_ids[context.id] = self._encode(prefix, first=True)
        return prefix_ids + self._encode(full[len(prefix) :], first=False), len(prefix_ids)

    def prefix_text(self, context: Context) -> str:
        """The part of the prompt that is the same for every problem under ``context``."""
        if context.id not in self._prefix_texts:
            probes = [self.full_text(context, Problem(id=p, text=p)) for p in _PROBES]
            self._prefix_texts[context.id] = _common_start(*probes)
        return self._prefix_texts[context.id]

    def full_text(self, context: Context, problem: Problem) -> str:
        """The whole prompt as text, up to where the reply begins."""
        examples = parse_examples(context.examples)
        if self.style == "text":
            return self._plain_text(context, examples, problem)
        return self._chat_text(context, examples, problem)

    def context_tokens(self, context: Context) -> int:
        """Tokens that ``context`` adds in front of a problem, over the empty context."""
        empty = len(self._encode(self.prefix_text(Context({"instructions": "", "examples": ""})), first=True))
        return max(0, len(self._encode(self.prefix_text(context), first=True)) - empty)

    def reply_tokens(self, answer: str) -> int:
        """Tokens of ``answer`` as a reply, the one that ends it apart."""
        return len(self._encode(answer if self.style == "chat" else f" {answer}", first=False))

    def neutralize(self, text: str) -> str:
        """Break up the model's special tokens and turn markers, so that text can't end its turn or open another."""
        return self._neutralizer(text)

    def _plain_text(self, context: Context, examples: list[WorkedExample], problem: Problem) -> str:
        blocks = [self.neutralize(context.instructions.strip())] if context.instructions.strip() else []
        blocks += [self._question(e.question, e.answer) for e in examples]
        blocks += [self._question(str(m["content"]), None) for m in problem.messages if m["role"] == "user"]
        return "\n\n".join([*blocks, self._question(problem.text, None)])

    def _question(self, question: str, answer: str | None) -> str:
        """A question, and its answer if it has one; no line inside them can pose as another question or answer."""
        asked = indent_labels(self.neutralize(question), self._labels)
        text = f"{self.config.question_prefix}{asked}\n{self.config.answer_prefix}"
        return text if answer is None else f"{text} {indent_labels(self.neutralize(answer), self._labels)}"

    def _chat_text(self, context: Context, examples: list[WorkedExample], problem: Problem) -> str:
        messages: list[dict[str, str]] = []
        preface = [self.neutralize(context.instructions.strip())] if context.instructions.strip() else []
        if preface and self.instructions == "system":
            messages.append({"role": "system", "content": preface.pop()})
        if self.examples == "user":
            preface += [self._question(e.question, e.answer) for e in examples]
        else:
            for example in examples:
                messages.append({"role": "user", "content": self.neutralize(example.question)})
                messages.append({"role": "assistant", "content": self.neutralize(example.answer)})
        own = [*((safe_role(m["role"]), str(m["content"])) for m in problem.messages), ("user", problem.text)]
        labels = self._labels_anywhere if self.examples == "user" else None
        messages += [{"role": r, "content": indent_labels(self.neutralize(content), labels)} for r, content in own]
        if preface:
            first = next(m for m in messages if m["role"] == "user")
            first["content"] = "\n\n".join([*preface, first["content"]])
        return self._apply_template(messages)

    def _apply_template(self, messages: list[dict[str, str]]) -> str:
        return self.tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True, **self.config.template_kwargs
        )

    def _place_instructions(self, prefers_user_turn: bool) -> str:
        if self.config.instructions != "auto":
            return self.config.instructions
        if prefers_user_turn or self.style == "text":
            return "user"
        try:
            self._apply_template([{"role": "system", "content": "a"}, {"role": "user", "content": "b"}])
        except Exception:  # jinja templates raise their own errors where a system turn isn't supported (Gemma)
            return "user"
        return "system"

    def _encode(self, text: str, first: bool) -> tuple[int, ...]:
        """Token ids; a beginning-of-sequence token only in front of all, and only where the tokenizer adds one."""
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        if not first:
            return tuple(ids)
        bos = self.tokenizer.bos_token_id
        adds_bos = bos is not None and self.tokenizer("a")["input_ids"][:1] == [bos]
        return tuple([bos, *ids] if adds_bos and ids[:1] != [bos] else ids)


def _common_start(left: str, right: str) -> str:
    length = next((i for i, (a, b) in enumerate(zip(left, right, strict=False)) if a != b), min(len(left), len(right)))
    return left[:length]
