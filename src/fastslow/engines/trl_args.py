"""From a run's config to the arguments of the trainer."""

from __future__ import annotations

import dataclasses
import difflib
from typing import Any

import torch

from fastslow.config import RunConfig
from fastslow.errors import ConfigError
from fastslow.policy import compute
from fastslow.preflight import PROMPT_FRAME, Lengths
from fastslow.trl.config import FSTConfig

LOSSES = {
    "cispo": ("cispo", "problem"),
    "grpo": ("dapo", "sequence"),
    "dapo": ("dapo", "token"),
    "dr_grpo": ("dapo", "constant"),
}
"""The loss of a config as TRL's formula and our token average: TRL's ``dapo`` is GRPO's clipped surrogate, summed."""


def check_supported(config: RunConfig) -> None:
    """Raise :class:`ConfigError` for what this engine has not."""
    if config.slow.loss not in LOSSES:
        raise ConfigError(f"slow.loss: {config.slow.loss} is not in engine: trl; use {', '.join(LOSSES)}")
    if config.model.init_from is not None:
        raise ConfigError("model.init_from: not in engine: trl; name a folder of weights in model.name instead")


def row_tokens(config: RunConfig, lengths: Lengths) -> int:
    """Tokens of one rollout: the longest problem, a context as large as its reflector makes it, a whole reply."""
    fast, reply = config.fast, config.sampling.max_new_tokens
    context = lengths.seed_context
    if config.method == "fst":
        examples = getattr(fast.reflector, "max_examples", None)
        grown = fast.max_context_tokens if examples is None else examples * (lengths.problem + reply) + PROMPT_FRAME
        context = max(context, min(fast.max_context_tokens, grown))
    return lengths.longest - lengths.seed_context + context + reply


def trainer_args(config: RunConfig, output_dir: str, processes: int, tokens: int = 1) -> FSTConfig:
    """The config's own keys, then ``trl.options`` for everything else that ``GRPOConfig`` has. ``tokens``: of a
    rollout; without ``trl.gradient_accumulation_steps``, a forward holds as many as ``slow.token_budget`` allows."""
    given, options = _from_config(config, output_dir, processes, tokens), config.trl.options
    known = {f.name for f in dataclasses.fields(FSTConfig)}
    for name in options:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            raise ConfigError(f"trl.options.{name}: no argument of GRPOConfig" + (f"; {close[0]}?" if close else ""))
        if name in given:
            raise ConfigError(f"trl.options.{name}: is set by the config's own keys; leave it out here")
    try:
        return FSTConfig(**given, **{**_defaults(config), **options})
    except (ValueError, TypeError) as error:
        raise ConfigError(f"trl: {' '.join(str(error).split())}") from None


def _from_config(config: RunConfig, output_dir: str, processes: int, tokens: int) -> dict[str, Any]:
    slow, trl = config.slow, config.trl
    rows, forwards = _rows(config, processes, tokens)
    formula, average = LOSSES[slow.loss]
    return {
        "output_dir": output_dir,
        "seed": config.seed,
        "max_steps": config.steps,
        "num_generations": slow.group_size,
        "per_device_train_batch_size": rows,
        "gradient_accumulation_steps": forwards,
        "learning_rate": slow.lr,
        "adam_beta1": slow.betas[0],
        "adam_beta2": slow.betas[1],
        "weight_decay": slow.weight_decay,
        "max_grad_norm": slow.max_grad_norm,
        "loss_type": formula,
        "token_average": average,
        "epsilon": slow.clip_low,
        "epsilon_high": slow.cap if formula == "cispo" else slow.clip_high,
        "scale_rewards": "none" if slow.loss == "dr_grpo" else "group",
        "beta": slow.kl,
        "temperature": config.sampling.temperature,
        "max_completion_length": config.sampling.max_new_tokens,
        "stop": config.sampling.stop or None,
        "truncated": slow.truncated,
        "num_contexts": config.contexts_in_use,
        "fast_every": config.fast.every,
        "fast_budget": config.fast_budget or None,
        "sampling_batch_size": config.sampling.batch_size,
        "use_vllm": trl.use_vllm,
        "vllm_mode": trl.vllm_mode,
        "report_to": trl.report_to,
        "use_cpu": _device(config).type == "cpu",
        "save_strategy": "steps" if config.checkpoint_every else "no",
        "save_steps": config.checkpoint_every or 500,
        "save_total_limit": config.keep_checkpoints,
        "logging_steps": 1,
        "disable_tqdm": True,
    }


def _defaults(config: RunConfig) -> dict[str, Any]:
    """What ``trl.options`` may change: number formats, and memory saved for time where there is a GPU."""
    device = _device(config)
    bf16 = compute.pick_dtype(config.model.train_dtype, device) == torch.bfloat16
    loading = {"dtype": "float32", "use_safetensors": True, "revision": config.model.revision}
    vllm = {"generation_kwargs": {"stop": config.sampling.stop, "include_stop_str_in_output": True}}
    return {
        "bf16": bf16,
        "cast_lm_head_to_fp32": bf16,  # ScaleRL, arXiv 2510.13786
        "gradient_checkpointing": device.type != "cpu",
        "ddp_find_unused_parameters": False,
        "model_init_kwargs": loading,
        **(vllm if config.trl.use_vllm and config.sampling.stop else {}),
    }


def _device(config: RunConfig) -> torch.device:
    return torch.device("cpu") if config.model.device == "cpu" else compute.pick_device("auto")


def _rows(config: RunConfig, processes: int, tokens: int) -> tuple[int, int]:
    """(rollouts of one forward on one process, forwards of a step): the slow batch in equal parts."""
    total = config.slow.group_size * config.slow.problems_per_step
    steps = config.trl.gradient_accumulation_steps
    if steps is None:
        share, most = max(1, total // processes), max(1, config.slow.token_budget // tokens)
        steps = next(n for n in range(1, share + 1) if share % n == 0 and share // n <= most)
    if total % (processes * steps):
        raise ConfigError(
            f"slow.group_size x slow.problems_per_step = {total} rollouts don't divide over {processes} processes x "
            f"{steps} steps; change trl.gradient_accumulation_steps or the number of processes"
        )
    return total // (processes * steps), steps
