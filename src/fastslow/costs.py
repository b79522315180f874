"""What forwards, updates and checkpoints of a model cost: bytes from its sizes, seconds from a short probe.

A forward of n tokens is priced as the probed matrix product of n rows over the same number of parameters, times an
overhead for everything that is no matrix product; training a token takes a little over three forwards.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from fastslow.config import RunConfig
from fastslow.policy.facts import ModelFacts

GB = 1e9
PROCESS_BYTES = 0.75 * GB
"""Python, torch, the libraries and their workspaces."""

ACTIVATION_VECTORS_PER_LAYER = 17.0
"""Float32 vectors of the model's width that one layer keeps for the backward pass of one token, attention scores apart.

Measured on SmolLM2-135M in float32, full fine-tuning (1.18 MB a token = 17 x 30 layers x 576 x 4 bytes), from the peaks
of single updates of 478 to 2205 tokens. `python benchmarks/memory.py` measures it again: run it after every change of
the training forward, and write what it prints here."""

HEAD_COPIES = 5
"""Copies of a chunk of logits in float32 that the head's backward holds at once."""

HEAD_CHUNK_LOGITS = 24_000_000
"""As ``fastslow.policy.logprobs.CHUNK_LOGITS``; a test holds the two equal (importing it would import torch)."""

PREFILL_OVERHEAD, DECODE_OVERHEAD = 1.65, 1.3
"""A whole forward over its matrix products, measured on SmolLM2-135M: 512 tokens at once, 64 rows of one token."""
CACHE_READINGS = 14.0  # of a row's own keys and values in one decoding step: gathered, copied, multiplied
LAYER_SECONDS = 4e-4  # a layer's many small operations cost time whatever their size
HEAD_OVERHEAD = 1.7  # the head's product, the softmax over the vocabulary and the draw
TRAINED_FORWARDS = 3.3
"""A forward and its backward in forwards; with the next line, fitted to updates of 100 to 2205 tokens in float32."""
UPDATE_PASSES = 15.0
"""One optimizer step (gradients allocated, their norm, AdamW) in readings of all trained weights."""
LOADING_SECONDS = 4.0
_PROBE_SHAPE, _PROBE_MATRICES = (1024, 2048), 8  # 67 MB in float32: larger than a cache, as a model's weights are
_PROBE_ROWS = (1, 8, 64, 512)


@dataclass(frozen=True, slots=True)
class Speed:
    """Seconds per parameter of a matrix product, by its number of rows (tokens), as measured here; bytes a number."""

    seconds: dict[int, float]
    width: int = 4

    def product(self, parameters: float, rows: float) -> float:
        """Seconds of one product of ``rows`` rows with ``parameters`` weights."""
        if rows <= 0:
            return 0.0
        known = sorted(self.seconds)
        if rows >= known[-1]:
            return parameters * self.seconds[known[-1]] * rows / known[-1]
        low = max(k for k in known if k <= max(rows, known[0]))
        high = min(k for k in known if k > low)
        share = (max(rows, low) - low) / (high - low)
        return parameters * (self.seconds[low] * (1 - share) + self.seconds[high] * share)


def measure_speed(config: RunConfig) -> tuple[Speed, Speed]:
    """(sampling, training) on the config's device in their dtypes; takes about a second."""
    from fastslow.policy import compute

    device = compute.pick_device(config.model.device)
    compute.set_threads(config.model.threads)
    compute.set_matmul(compute.pick_matmul(config.model.float32_matmul, device))
    dtypes = [compute.pick_dtype(d, device) for d in (config.model.sampling_dtype, config.model.train_dtype)]
    speeds = {dtype: _probe(device, dtype) for dtype in dict.fromkeys(dtypes)}
    return speeds[dtypes[0]], speeds[dtypes[1]]


def _probe(device: Any, dtype: Any) -> Speed:
    import torch

    width, out = _PROBE_SHAPE
    weights = [torch.ones(out, width, device=device, dtype=dtype) for _ in range(_PROBE_MATRICES)]
    found = {}
    with torch.inference_mode():
        for rows in _PROBE_ROWS:
            x, best = torch.ones(rows, width, device=device, dtype=dtype), float("inf")
            for _ in range(3):
                start = time.perf_counter()
                for w in weights:
                    y = torch.nn.functional.linear(x, w)
                y.flatten()[0].item()  # waits for a device that works on its own
                best = min(best, time.perf_counter() - start)
            found[rows] = best / (width * out * _PROBE_MATRICES)
    return Speed(found, weights[0].element_size())


