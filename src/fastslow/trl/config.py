"""FSTConfig: every argument of ``GRPOConfig``, the paper's defaults for the loss, and the fast weights' own."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from trl import GRPOConfig

from fastslow.errors import ConfigError

SUM_LOSSES = ("cispo", "dapo")
"""TRL's losses whose token sum is divided by one number, so that token weights mean what they say."""


@dataclass
class FSTConfig(GRPOConfig):
    """``GRPOConfig`` and the fast weights.

    Other defaults than TRL's: ``loss_type="cispo"`` with ``epsilon_high=4.0`` (TRL caps at that very number), ``beta``
    0.001, no KL bias correction, and no separate vLLM importance correction, since CISPO's own capped ratio is taken
    to the log-probabilities that vLLM reports (arXiv 2605.12484; MiniMax-M1, arXiv 2506.13585, eq. 4-5).
    """

    _VALID_DICT_FIELDS = [*GRPOConfig._VALID_DICT_FIELDS, "fast_options"]  # noqa: RUF012 - as transformers declares it

    loss_type: str = field(default="cispo", metadata={"help": "cispo is the paper's; any of GRPOConfig's"})
    epsilon_high: float | None = field(default=4.0, metadata={"help": "cispo: the cap of the importance weight"})
    beta: float = field(default=0.001, metadata={"help": "coefficient of the KL to the base model"})
    use_bias_correction_kl: bool = field(default=False, metadata={"help": "multiply the KL by the importance ratio"})
    vllm_importance_sampling_correction: bool = field(
        default=False, metadata={"help": "TRL's own correction; off: the ratio is taken to vLLM's log-probabilities"}
    )
    num_contexts: int = field(default=4, metadata={"help": "K contexts in use; divides num_generations"})
    fast_every: int = field(default=6, metadata={"help": "T batches of problems per cycle"})
    fast_budget: int | None = field(
        default=None, metadata={"help": "rollouts of one fast phase; default: 5 x the problems of a cycle"}
    )
    fast_options: dict[str, Any] | str | None = field(
        default=None, metadata={"help": "more settings of the fast phase, as under `fast` in a run config"}
    )
    token_average: str = field(
        default="problem",
        metadata={"help": "every problem weighs the same; or sequence, token, constant, or trl for TRL's own"},
    )
    stop: list[str] | None = field(default=None, metadata={"help": "strings that end a completion"})
    truncated: str = field(
        default="keep", metadata={"help": "completions cut at the limit: keep their reward, zero it, or mask the loss"}
    )
    answer_column: str | None = field(
        default=None, metadata={"help": "column with the gold answer; default: answer or solution, where there is one"}
    )
    sampling_batch_size: int | None = field(
        default=None, metadata={"help": "rows a process samples at once without vLLM; default: its slow batch"}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        group, k = self.num_generations, self.num_contexts
        if k < 1 or group % k:
            raise ConfigError(f"num_contexts (K = {k}) must divide num_generations (G = {group})")
        if self.fast_every < 1:
            raise ConfigError(f"fast_every must be 1 or more (got {self.fast_every})")
        if self.steps_per_generation % self.gradient_accumulation_steps:
            raise ConfigError(
                f"steps_per_generation ({self.steps_per_generation}) must be a multiple of "
                f"gradient_accumulation_steps ({self.gradient_accumulation_steps}): a batch belongs to whole steps"
            )
        averages = ("problem", "sequence", "token", "constant", "trl")
        if self.token_average not in averages:
            raise ConfigError(f"token_average: {self.token_average!r} is not one of {', '.join(averages)}")
        if self.token_average != "trl" and self.loss_type not in SUM_LOSSES:
            raise ConfigError(
                f"token_average: {self.token_average!r} needs loss_type cispo or dapo (got {self.loss_type!r}); "
                "token_average='trl' keeps the average of TRL's loss"
            )
        if self.truncated not in ("keep", "zero", "mask"):
            raise ConfigError(f"truncated: {self.truncated!r} is not one of keep, zero, mask")
        if self.mask_truncated_completions:
            raise ConfigError("mask_truncated_completions: use truncated='mask', which knows of stop strings too")
        if self.remove_unused_columns:
            raise ConfigError("remove_unused_columns must be False: the reward functions read the columns")

    @property
    def problems_per_batch(self) -> int:
        """Problems of one batch of G rollouts each, over all processes."""
        return self.generation_batch_size // self.num_generations

    @property
    def steps_per_batch(self) -> int:
        """Optimizer steps taken on one batch of rollouts."""
        return self.steps_per_generation * self.num_iterations // self.gradient_accumulation_steps
