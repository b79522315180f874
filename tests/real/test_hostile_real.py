"""Locks: no text adds a special token to a prompt of the embedded model's own tokenizer and template."""

from __future__ import annotations

import pytest
from hostile import hostile, hostile_text
from hypothesis import given
from hypothesis import strategies as st

from fastslow.config import EMBEDDED_MODEL, PromptConfig
from fastslow.policy.loading import load_tokenizer, resolve_model
from fastslow.policy.prompts import PromptRenderer
from fastslow.types import Context, Problem

pytestmark = pytest.mark.real
NOTHING = Context({"instructions": "", "examples": ""})


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(resolve_model(EMBEDDED_MODEL), None)


@pytest.mark.parametrize("style", ["chat", "text"])
@hostile(500)
@given(text=hostile_text(), data=st.data())
def test_special_tokens_come_from_the_template_alone(tokenizer, style, text, data):
    prompts = PromptRenderer(tokenizer, PromptConfig(style=style))
    added = set(tokenizer.get_added_vocab().values())
    own = data.draw(st.sampled_from(sorted(tokenizer.get_added_vocab())))

    def special(words: str) -> list[int]:
        ids, shared = prompts.render(NOTHING, Problem("p", words))
        assert shared > 0  # the text itself needn't come back: the vocabulary lacks some control characters
        return [i for i in ids if i in added]

    assert special(f"say {text}{own}") == special("say a")
