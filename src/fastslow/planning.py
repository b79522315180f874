"""What a run will take, before it starts: rollouts, reflections, memory and time."""

from __future__ import annotations

import math
import re
import time
from dataclasses import dataclass
from pathlib import Path

from fastslow.config import EMBEDDED_MODEL, RunConfig
from fastslow.tasks import build_task

EMBEDDED_PARAMETERS = 134_515_008
ACTIVATION_BYTES_PER_PARAMETER_ROOT = 190.0
"""Bytes of activations per trained token over the square root of the parameter count; fitted to measured peaks of
full fine-tuning in float32 without checkpointing (SmolLM2-135M: 2.2 MB a token)."""
CHARACTERS_PER_TOKEN = 3.5
HUB_PROBLEM_TOKENS = 256
PROMPT_FRAME = 6  # tokens of "Question:", "Answer:" and the like
PROCESS_GB = 0.8  # Python, torch and the libraries
SAMPLING_EFFICIENCY = 0.35
"""Share of the measured matrix rate that sampling and training reach on small models."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Counts are upper bounds; memory and time are estimates and say from what."""

    cycles: int
    fast_rollouts: int
    slow_rollouts: int
    evaluation_rollouts: int
    reflections: int
    optimizer_steps: int
    parameters: int | None
    memory_gb: float | None
    seconds: float | None

    @property
    def training_rollouts(self) -> int:
        return self.fast_rollouts + self.slow_rollouts


def problem_tokens(config: RunConfig) -> int:
    """Tokens of a typical training problem, from its characters; the task is built for that, the model isn't loaded."""
    if getattr(config.task, "path", "").startswith("hub:"):
        return HUB_PROBLEM_TOKENS  # a plan downloads nothing
    problems = build_task(config.task, check=False).train[:64]
    characters = sum(len(p.text) + sum(len(str(m["content"])) for m in p.messages) for p in problems)
    return math.ceil(characters / len(problems) / CHARACTERS_PER_TOKEN) + PROMPT_FRAME


def make_plan(config: RunConfig, prompt_tokens: int) -> Plan:
    """Plan ``config`` without loading the model. ``prompt_tokens``: of a typical problem without its context."""
    steps = config.steps
    batch = config.slow.problems_per_step * config.slow.group_size
    if config.method == "rl" and config.max_rollouts is not None:
        steps = min(steps, config.max_rollouts // batch)
    cycles = 0 if config.method == "rl" else math.ceil(steps / config.fast.every)
    fast = cycles * config.fast_budget
    slow = 0 if config.method == "gepa" else steps * batch
    if config.max_rollouts is not None:
        fast = min(fast, config.max_rollouts)
        slow = min(slow, config.max_rollouts - fast)
    reflections = math.ceil(fast / (2 * config.fast.minibatch)) if cycles else 0
    problems = config.evaluation.problems or config.task.val_size
    every = config.evaluation.every or steps
    evaluations = 1 + math.ceil(steps / every)
    contexts = 1 if config.method == "rl" else 2
    evaluation = evaluations * contexts * problems * config.evaluation.n
    parameters = count_parameters(config.model.name)
    memory = _memory_gb(config, parameters, prompt_tokens) if parameters else None
    seconds = None
    if parameters:
        passes = 2 + 6 + (2 if config.slow.kl > 0 else 0)  # sampling, training, the reference model
        work = passes * parameters * _step_tokens(config, prompt_tokens) * (0 if config.method == "gepa" else steps)
        work += 2 * parameters * (prompt_tokens + config.sampling.max_new_tokens) * (fast + evaluation)
        seconds = work / (matrix_rate(config) * SAMPLING_EFFICIENCY)
    return Plan(
        cycles=cycles,
        fast_rollouts=fast,
        slow_rollouts=slow,
        evaluation_rollouts=evaluation,
        reflections=reflections,
        optimizer_steps=0 if config.method == "gepa" else steps,
        parameters=parameters,
        memory_gb=memory,
        seconds=seconds,
    )


def count_parameters(name: str) -> int | None:
    """From the weights' files where they are here, else from a size in the name (``Qwen3-8B``), else None."""
    if name == EMBEDDED_MODEL:
        return EMBEDDED_PARAMETERS
    folder = Path(name).expanduser()
    files = sorted(folder.glob("*.safetensors")) if folder.is_dir() else []
    if files:
        from safetensors import safe_open

        total = 0
        for file in files:
            with safe_open(file, framework="pt") as tensors:
                total += sum(math.prod(tensors.get_slice(k).get_shape()) for k in tensors.keys())  # noqa: SIM118
        return total
    found = re.search(r"(\d+(?:\.\d+)?)\s*([BM])(?![a-z])", Path(name).name, re.IGNORECASE)
    return int(float(found[1]) * {"b": 1e9, "m": 1e6}[found[2].lower()]) if found else None


def _memory_gb(config: RunConfig, parameters: int, prompt_tokens: int) -> float:
    """Weights, gradients and two moments in float32, the base copy for KL, activations of the largest micro-batch."""
    if config.method == "gepa":
        return 4 * parameters / 1e9
    trained = parameters if config.model.lora is None else parameters // 100
    fixed = 4 * parameters + 12 * trained
    if config.slow.kl > 0 and config.model.lora is None:
        fixed += 4 * parameters
    tokens = min(config.slow.token_budget, _step_tokens(config, prompt_tokens))
    return PROCESS_GB + (fixed + tokens * ACTIVATION_BYTES_PER_PARAMETER_ROOT * math.sqrt(parameters)) / 1e9


def _step_tokens(config: RunConfig, prompt_tokens: int) -> float:
    """Tokens of a slow step's forest if no group is flat: contexts once, problems once a context, all replies."""
    slow, reply = config.slow, config.sampling.max_new_tokens
    contexts = config.contexts_in_use
    shared = 0.0
    if config.method == "fst":
        reflector = config.fast.reflector
        examples = reflector.max_examples if reflector.type == "feedback" else config.fast.max_context_tokens
        shared = contexts * min(config.fast.max_context_tokens, examples * (prompt_tokens + reply) + PROMPT_FRAME)
    return shared + slow.problems_per_step * (contexts * prompt_tokens + slow.group_size * reply)


def matrix_rate(config: RunConfig) -> float:
    """Floating-point operations a second of a matrix product here, measured for a fraction of a second."""
    import torch

    from fastslow.policy import compute

    device = compute.pick_device(config.model.device)
    x = torch.ones(1024, 1024, device=device, dtype=compute.pick_dtype(config.model.train_dtype, device))
    x @ x
    rounds, start = 0, time.perf_counter()
    while time.perf_counter() - start < 0.2:
        float((x @ x)[0, 0])
        rounds += 1
    return 2 * 1024**3 * rounds / (time.perf_counter() - start)
