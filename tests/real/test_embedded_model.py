"""The embedded model as it is fetched and unpacked: complete, in float32, tied, with its tokenizer, and sensible."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fastslow.policy import embedded

pytestmark = pytest.mark.real

PARAMETERS = 134_515_008
"""SmolLM2-135M with its output projection tied to the embedding: 49152 x 576 embedding; 30 layers of 576 x 576 (q, o),
192 x 576 (k, v), 3 x 1536 x 576 and two norms of 576; a last norm of 576."""


@pytest.fixture(scope="module")
def folder() -> Path:
    return embedded.embedded_model_dir()


def test_the_count_of_parameters_is_derived_not_remembered() -> None:
    layer = 2 * 576 * 576 + 2 * 192 * 576 + 3 * 1536 * 576 + 2 * 576
    assert 49152 * 576 + 30 * layer + 576 == PARAMETERS


def test_the_cache_is_complete_to_the_last_byte(folder: Path) -> None:
    assert embedded.is_complete(folder, embedded.GGUF_SHA256, verify=True)


def test_weights_are_float32_tied_and_no_longer_quantized(folder: Path) -> None:
    with (folder / "model.safetensors").open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    tensors = {name: facts for name, facts in header.items() if name != "__metadata__"}
    assert {facts["dtype"] for facts in tensors.values()} == {"F32"}
    ends = [facts["data_offsets"] for facts in tensors.values()]
    assert sum(end - start for start, end in ends) == 4 * PARAMETERS
    config = json.loads((folder / "config.json").read_text())
    assert config["tie_word_embeddings"] is True
    assert "quantization_config" not in config


def test_tokenizer_keeps_its_special_tokens_and_chat_template(folder: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token) == (
        "<|im_start|>",
        "<|im_end|>",
        "<|im_end|>",
    )
    chat = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hi"}], tokenize=False, add_generation_prompt=True
    )
    assert chat.endswith("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n")
    text = "What is 2 + 3?  Änderung\n"
    assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text


def test_it_knows_the_capital_of_france(folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    ids = tokenizer("The capital of France is", return_tensors="pt").input_ids
    with torch.no_grad():
        best = int(model(ids).logits[0, -1].argmax())
    assert tokenizer.decode([best]).strip() == "Paris"
