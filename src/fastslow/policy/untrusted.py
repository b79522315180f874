"""Text that may hold anything, made unable to pose as the prompt's own structure; all other text stays as it is.

Three things give a prompt its structure, and none of them may come from inside a question, an answer or an
instruction: the tokenizer's added tokens (``<|im_end|>``), turn markers that a chat template writes as plain text
(``[/INST]``), and labels that stand at the beginning of a line (``Answer:``).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

_LINE_BREAK = "[\n\r\x0b\x0c\x1c-\x1e\x85\u2028\u2029]"  # where str.splitlines breaks
_PROBES = ("zquestionz", "zanswerz", "zfurtherz")
_CACHED_CHARS = 8192  # longer texts are rare and would fill the memory
_ROUNDS = 8
_ROLE = re.compile(r"[^\w-]+")


def label_pattern(labels: Sequence[str], at_start: bool = False) -> re.Pattern[str] | None:
    """Where a line begins with one of ``labels``; ``at_start``: the text's first line counts too."""
    wanted = sorted({label.strip() for label in labels if label.strip()}, key=len, reverse=True)
    if not wanted:
        return None
    before = f"\\A|(?<={_LINE_BREAK})" if at_start else f"(?<={_LINE_BREAK})"
    return re.compile(f"(?:{before})(?={'|'.join(map(re.escape, wanted))})")


def indent_labels(text: str, pattern: re.Pattern[str] | None) -> str:
    """The text with a space in front of every line that begins with a label."""
    return text if pattern is None else pattern.sub(" ", text)


def safe_role(role: Any) -> str:
    """A chat role as one word: templates write it into the prompt as it is."""
    return _ROLE.sub("", str(role))[:32] or "user"


class Neutralizer:
    """Breaks up the structure of ``tokenizer``'s prompts inside text: ``<|im_end|>`` becomes ``< |im_end|>``.

    ``apply_template`` renders messages; its plain-text turn markers are found by a probe. None: no template is used.
    """

    def __init__(self, tokenizer: Any, apply_template: Callable[[list[dict[str, str]]], str] | None = None) -> None:
        self.tokenizer = tokenizer
        special = set(tokenizer.all_special_tokens)
        added = {t for t in {*special, *tokenizer.get_added_vocab()} if t and not t.isspace()}
        # One character that ends a turn can't be broken up, only replaced; ordinary added letters are left alone.
        self._characters = sorted(t for t in added & special if len(t) == 1)
        tokens = sorted((t for t in added if len(t) > 1), key=len, reverse=True)
        anywhere, labels = _plain_markers(apply_template, tokens) if apply_template else ((), ())
        self._broken_up = [*tokens, *anywhere]
        self._labels = label_pattern(labels, at_start=True)
        self._guarded = self._guarded_ids([*tokens, *self._characters])
        self._short = lru_cache(maxsize=4096)(self._neutralize)

    def __call__(self, text: str) -> str:
        return self._short(text) if len(text) <= _CACHED_CHARS else self._neutralize(text)

    def _neutralize(self, text: str) -> str:
        text = text.encode("utf-8", "replace").decode("utf-8")  # lone surrogates have no tokens
        for character in self._characters:
            text = text.replace(character, "\ufffd")
        text = self._without_hidden(self._without_strings(text))
        return indent_labels(text, self._labels)

    def _without_strings(self, text: str) -> str:
        """Until none is left: breaking one may form another (``||`` in ``||||``). Ends, as every break adds a space."""
        while found := [token for token in self._broken_up if token in text]:
            for token in found:
                text = text.replace(token, f"{token[0]} {token[1:]}")
        return text

    def _without_hidden(self, text: str) -> str:
        """Tokens that the text doesn't show: a normalizer may fold ``＜|im_end|＞`` into ``<|im_end|>``, say."""
        for attempt in range(_ROUNDS + 1):
            pieces, last = [], 0
            for start, end in self._guarded_spans(text):
                # A normalizer that drops the space again leaves nothing but to drop the text.
                broken = f"{text[start]} {text[start + 1 : end]}" if attempt < _ROUNDS else "\ufffd"
                pieces += [text[last:start], broken]
                last = end
            if not pieces:
                break
            text = "".join([*pieces, text[last:]])
        return text

    def _guarded_spans(self, text: str) -> list[tuple[int, int]]:
        if not getattr(self.tokenizer, "is_fast", False):  # no offsets: the strings must do
            return []
        found = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        spans = zip(found["input_ids"], found["offset_mapping"], strict=True)
        return [(start, end) for token, (start, end) in spans if token in self._guarded and end > start]

    def _guarded_ids(self, tokens: Sequence[str]) -> frozenset[int]:
        ids = {self.tokenizer.convert_tokens_to_ids(t) for t in tokens}
        ends = {self.tokenizer.eos_token_id, self.tokenizer.bos_token_id, self.tokenizer.pad_token_id}
        # Text without a token of its own becomes the unknown token, which is no structure unless it is the end too.
        unknown = {self.tokenizer.unk_token_id} - ends
        return frozenset(i for i in ids - unknown if i is not None)


def _plain_markers(
    apply_template: Callable[[list[dict[str, str]]], str], tokens: Sequence[str]
) -> tuple[list[str], list[str]]:
    """(markers wherever they stand, labels at the beginning of a line) that the template writes as plain text."""
    question, answer, further = _PROBES
    turns = [("user", question), ("assistant", answer), ("user", further)]
    try:
        text = apply_template([{"role": role, "content": content} for role, content in turns])
    except Exception:  # jinja templates raise their own errors: one that takes no such turns is never given them
        return [], []
    anywhere: list[str] = []
    labels: list[str] = []
    splitter = re.compile("|".join(map(re.escape, tokens))) if tokens else None
    for between in re.split("|".join(_PROBES), text)[1:]:
        pieces = splitter.split(between) if splitter else [between]
        for i, piece in enumerate(pieces):
            for j, line in enumerate(piece.split("\n")):
                marker = line.strip()
                if len(marker) < 3 or marker.isalnum():
                    continue
                if not marker[0].isalnum() and not marker[-1].isalnum() and marker[-1] != ":":
                    anywhere.append(marker)  # bracketed, like [/INST]
                elif j > 0:
                    labels.append(marker)  # like "### Response:"
                elif i == 0:
                    anywhere.append(marker)  # in the middle of a line, like "USER: … ASSISTANT: …"
    return list(dict.fromkeys(anywhere)), list(dict.fromkeys(labels))
