"""Sampling through TRL: transformers, vLLM colocated or a vLLM server, on one process or several."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from fastslow.errors import ModelError
from fastslow.policy.prompts import PromptRenderer
from fastslow.seeds import derive_seed
from fastslow.trl import private
from fastslow.trl.processes import Processes
from fastslow.types import Completion, Context, FinishReason, Request

if TYPE_CHECKING:
    from fastslow.trl.trainer import FSTTrainer

Prompt = tuple[tuple[int, ...], int]
"""Token ids of a prompt, and how many of them at the front are the context's alone."""


class TrlSampler:
    """The :class:`~fastslow.policy.base.Sampler` over a trainer's current weights; every call is made by all
    processes together.

    Draws come from a stream of their own (seed, process), not from the global generator, so a resumed run draws as an
    unbroken one. They depend on the batch they are drawn in. vLLM draws by its own seeds. ``logprobs`` of a completion
    are empty where the backend reports none: then π_old is what the training forward says before the step.
    """

    def __init__(
        self, trainer: FSTTrainer, processes: Processes, renderer: PromptRenderer, stop: Sequence[str]
    ) -> None:
        self.trainer, self.processes, self.renderer, self.stop = trainer, processes, renderer, tuple(stop)

    @property
    def weights_step(self) -> int:
        return self.trainer.state.global_step

    def context_tokens(self, context: Context) -> int:
        return self.renderer.context_tokens(context)

    def sample(self, requests: Sequence[Request]) -> list[list[Completion]]:
        """All completions, on every process; each process samples its share of the rows."""
        rows = [(i, r) for i, r in enumerate(requests) for _ in range(r.n)]
        if not rows:
            return []
        share = self.processes.share(rows)
        done = self.complete([self.render(r) for _, r in share], requests[0].seed)
        completions = self.processes.gather(done, len(rows))
        results: list[list[Completion]] = [[] for _ in requests]
        for (i, _), completion in zip(rows, completions, strict=True):
            results[i].append(completion)
        return results

    def render(self, request: Request) -> Prompt:
        prompt, shared = self.renderer.render(request.context, request.problem)
        limit = getattr(self.trainer.model.config.get_text_config(), "max_position_embeddings", None)
        new = self.trainer.max_completion_length
        if limit is not None and len(prompt) + new > limit:
            raise ModelError(
                f"problem {request.problem.id!r} under context {request.context.id} takes {len(prompt)} prompt and up "
                f"to {new} new tokens, but the model holds {limit}; lower max_context_tokens or the new tokens"
            )
        return prompt, shared

    def complete(self, prompts: Sequence[Prompt], seed: int) -> list[Completion]:
        """One completion for each prompt of this process; all processes have the same number of them."""
        device = self.trainer.accelerator.device
        with drawing(derive_seed(seed, "process", self.processes.rank), device):
            generated = [done for part in self._parts(prompts) for done in self._generate(part)]
        return [
            self._completion(prompt, ids, logprobs) for prompt, (ids, logprobs) in zip(prompts, generated, strict=True)
        ]

    def _parts(self, prompts: Sequence[Prompt]) -> Iterator[Sequence[Prompt]]:
        """vLLM takes all at once and batches by itself; transformers pads and holds all rows that it is given."""
        args = self.trainer.args
        size = args.sampling_batch_size or args.per_device_train_batch_size * args.steps_per_generation
        size = len(prompts) if args.use_vllm else size
        return (prompts[i : i + size] for i in range(0, len(prompts), max(1, size)))

    def _generate(self, prompts: Sequence[Prompt]) -> list[tuple[list[int], list[float | None] | None]]:
        ids, logprobs = private.generate(self.trainer, [p for p, _ in prompts])
        return list(zip(ids, logprobs if logprobs is not None else [None] * len(ids), strict=True))

    def _completion(self, prompt: Prompt, ids: Sequence[int], logprobs: Sequence[float | None] | None) -> Completion:
        tokenizer = self.trainer.processing_class
        length, reason = self._end(ids)
        text = tokenizer.decode(ids[:length], skip_special_tokens=True)
        cuts = [text.find(s) for s in self.stop if s in text]
        return Completion(
            prompt_ids=prompt[0],
            shared=prompt[1],
            completion_ids=tuple(ids[:length]),
            logprobs=() if logprobs is None else tuple(_number(p) for p in logprobs[:length]),
            text=text[: min(cuts)] if cuts else text,
            finish_reason=reason,
        )

    def _end(self, ids: Sequence[int]) -> tuple[int, FinishReason]:
        """How many tokens count and why the reply ends there. A reply may run on past a stop string; what follows is
        cut, which leaves the same distribution as stopping there."""
        tokenizer = self.trainer.processing_class
        if self.stop and any(s in tokenizer.decode(ids) for s in self.stop):
            tail = 2 + max(map(len, self.stop))
            for length in range(1, len(ids) + 1):
                said = tokenizer.decode(ids[max(0, length - tail) : length])
                if any(s in said for s in self.stop):
                    return length, "stop"
        ended = bool(ids) and ids[-1] in self.trainer.eos_token_ids
        return len(ids), "stop" if ended or len(ids) < self.trainer.max_completion_length else "length"


def _number(logprob: float | None) -> float:
    """vLLM has no number for a token now and then; such a token is left out of the loss."""
    return float("nan") if logprob is None else logprob


@contextmanager
def drawing(seed: int, device: torch.device) -> Iterator[None]:
    """Draw from ``seed``'s own stream; the global generators go on afterwards as if nothing had been drawn."""
    kind: dict[str, Any] = {"devices": []}
    if device.type != "cpu":
        kind = {"devices": [device.index or 0], "device_type": device.type}
    with torch.random.fork_rng(**kind):
        torch.manual_seed(seed)
        yield


@contextmanager
def reply_length(trainer: FSTTrainer, tokens: int, temperature: float) -> Iterator[None]:
    """Other sampling settings for a while: a reflection is longer than an answer."""
    holders = [trainer.vllm_generation] if trainer.args.use_vllm else []
    before = [(h, h.max_completion_length, h.temperature) for h in (trainer, *holders)]
    config = getattr(trainer, "generation_config", None)
    if config is not None:
        kept = config.max_new_tokens, config.temperature, config.do_sample
        config.max_new_tokens, config.temperature, config.do_sample = tokens, temperature or 1.0, temperature > 0
    for holder in (trainer, *holders):
        holder.max_completion_length, holder.temperature = tokens, temperature
    try:
        yield
    finally:
        for holder, length, warmth in before:
            holder.max_completion_length, holder.temperature = length, warmth
        if config is not None:
            config.max_new_tokens, config.temperature, config.do_sample = kept
