"""What is known of a model without loading its weights: sizes from its files if they are here, else from its name."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastslow.config import EMBEDDED_MODEL, ModelConfig
from fastslow.policy.embedded import GGUF_SHA256, embedded_cache, is_complete

_SIZE = re.compile(r"(?<![A-Za-z0-9.])(\d+(?:\.\d+)?)\s*([BM])(?![A-Za-z0-9])", re.IGNORECASE)
_ACTIVE = re.compile(r"(?<![A-Za-z0-9])A(\d+(?:\.\d+)?)([BM])(?![A-Za-z0-9])", re.IGNORECASE)
_EMBEDDED_PARAMETERS = 134_515_008
_EMBEDDED_CONFIG = {
    "hidden_size": 576, "num_hidden_layers": 30, "vocab_size": 49152, "num_attention_heads": 9,
    "num_key_value_heads": 3, "max_position_embeddings": 8192, "tie_word_embeddings": True,
}  # fmt: skip

# Where only a parameter count P is known: layers x width of Llama-shaped models from 0.1 to 70 B parameters is about
# 1.5 √P (SmolLM2-135M 1.49, Qwen3-8B 1.63), and grouped-query attention keeps a quarter of the width as keys.
_LAYERS_TIMES_WIDTH = 1.5
_KEY_SHARE = 0.25
_WIDTH_PER_LAYER = 110
_VOCABULARY = 130_000
_HEAD_WIDTH = 128


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """Sizes of a model. ``source`` says where they come from; ``parameters`` is None where nothing is known.

    ``body`` are the parameters a token meets in a forward (the active ones of a mixture), ``head`` those of the
    language-model head, ``key_width`` the width of one layer's keys (values are as wide), ``heads`` of queries,
    ``window`` the longest sequence in tokens or None, ``folder`` the local folder with config and tokenizer, if any.
    """

    source: str
    parameters: int | None = None
    body: int = 0
    head: int = 0
    layers: int = 0
    width: int = 0
    key_width: int = 0
    heads: int = 0
    vocabulary: int = 0
    window: int | None = None
    folder: Path | None = None


def model_facts(config: ModelConfig, parameters: str | None = None) -> ModelFacts:
    """Facts of ``config.name``; ``parameters`` (``8B``, ``135M`` or a number) overrides what is found. No network."""
    folder = local_folder(config)
    if config.name == EMBEDDED_MODEL:
        return _from_config(_EMBEDDED_CONFIG, _EMBEDDED_PARAMETERS, "the embedded model", folder)
    settings = _read_config(folder)
    counted = parse_size(parameters) if parameters else _count_weights(folder)
    if settings and counted:
        return _from_config(settings, counted, "given" if parameters else "its files", folder)
    if counted:
        return _from_count(counted, counted, "given", folder)
    name = Path(config.name).name
    if found := _SIZE.search(name):
        active = _ACTIVE.search(name)
        total = _number(found)
        return _from_count(total, _number(active) if active else total, f"read from the name {name!r}", folder)
    return ModelFacts("no weights here, and no size in the name", folder=folder)


def parse_size(text: str) -> int | None:
    """
    >>> parse_size("8B"), parse_size("0.6b"), parse_size("135M"), parse_size("7e9"), parse_size("big")
    (8000000000, 600000000, 135000000, 7000000000, None)
    """
    if found := _SIZE.fullmatch(text.strip()):
        return _number(found)
    try:
        number = float(text)
    except ValueError:
        return None
    return int(number) if math.isfinite(number) and number >= 1 else None


def local_folder(config: ModelConfig) -> Path | None:
    """The folder with the model's config on this machine: given, embedded, or in the hub's cache; None elsewhere."""
    if config.name == EMBEDDED_MODEL:
        folder = embedded_cache()
        return folder if is_complete(folder, GGUF_SHA256) else None
    path = Path(config.name).expanduser()
    if (path / "config.json").is_file():
        return path
    if path.suffix == ".gguf" or path.exists() or config.name.count("/") > 1:
        return None
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(config.name, "config.json", revision=config.revision)
    except HFValidationError:
        return None
    return Path(found).parent if isinstance(found, str) else None


def _read_config(folder: Path | None) -> dict[str, Any] | None:
    if folder is None:
        return None
    try:
        data = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(data, dict):
        return None
    inner = data.get("text_config")
    return {**data, **inner} if isinstance(inner, dict) else data


def _from_config(settings: dict[str, Any], parameters: int, source: str, folder: Path | None) -> ModelFacts:
    def first(*names: str) -> int:
        return next((int(settings[n]) for n in names if isinstance(settings.get(n), int)), 0)

    width, layers = first("hidden_size", "n_embd"), first("num_hidden_layers", "n_layer")
    heads = first("num_attention_heads", "n_head") or 1
    key_width = (first("num_key_value_heads") or heads) * (first("head_dim") or width // heads)
    vocabulary = first("vocab_size")
    tables = vocabulary * width * (1 if settings.get("tie_word_embeddings", True) else 2)
    return ModelFacts(
        source,
        parameters=parameters,
        body=max(1, parameters - tables),
        head=vocabulary * width,
        layers=layers,
        width=width,
        key_width=key_width,
        heads=heads,
        vocabulary=vocabulary,
        window=first("max_position_embeddings", "n_positions") or None,
        folder=folder,
    )


def _from_count(parameters: int, active: int, source: str, folder: Path | None) -> ModelFacts:
    both = _LAYERS_TIMES_WIDTH * math.sqrt(parameters)
    layers = max(1, round(math.sqrt(both / _WIDTH_PER_LAYER)))
    width = round(both / layers)
    head = min(_VOCABULARY * width, active // 4)
    return ModelFacts(
        source,
        parameters=parameters,
        body=active - head,
        head=head,
        layers=layers,
        width=width,
        key_width=round(_KEY_SHARE * width),
        heads=max(1, width // _HEAD_WIDTH),
        vocabulary=head // width,
        folder=folder,
    )


def _count_weights(folder: Path | None) -> int | None:
    files = sorted(folder.glob("*.safetensors")) if folder is not None else []
    if not files:
        return None
    from safetensors import SafetensorError, safe_open

    total = 0
    try:
        for file in files:
            with safe_open(file, framework="np") as tensors:
                total += sum(math.prod(tensors.get_slice(k).get_shape()) for k in tensors.keys())  # noqa: SIM118
    except (OSError, SafetensorError):
        return None
    return total or None


def _number(found: re.Match[str]) -> int:
    return int(float(found[1]) * {"b": 1e9, "m": 1e6}[found[2].lower()])
