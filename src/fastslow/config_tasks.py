"""The part of a config that says what is learnt: tasks, their conventions, and the stages of a schedule."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Frozen(BaseModel):
    """A section of a config: immutable, and without keys it doesn't know."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class ConventionConfig(Frozen):
    """A hidden reporting convention that only the feedback reveals (see ``tasks/conventions.py``)."""

    kind: str = Field(description="which convention, by name")
    seed: int = Field(0, description="seed of the convention's own choices")


class SeedContextConfig(Frozen):
    """The context every method starts from. Task-agnostic and empty by default."""

    instructions: str = Field("", description="what to do, in words")
    examples: str = Field("", description="worked examples under '### Question' and '### Answer' headings")


class _TaskBase(Frozen):
    name: str = Field("", description="how the task is called in logs and reports")
    train_size: int = Field(512, ge=1, description="training problems")
    val_size: int = Field(64, ge=1, description="validation problems; never shown to contexts or gradients")
    seed: int = Field(0, description="seed of the data and of its split; apart from the run's seed")
    seed_context: SeedContextConfig = SeedContextConfig()
    convention: ConventionConfig | None = Field(None, description="a hidden reporting convention over the answers")
    score_timeout: float = Field(10.0, gt=0, description="seconds one scoring call may take")
    reward_range: tuple[float, float] = Field(
        (0.0, 1.0), description="lowest and highest reward of the scorer; one outside counts as the scorer's failure"
    )

    @model_validator(mode="after")
    def _solved_is_in_range(self) -> _TaskBase:
        low, high = self.reward_range
        if not low < 1 <= high:
            raise ValueError(
                f"reward_range goes from the lowest reward to the highest, with 1 (solved) inside: {low:g}, {high:g}"
            )
        return self

    @model_validator(mode="before")
    @classmethod
    def _convention_by_kind(cls, data: Any) -> Any:
        if isinstance(data, dict) and isinstance(data.get("convention"), str):
            data = {**data, "convention": {"kind": data["convention"]}}
        return data


class ReasoningGymTask(_TaskBase):
    """Any Reasoning Gym dataset by name, with its own config."""

    type: Literal["reasoning_gym"] = "reasoning_gym"
    name: str = Field(description="the dataset's name")
    level: Literal["small", "default"] = Field("small", description="small: sizes a 135M model can be taught")
    config: dict[str, Any] = Field(default_factory=dict, description="the dataset's own settings, over the level's")
    reward: Literal["exact", "graded"] = Field(
        "exact", description="exact: 1 if solved, else 0; graded: partial credit"
    )


class FileTask(_TaskBase):
    """Your own JSONL, CSV or Parquet file, or a hub dataset, with a scorer."""

    type: Literal["file"] = "file"
    path: str = Field(description="a .jsonl, .csv or .parquet file, or hub:<owner/name>")
    split: str = Field("train", description="hub split to read")
    subset: str | None = Field(None, description="hub config name")
    val_path: str | None = Field(None, description="a file of its own for validation; default: split off")
    question: str = Field("question", description="column with the question (text, or a list of chat messages)")
    answer: str | None = Field("answer", description="column with the gold answer; null if only the scorer knows")
    scorer: str = Field("exact", description="exact | numeric | math-verify | choice | module:function")
    check_gold: bool = Field(True, description="the gold answers of a sample must score 1 on start")


TaskConfig = Annotated[ReasoningGymTask | FileTask, Field(discriminator="type")]


def typed_task(data: Any) -> Any:
    """``task: chain_sum`` is a Reasoning Gym dataset by name; a mapping with a path is a file."""
    task = data.get("task") if isinstance(data, dict) else None
    if isinstance(task, str):
        return {**data, "task": {"type": "reasoning_gym", "name": task}}
    if isinstance(task, dict) and "type" not in task:
        return {**data, "task": {"type": "file" if "path" in task else "reasoning_gym", **task}}
    return data


class Stage(Frozen):
    """One task of a schedule."""

    task: TaskConfig
    steps: int = Field(ge=1, description="slow steps on this task")

    @model_validator(mode="before")
    @classmethod
    def _task_defaults(cls, data: Any) -> Any:
        return typed_task(data)
