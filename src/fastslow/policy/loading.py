"""Loading the policy: the embedded model, a local folder, a local ``.gguf``, or a hub id."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers.utils import logging as transformers_logging

from fastslow.config import EMBEDDED_MODEL, LoraConfig, ModelConfig
from fastslow.errors import ModelError
from fastslow.policy import compute
from fastslow.policy.lean import make_lean
from fastslow.policy.model import Policy
from fastslow.policy.probe import can_share_prefixes, keeps_a_cache
from fastslow.policy.prompts import PromptRenderer
from fastslow.policy.tree_attention import ATTENTION_NAME


@dataclass(frozen=True, slots=True)
class StartWeights:
    """Trained weights to start from instead of the model's own: parameter name -> tensor, as a checkpoint has them.

    ``lora``: the adapters' settings where the weights are those of adapters; they are merged into the model.
    """

    tensors: Mapping[str, Tensor]
    lora: LoraConfig | None = None


def load_policy(config: ModelConfig, start: Sequence[StartWeights] = ()) -> Policy:
    """A :class:`Policy` in float32 on the device asked for; raises :class:`ModelError` with one line.

    ``start``: weights put in, one after another (``runs/start.py`` reads them for ``config.init_from``). They are the
    policy's beginning: what KL and drift of a run started so are measured against, and what new adapters lie upon.
    """
    if bool(start) != (config.init_from is not None):
        raise ValueError("weights to start from go with model.init_from, and only with it; see runs/start.py")
    transformers_logging.disable_progress_bar()  # a bar for a second of reading would only break ours
    device = compute.pick_device(config.device)
    compute.set_threads(config.threads)
    compute.set_matmul(compute.pick_matmul(config.float32_matmul, device))
    compute.keep_freed_memory()
    folder = resolve_model(config.name)
    tokenizer = load_tokenizer(folder, config.revision)
    model = _load_causal_lm(folder, config.revision).to(device)
    for weights in start:
        model = _started(model, weights)
    ignores_system = config.name == EMBEDDED_MODEL
    renderer = PromptRenderer(tokenizer, config.prompt, prefers_user_turn=ignores_system)
    make_lean(model)
    usual_attention = model.config._attn_implementation  # public to set, private to read; some families lack "sdpa"
    model.set_attn_implementation(ATTENTION_NAME)
    shares = can_share_prefixes(model)
    if not shares:
        model.set_attn_implementation(usual_attention)
        if not keeps_a_cache(model):
            kind = type(model).__name__
            raise ModelError(
                f"model.name: {config.name}: {kind} keeps no key-value cache; choose a model with attention"
            )
    if config.lora is not None:
        model = _with_lora(model, config.lora)
    return Policy(
        model.eval(),
        tokenizer,
        renderer,
        name=config.name,
        device=device,
        sampling_dtype=compute.pick_dtype(config.sampling_dtype, device),
        train_dtype=compute.pick_dtype(config.train_dtype, device),
        shares_prefixes=shares,
    )


def resolve_model(name: str) -> str:
    """A folder that transformers can read, or a hub id."""
    if name == EMBEDDED_MODEL:
        from fastslow.policy.embedded import embedded_model_dir

        return str(embedded_model_dir())
    path = Path(name).expanduser()
    if path.suffix == ".gguf":
        from fastslow.policy.embedded import convert_gguf

        if not path.is_file():
            raise ModelError(f"model.name: {name}: no such .gguf file")
        return str(convert_gguf(path))
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise ModelError(
                f"model.name: {name}: the folder has no config.json; give a folder made by save_pretrained"
            )
        return str(path)
    looks_local = name.startswith((".", "~", os.sep)) or name.count("/") > 1
    if looks_local:
        raise ModelError(f"model.name: {name}: no such folder or file")
    return name


def load_tokenizer(name: str, revision: str | None) -> Any:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(name, revision=revision, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ModelError(_cannot_load("tokenizer", name, error)) from None


def _load_causal_lm(name: str, revision: str | None) -> nn.Module:
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM

    try:
        return AutoModelForCausalLM.from_pretrained(
            name,
            revision=revision,
            dtype=torch.float32,
            use_safetensors=True,  # pickled weights can run code
            trust_remote_code=False,
        )
    except (OSError, ValueError, SafetensorError) as error:
        raise ModelError(_cannot_load("model", name, error)) from None


def _cannot_load(what: str, name: str, error: Exception) -> str:
    reason = " ".join(str(error).split())[:200]
    return (
        f"model.name: no {what} can be loaded from {name!r}; use {EMBEDDED_MODEL!r}, a local folder, a .gguf file or a "
        f"hub id that this machine can reach ({reason})"
    )


def _started(model: nn.Module, start: StartWeights) -> nn.Module:
    """The causal LM with the weights put in, and nothing of the adapters left but their effect."""
    trained = _with_lora(model, start.lora) if start.lora is not None else model
    named = {name: p for name, p in trained.named_parameters() if p.requires_grad}
    fits = start.tensors.keys() == named.keys() and all(t.shape == named[n].shape for n, t in start.tensors.items())
    if not fits:
        raise ModelError("model.init_from: these weights don't fit the model; set model.name to that of their run")
    with torch.no_grad():
        for name, tensor in start.tensors.items():
            named[name].copy_(tensor)
    return trained.merge_and_unload() if start.lora is not None else trained


def _with_lora(model: nn.Module, config: LoraConfig) -> nn.Module:
    from peft import LoraConfig as PeftLora
    from peft import get_peft_model

    settings = PeftLora(
        r=config.rank, lora_alpha=config.alpha, target_modules=config.targets,
        task_type="CAUSAL_LM",
    )  # fmt: skip
    try:
        return get_peft_model(model, settings)
    except ValueError as error:
        raise ModelError(f"model.lora.targets: {' '.join(str(error).split())[:200]}") from None
