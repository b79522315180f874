"""Random models of two layers and a tokenizer of a few hundred tokens, saved as a folder for ``model.name``."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from fastslow.config import LoraConfig, ModelConfig, PromptConfig
from fastslow.policy.loading import load_policy
from fastslow.policy.model import Policy

torch.set_num_threads(1)

END, TURN, TURN_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
_TEXT = ["Question: what is two and three?\nAnswer: five", "Say the word alone, please. Reply in capitals: ABC 0123"]
_SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "initializer_range": 0.3,  # wide enough that contexts matter
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 0,
}


def tiny_tokenizer(
    chat_template: str | None = None, extra: list[str] | None = None, adds_bos: bool = False
) -> PreTrainedTokenizerFast:
    """Byte-level BPE: any text has tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=[END, TURN, TURN_END], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )  # fmt: skip
    tokenizer.train_from_iterator(_TEXT, trainer)
    if adds_bos:
        tokenizer.post_processor = processors.TemplateProcessing(single=f"{END} $A", special_tokens=[(END, 0)])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END, bos_token=END, pad_token=END)
    fast.add_special_tokens({"additional_special_tokens": [TURN, TURN_END]})
    if extra:
        fast.add_tokens(extra)
    if chat_template:
        fast.chat_template = chat_template
    return fast


def _lm(family: str, vocabulary: int) -> torch.nn.Module:
    sizes = {**_SIZES, "vocab_size": vocabulary}
    if family == "llama":
        return LlamaForCausalLM(LlamaConfig(**sizes))
    if family == "qwen3":
        return Qwen3ForCausalLM(Qwen3Config(**sizes, head_dim=8))
    if family == "gemma3":
        kinds = ["sliding_attention", "full_attention"]
        return Gemma3ForCausalLM(Gemma3TextConfig(**sizes, head_dim=8, sliding_window=4, layer_types=kinds))
    if family == "gemma2":  # caps its attention scores
        return Gemma2ForCausalLM(Gemma2Config(**sizes, head_dim=8, sliding_window=4))
    if family == "gpt2":
        config = GPT2Config(
            vocab_size=vocabulary, n_embd=32, n_layer=2, n_head=4, n_positions=512, initializer_range=0.3,
            bos_token_id=0, eos_token_id=0,
        )  # fmt: skip
        return GPT2LMHeadModel(config)
    if family == "mamba":
        config = MambaConfig(vocab_size=vocabulary, hidden_size=32, num_hidden_layers=2, state_size=4, eos_token_id=0)
        return MambaForCausalLM(config)
    raise ValueError(family)


def save_tiny(folder: Path, family: str = "llama", chat_template: str | None = None, seed: int = 0) -> Path:
    """A model folder as ``save_pretrained`` writes it."""
    tokenizer = tiny_tokenizer(chat_template)
    torch.manual_seed(seed)
    _lm(family, len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def tiny_policy(folder: Path, lora: LoraConfig | None = None, prompt: PromptConfig | None = None) -> Policy:
    """The policy of a saved folder, in float32 on one thread, as a run would load it."""
    config = ModelConfig(
        name=str(folder), device="cpu", sampling_dtype="float32", train_dtype="float32", float32_matmul="default",
        threads=1, lora=lora,
        prompt=prompt or PromptConfig(),
    )  # fmt: skip
    return load_policy(config)
