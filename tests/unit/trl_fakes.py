"""A tiny model on disk, trainers over it, and vLLM's call shapes without vLLM."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from loop_fakes import FakeTask
from tiny_models import CHATML, save_tiny
from transformers import AutoModelForCausalLM

from fastslow.fast.base import Proposal
from fastslow.trl import FSTConfig, FSTTrainer
from fastslow.trl.listener import Quiet
from fastslow.types import Problem, Score


def tiny_folder(folder: Path) -> Path:
    return save_tiny(folder, chat_template=CHATML)


class ParityTask(FakeTask):
    """Reward 1 where the characters of a reply add up to an odd number: random replies get both."""

    def score(self, problem: Problem, completion: str) -> Score:
        odd = sum(map(ord, completion)) % 2
        return Score(float(odd), "Right." if odd else f"Wrong.\nAdvice: Say {problem.answer}.")


class Rules:
    """A reflector that proposes another rule each time."""

    name = "rules"

    def propose(self, context, records, components, seed) -> Proposal:
        return Proposal({"instructions": f"rule {seed % 1000}"}, "a rule")


class Notes(Quiet):
    """Keeps what it hears."""

    def __init__(self) -> None:
        self.slow_rollouts: list[list] = []
        self.fast_rollouts: list[list] = []
        self.lines: list[dict] = []
        self.cycles: list[int] = []

    def rollouts(self, phase, state, rollouts) -> None:
        (self.slow_rollouts if phase == "slow" else self.fast_rollouts).append(list(rollouts))

    def slow(self, state, values, sampling, seconds) -> None:
        self.lines.append(dict(values))

    def fast(self, state, cycle, report, seconds) -> None:
        self.cycles.append(cycle)


def settings(output_dir: Path, **changes: Any) -> FSTConfig:
    """Two problems a step, four rollouts each under two contexts; T = 2."""
    given = {
        "per_device_train_batch_size": 8, "num_generations": 4, "num_contexts": 2, "fast_every": 2, "fast_budget": 30,
        "max_steps": 2, "max_completion_length": 6, "learning_rate": 1e-3, "lr_scheduler_type": "constant",
        "logging_steps": 1, "report_to": [], "use_cpu": True, "bf16": False, "gradient_checkpointing": False,
        "save_strategy": "no", "disable_tqdm": True, "seed": 0,
    }  # fmt: skip
    return FSTConfig(str(output_dir), **{**given, **changes})


def trainer(folder: Path, args: FSTConfig, **changes: Any) -> FSTTrainer:
    given = {"task": ParityTask(), "reflector": Rules()}
    return FSTTrainer(str(folder), args=args, **{**given, **changes})


def weights(trained: FSTTrainer) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in trained.model.named_parameters()}


class FakeSamplingParams(SimpleNamespace):
    pass


class FakeEngine:
    """Samples as vLLM does, from weights that were pushed to it; ``calls`` keeps prompts, ``pushed`` names."""

    def __init__(self, model: str) -> None:
        self.lm = AutoModelForCausalLM.from_pretrained(model)
        self.end = self.lm.config.eos_token_id
        self.calls: list[list[list[int]]] = []
        self.pushed: list[str] = []

    def load(self, name: str, tensor: torch.Tensor) -> None:
        self.pushed.append(name)
        with torch.no_grad():
            dict(self.lm.named_parameters())[name].copy_(tensor)

    @torch.no_grad()
    def complete(self, prompt: Sequence[int], tokens: int, temperature: float) -> tuple[list[int], list[float]]:
        ids, logprobs = list(prompt), []
        while len(logprobs) < tokens and (not logprobs or ids[-1] != self.end):
            scores = torch.log_softmax(self.lm(torch.tensor([ids])).logits[0, -1] / temperature, -1)
            ids.append(int(torch.multinomial(scores.exp(), 1)))
            logprobs.append(float(scores[ids[-1]]))
        return ids[len(prompt) :], logprobs


class FakeLLM(FakeEngine):
    """``vllm.LLM`` as TRL's colocated mode calls it."""

    made: list[FakeLLM] = []  # noqa: RUF012

    def __init__(self, model: str, **options: Any) -> None:
        super().__init__(model)
        self.options = options
        loader = SimpleNamespace(load_weights=lambda pairs: [self.load(*pair) for pair in pairs])
        runner = SimpleNamespace(model_runner=SimpleNamespace(model=loader))
        self.llm_engine = SimpleNamespace(model_executor=SimpleNamespace(driver_worker=runner))
        self.made.append(self)

    def reset_prefix_cache(self) -> None:
        return

    def generate(self, prompts: list[dict], sampling_params: FakeSamplingParams, use_tqdm: bool) -> list:
        assert sampling_params.n == 1 and sampling_params.logprobs == 0
        self.calls.append([p["prompt_token_ids"] for p in prompts])
        return [self._output(p["prompt_token_ids"], sampling_params) for p in prompts]

    def _output(self, prompt: list[int], params: FakeSamplingParams) -> SimpleNamespace:
        ids, logprobs = self.complete(prompt, params.max_tokens, params.temperature)
        tops = [{i: SimpleNamespace(rank=1, logprob=p)} for i, p in zip(ids, logprobs, strict=True)]
        tops[0][ids[0]].logprob = math.nan  # vLLM has no number now and then
        return SimpleNamespace(prompt_token_ids=prompt, outputs=[SimpleNamespace(token_ids=ids, logprobs=tops)])


class FakeClient(FakeEngine):
    """``trl.generation.vllm_client.VLLMClient`` as TRL's server mode calls it."""

    made: list[FakeClient] = []  # noqa: RUF012
    model = ""

    def __init__(self, base_url: str, group_port: int, connection_timeout: float) -> None:
        super().__init__(self.model)
        self.made.append(self)

    def init_communicator(self, device: Any) -> None:
        return

    def update_named_params(self, metadata: list, named: Any) -> None:
        for (name, _, shape), (pushed, tensor) in zip(metadata, named, strict=True):
            assert name == pushed and list(tensor.shape) == shape
            self.load(name, tensor)

    def reset_prefix_cache(self) -> None:
        return

    def generate(self, prompts: list[list[int]], n: int, max_tokens: int, temperature: float, **_: Any) -> dict:
        assert n == 1
        self.calls.append(prompts)
        done = [self.complete(p, max_tokens, temperature) for p in prompts]
        logprobs = [[[p] for p in logprobs] for _, logprobs in done]
        return {"prompt_ids": prompts, "completion_ids": [ids for ids, _ in done], "logprobs": logprobs}
