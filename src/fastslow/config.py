"""One frozen, typed, serialisable config tree. Importing it never imports torch.

A config is YAML; every key has a default but ``task``. Unknown keys are errors. Units stand in each field's
description, and rewards are always "higher is better, 1.0 = solved".
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from fastslow.config_tasks import (  # noqa: F401 - the tasks' settings are part of this tree, and imported from here
    ConventionConfig,
    FileTask,
    Frozen,
    ReasoningGymTask,
    SeedContextConfig,
    Stage,
    TaskConfig,
    typed_task,
)

Method = Literal["fst", "rl", "gepa", "fst-distill"]
LossName = Literal["cispo", "grpo", "dapo", "dr_grpo", "gspo"]
EMBEDDED_MODEL = "smollm2-135m"


class LoraConfig(Frozen):
    """Low-rank adapters through ``peft`` instead of full fine-tuning."""

    rank: int = Field(16, ge=1, description="rank of the adapters")
    alpha: float = Field(32.0, gt=0, description="adapters are scaled by alpha / rank")
    targets: list[str] | Literal["all-linear"] = Field("all-linear", description="names of the modules that get one")


class PromptConfig(Frozen):
    """Where a context's components go. ``auto`` is decided by the model (see ``policy/prompts.py``).

    ``style: text`` writes ``Question: …`` / ``Answer:`` lines; ``chat`` uses the tokenizer's chat template.
    """

    style: Literal["auto", "chat", "text"] = Field("auto", description="auto: chat where the tokenizer has a template")
    instructions: Literal["auto", "system", "user"] = Field("auto", description="chat: the message that holds them")
    examples: Literal["auto", "turns", "user"] = Field("auto", description="chat: turns of their own, or in the user's")
    question_prefix: str = Field("Question: ", description="text style: in front of a question")
    answer_prefix: str = Field("Answer:", description="text style: in front of an answer")
    template_kwargs: dict[str, Any] = Field(
        default_factory=dict, description="extra settings of the chat template, for example enable_thinking: false"
    )


class ModelConfig(Frozen):
    """The policy. ``name`` is ``smollm2-135m`` (embedded), a local folder, a local ``.gguf`` or a hub id."""

    name: str = Field(EMBEDDED_MODEL, description="the embedded model, a local folder, a local .gguf or a hub id")
    revision: str | None = Field(None, description="hub revision (branch, tag or commit)")
    init_from: str | None = Field(
        None, description="start from a run's weights: its folder (newest checkpoint) or one of its checkpoints"
    )
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1, …")
    sampling_dtype: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="dtype of the sampling copy; auto measures which is faster, once a run"
    )
    train_dtype: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="compute dtype of the training forward (master weights stay float32)"
    )
    float32_matmul: Literal["auto", "default", "onednn"] = Field(
        "auto", description="library of float32 products on a CPU; auto measures which is faster, once a run"
    )
    threads: int | None = Field(None, ge=1, description="torch threads; default: the cores this process may use")
    lora: LoraConfig | None = Field(None, description="low-rank adapters; null: all weights are trained")
    prompt: PromptConfig = PromptConfig()


class SamplingConfig(Frozen):
    """How completions are drawn."""

    temperature: float = Field(1.0, ge=0, description="0 is greedy (evaluation only)")
    max_new_tokens: int = Field(16, ge=1, description="tokens a completion may take")
    stop: list[str] = Field(default_factory=list, description="strings that end a completion; cut from its text")
    batch_size: int = Field(64, ge=1, description="rows decoded at once")


class FeedbackReflector(Frozen):
    """No LLM: composes advice found in feedback and worked examples from training problems, prunes, crosses."""

    type: Literal["feedback"] = "feedback"
    max_examples: int = Field(4, ge=0, description="worked examples a context may hold")


class EndpointReflector(Frozen):
    """Any OpenAI-compatible server. The key is read from the environment variable ``api_key_env``."""

    type: Literal["endpoint"] = "endpoint"
    model: str = Field(description="the model's name at the server")
    base_url: str | None = Field(None, description="server address, with /v1; default: the client's own")
    api_key_env: str = Field("OPENAI_API_KEY", description="NAME of the environment variable that holds the key")
    temperature: float = Field(1.0, ge=0, description="sampling temperature of the reflection")
    max_tokens: int = Field(4096, ge=1, description="tokens one reply may take")
    timeout: float = Field(120.0, gt=0, description="seconds one request may take")
    retries: int = Field(4, ge=0, description="retries after a timeout, 429 or 5xx")
    max_calls: int | None = Field(None, ge=1, description="spending cap: requests in the whole run")
    max_total_tokens: int | None = Field(None, ge=1, description="spending cap: tokens in the whole run")


class PolicyReflector(Frozen):
    """The model reflects on itself."""

    type: Literal["policy"] = "policy"
    max_new_tokens: int = Field(512, ge=1, description="tokens one reflection may take")
    temperature: float = Field(0.7, ge=0, description="sampling temperature of the reflection")


ReflectorConfig = Annotated[FeedbackReflector | EndpointReflector | PolicyReflector, Field(discriminator="type")]


class FastConfig(Frozen):
    """The fast phase: a population of contexts, evolved by GEPA every ``every`` slow steps (arXiv 2605.12484)."""

    optimizer: Literal["gepa"] = Field("gepa", description="who evolves the contexts")
    population: int = Field(4, ge=1, description="K contexts in use; divides group_size")
    every: int = Field(6, ge=1, description="T slow steps per cycle")
    budget: int | None = Field(None, ge=1, description="metric calls per cycle; default: passes x lookahead")
    passes: float = Field(5.0, gt=0, description="passes over the lookahead, if no budget is given")
    minibatch: int = Field(3, ge=1, description="problems a reflection reads")
    proposals: int = Field(2, ge=1, description="proposals evaluated together in one iteration")
    rescore: float = Field(
        0.1,
        ge=0,
        le=0.5,
        description="share of the budget kept to re-score new contexts before they replace old ones; 0: no re-scoring",
    )
    merge: bool = Field(True, description="also propose crossings of two contexts that win on different problems")
    max_context_tokens: int = Field(512, ge=1, description="cap on a context's tokens")
    components: list[Literal["instructions", "examples"]] = Field(
        ["instructions", "examples"], description="parts of a context that may change"
    )
    reflector: ReflectorConfig = Field(FeedbackReflector(), description="who proposes new texts")

    @model_validator(mode="before")
    @classmethod
    def _reflector_by_type(cls, data: Any) -> Any:
        if isinstance(data, dict) and isinstance(data.get("reflector"), str):
            data = {**data, "reflector": {"type": data["reflector"]}}
        elif isinstance(data, dict) and isinstance(data.get("reflector"), dict):
            data = {**data, "reflector": {"type": "feedback", **data["reflector"]}}
        return data


class SlowConfig(Frozen):
    """The slow phase: RL on the weights with group advantages across contexts."""

    loss: LossName = Field("cispo", description="the policy-gradient loss")
    cap: float = Field(4.0, gt=0, description="CISPO: cap τ of the importance weight")
    clip_low: float = Field(0.2, gt=0, lt=1, description="GRPO family: 1 - lower clip of the ratio")
    clip_high: float = Field(0.2, gt=0, description="GRPO family: upper clip of the ratio - 1 (DAPO: 0.28)")
    kl: float = Field(0.001, ge=0, description="coefficient of KL(π_θ ‖ π_base) in the RL loss; 0 skips the reference")
    group_size: int = Field(8, ge=2, description="G rollouts per problem")
    problems_per_step: int = Field(8, ge=1, description="problems of one batch")
    lr: float = Field(1e-5, gt=0, description="AdamW learning rate after warm-up")
    betas: tuple[float, float] = Field((0.9, 0.999), description="AdamW decay rates of its two averages")
    weight_decay: float = Field(0.0, ge=0, description="AdamW decoupled weight decay")
    warmup: int = Field(10, ge=0, description="optimizer steps of linear warm-up")
    max_grad_norm: float = Field(1.0, gt=0, description="the gradient is scaled down to this norm")
    max_skipped_steps: int = Field(
        5,
        ge=1,
        description="updates in a row, skipped for a NaN or exploding gradient, after which the run stops",
    )
    truncated: Literal["zero", "mask"] = Field(
        "zero", description="completions cut at max_new_tokens: reward 0, or no loss"
    )
    token_budget: int = Field(1536, ge=64, description="tokens one training forward may hold, about 1 MB each at 135M")
    context_gradient: bool = Field(
        True, description="false: contexts are constants in training; cheap at any length, but an approximation"
    )


class TrlConfig(Frozen):
    """``engine: trl``: the slow phase on TRL's GRPOTrainer. How many processes, and DDP, FSDP or DeepSpeed, is for
    ``accelerate launch`` to say (see docs/scaling.md)."""

    gradient_accumulation_steps: int | None = Field(
        None, ge=1, description="forwards a process takes for its part of a step; default: as slow.token_budget asks"
    )
    use_vllm: bool = Field(False, description="sample with vLLM instead of transformers")
    vllm_mode: Literal["colocate", "server"] = Field(
        "colocate", description="vLLM in the training processes, or a `trl vllm-serve` server of its own"
    )
    report_to: list[str] = Field(default_factory=list, description="wandb, tensorboard, trackio, …")
    options: dict[str, Any] = Field(
        default_factory=dict, description="any other argument of GRPOConfig, for example vllm_gpu_memory_utilization"
    )


class EvaluationConfig(Frozen):
    """When and on how much the run is measured."""

    every: int = Field(6, ge=0, description="slow steps between evaluations; 0: only first and last")
    n: int = Field(1, ge=1, description="samples per validation problem")
    problems: int | None = Field(None, ge=1, description="validation problems used; default: all")


class RunConfig(Frozen):
    """A whole run. See ``configs/demo.yaml`` for one with every common key."""

    name: str = Field("run", description="the run's folder, if no other is given")
    method: Method = Field(
        "fst",
        description="fst: both channels; rl: weights alone; gepa: contexts alone; fst-distill: as fst, but the weights "
        "learn from the policy under its contexts instead of from reward",
    )
    seed: int = Field(0, description="root of every random stream of the run but the data's")
    steps: int = Field(24, ge=1, description="slow steps (for method gepa: cycles x T)")
    max_rollouts: int | None = Field(None, ge=1, description="stop once fast + slow rollouts reach this")
    engine: Literal["local", "trl"] = Field(
        "local", description="local: one process; trl: TRL, on many devices (method gepa, without weights, is local)"
    )
    model: ModelConfig = ModelConfig()
    schedule: list[Stage] | None = Field(
        None,
        min_length=1,
        description="several tasks one after the other in one run, in place of task and steps: a list of {task, steps}",
    )
    task: TaskConfig
    sampling: SamplingConfig = SamplingConfig()
    fast: FastConfig = FastConfig()
    slow: SlowConfig = SlowConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    trl: TrlConfig = TrlConfig()
    checkpoint_every: int = Field(6, ge=0, description="slow steps between checkpoints; 0: only the last")
    keep_checkpoints: int = Field(2, ge=1, description="newest checkpoints that stay on disk")

    @model_validator(mode="before")
    @classmethod
    def _task_defaults(cls, data: Any) -> Any:
        """With a schedule ``task`` is the first stage's and ``steps`` the sum, so that what reads them has them."""
        data = typed_task(data)
        stages = data.get("schedule") if isinstance(data, dict) else None
        if isinstance(stages, list) and stages and all(isinstance(s, dict) for s in stages):
            steps = [s.get("steps") for s in stages]
            if "task" in stages[0]:
                data = {"task": stages[0]["task"], **data}
            if all(isinstance(n, int) for n in steps):
                data = {"steps": sum(steps), **data}
        return typed_task(data)

    @model_validator(mode="after")
    def _consistent(self) -> RunConfig:
        if self.population_trains and self.slow.group_size % self.fast.population:
            raise ValueError(
                f"fast.population (K = {self.fast.population}) must divide slow.group_size "
                f"(G = {self.slow.group_size}); try K = {_largest_divisor(self.slow.group_size, self.fast.population)}"
            )
        if self.sampling.temperature == 0 and self.method != "gepa":
            raise ValueError("sampling.temperature must be above 0 to train: greedy rollouts of a group are all alike")
        if self.method == "fst-distill" and self.engine == "trl":
            raise ValueError("method: fst-distill is trained by engine: local alone")
        if self.schedule:
            _check_schedule(self, self.schedule)
        return self

    @property
    def stages(self) -> list[Stage]:
        """The schedule; a run of one task is one stage."""
        return self.schedule or [Stage(task=self.task, steps=self.steps)]

    @property
    def tasks(self) -> list[TaskConfig]:
        """The different tasks of the run, in order of their first stage."""
        found: list[TaskConfig] = []
        for stage in self.stages:
            if stage.task not in found:
                found.append(stage.task)
        return found

    @property
    def contexts_in_use(self) -> int:
        """K of the slow phase: RL alone has one context, the seed."""
        return self.fast.population if self.population_trains else 1

    @property
    def population_trains(self) -> bool:
        """Whether slow rollouts are split over the population: both channels learn."""
        return self.method in ("fst", "fst-distill")

    @property
    def lookahead(self) -> int:
        """Problems of one cycle: the next T batches."""
        return self.fast.every * self.slow.problems_per_step

    @property
    def fast_budget(self) -> int:
        """Metric calls of one fast phase (0 for RL alone)."""
        return self.fast_budget_of(self.fast.every)

    def fast_budget_of(self, batches: int) -> int:
        """Metric calls of a fast phase that looks ``batches`` ahead: fewer than T where a stage ends before."""
        if self.method == "rl":
            return 0
        return self.fast.budget or max(1, round(self.fast.passes * batches * self.slow.problems_per_step))


def _check_schedule(config: RunConfig, stages: list[Stage]) -> None:
    if config.task != stages[0].task:
        raise ValueError("task: leave it out beside a schedule, whose stages name their tasks")
    if config.steps != sum(stage.steps for stage in stages):
        raise ValueError(f"steps: leave it out beside a schedule, whose stages have {sum(s.steps for s in stages)}")
    if config.engine == "trl":
        raise ValueError("schedule: run by engine: local alone")
    for number, stage in enumerate(stages):
        if stage.task.seed_context != stages[0].task.seed_context:
            raise ValueError(
                f"schedule: stage {number + 1} has another task.seed_context than the first; a run starts from one "
                "context, which says nothing of a single task"
            )


def _largest_divisor(number: int, at_most: int) -> int:
    return max(d for d in range(1, min(number, at_most) + 1) if number % d == 0)


def shipped(name: str) -> Path:
    """A file or folder that stands at the top of a checkout and inside the package in a wheel (see ``setup.py``)."""
    package = Path(__file__).resolve().parent
    checkout = package.parents[1]
    return (checkout if (checkout / "pyproject.toml").is_file() else package) / name


def config_dir() -> Path:
    """Where the shipped configs stand."""
    return shipped("configs")