def prefill_seconds(facts: ModelFacts, speed: Speed, tokens: float, context: float = 0.0) -> float:
    """One forward of ``tokens`` tokens without the head, each attending to ``context`` tokens before it."""
    if tokens <= 0:
        return 0.0
    attention = 2 * facts.layers * facts.width * context
    return speed.product(facts.body + attention, tokens) * PREFILL_OVERHEAD + facts.layers * LAYER_SECONDS


def decode_seconds(facts: ModelFacts, speed: Speed, rows: float, own: float, context: float) -> float:
    """A token for each of ``rows`` rows with ``own`` keys a row and ``context`` keys shared by all; head and draw."""
    attention = 2 * facts.layers * facts.width * context
    work = speed.product(facts.body + attention, rows) * DECODE_OVERHEAD
    cache = speed.product(rows * own * 2 * facts.layers * facts.key_width, 1) * CACHE_READINGS
    return work + cache + facts.layers * LAYER_SECONDS + head_seconds(facts, speed, rows)


def head_seconds(facts: ModelFacts, speed: Speed, tokens: float) -> float:
    return speed.product(facts.head, tokens) * HEAD_OVERHEAD


def trained_parameters(config: RunConfig, facts: ModelFacts) -> int:
    """All of them, or those of the adapters on a Llama-shaped layer (inputs and outputs of its 7 maps: 18 widths)."""
    if config.method == "gepa":
        return 0
    lora = config.model.lora
    if lora is None:
        return facts.parameters or 0
    maps = 18 if lora.targets == "all-linear" else 18 * min(7, len(lora.targets)) / 7
    return min(facts.parameters or 0, round(lora.rank * facts.layers * facts.width * maps))


def update_seconds(trained: int, speed: Speed) -> float:
    """The optimizer's own part of a step."""
    return UPDATE_PASSES * speed.product(trained, 1)


def activation_bytes(facts: ModelFacts, tokens: float, below: float, context: float) -> float:
    """Kept for backward by a forward of ``tokens`` tokens, ``below`` of which stand under ``context`` tokens each."""
    vectors = tokens * ACTIVATION_VECTORS_PER_LAYER * facts.layers * facts.width * 4
    scores = below * facts.layers * facts.heads * context * 4
    return vectors + scores


def head_bytes(facts: ModelFacts, tokens: float) -> float:
    return HEAD_COPIES * 4 * min(tokens * facts.vocabulary, HEAD_CHUNK_LOGITS)


def fixed_bytes(config: RunConfig, facts: ModelFacts, sampling_width: int = 4) -> float:
    """Process, master weights and AdamW's moments in float32, a sampling copy in bfloat16, the base model for KL."""
    parameters, trained = facts.parameters or 0, trained_parameters(config, facts)
    total = PROCESS_BYTES + 4 * parameters + 8 * trained
    if sampling_width < 4:
        total += sampling_width * parameters
    if keeps_base(config):
        total += 4 * parameters
    return total


def keeps_base(config: RunConfig) -> bool:
    """A second copy of the weights during training; adapters are switched off instead."""
    return config.method in ("fst", "rl") and config.slow.kl > 0 and config.model.lora is None


def cache_bytes(config: RunConfig, facts: ModelFacts, rows: float, prompt_tokens: float, width: int = 4) -> float:
    """Keys and values of the sampler, ``width`` bytes each: every row's problem and reply."""
    slots = min(rows, config.sampling.batch_size) * (prompt_tokens + config.sampling.max_new_tokens)
    return slots * 2 * facts.layers * facts.key_width * width


def checkpoint_bytes(config: RunConfig, facts: ModelFacts) -> tuple[float, float]:
    """(one checkpoint, all that are on disk at once: those kept, and the one being written). Float32, with moments."""
    one = 12.0 * trained_parameters(config, facts)
    saves = 1 if not config.checkpoint_every else -(-config.steps // config.checkpoint_every)
    return one, one * min(saves, config.keep_checkpoints + 1)
