"""summary.json: what a run cost and what it reached, in one typed object, the same for every method."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fastslow.config import RunConfig
from fastslow.errors import RunError
from fastslow.runs.files import read_json
from fastslow.runs.versions import package_versions
from fastslow.tasks.schedule import task_names


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")  # a summary of a later version stays readable


class RolloutCounts(_Record):
    """Rollouts by phase. A comparison of methods is made at equal ``training``: fast and slow together."""

    fast: int = 0
    slow: int = 0
    evaluation: int = 0

    @property
    def training(self) -> int:
        return self.fast + self.slow


class PhaseTokens(_Record):
    prompt: int = 0
    completion: int = 0


class TokenCounts(_Record):
    """Tokens by phase, and those that reflections by a language model took."""

    fast: PhaseTokens = PhaseTokens()
    slow: PhaseTokens = PhaseTokens()
    evaluation: PhaseTokens = PhaseTokens()
    reflection: int = 0


class Seconds(_Record):
    """Wall-clock seconds by phase; ``total`` is their sum, loading apart."""

    fast: float = 0.0
    slow: float = 0.0
    evaluation: float = 0.0
    total: float = 0.0


class IntervalPair(_Record):
    seed_context: tuple[float, float]
    evolved_context: tuple[float, float]


class AccuracyPoint(_Record):
    """Validation accuracy at one evaluation, in [0, 1], and the training rollouts spent before it."""

    step: int
    training_rollouts: int
    seed_context: float
    evolved_context: float
    ci95: IntervalPair

    @classmethod
    def from_line(cls, line: Mapping[str, Any]) -> AccuracyPoint:
        """From an ``evaluation`` line of metrics.jsonl."""
        accuracy = line["accuracy"]
        return cls(
            step=line["step"],
            training_rollouts=line["rollouts"]["fast"] + line["rollouts"]["slow"],
            seed_context=accuracy["seed_context"],
            evolved_context=accuracy["evolved_context"],
            ci95=accuracy["ci95"],
        )


class AccuracySummary(_Record):
    """``best``: the evaluation with the highest accuracy under its evolved context; the earliest of equals."""

    initial: AccuracyPoint
    final: AccuracyPoint
    best: AccuracyPoint


class StageSummary(AccuracySummary):
    """A stage of a schedule: its task's accuracy over the whole run. ``end``: when its own training was over (the last
    evaluation until then); ``final - end`` is what later stages took from it or gave to it. Steps are slow steps."""

    name: str
    start: int
    steps: int
    end: AccuracyPoint


class RunSummary(_Record):
    """See the fields; ``majority_share`` is the share of the most common reply at the last evaluation."""

    method: str
    task: str
    model: str
    init_from: str | None = Field(
        None, description="the checkpoint that the run started from; None: the model as it is"
    )
    seed: int
    steps: int = Field(description="slow steps done")
    problems: int = Field(description="training problems seen by slow steps")
    rollouts: RolloutCounts
    tokens: TokenCounts
    seconds: Seconds
    accuracy: AccuracySummary | None = Field(None, description="None until the first evaluation")
    stages: list[StageSummary] = Field(default_factory=list, description="of a schedule, in order")
    drift: dict[str, float] = Field(
        default_factory=dict, description="KL to the base model, in nats per token, by name"
    )
    majority_share: float | None = None
    contexts_used: int = Field(1, description="distinct contexts that were ever in the population")
    groups: int = Field(0, description="groups sampled by slow steps")
    flat_groups: int = Field(0, description="groups whose rewards were all equal: no gradient")
    rescued_groups: int = Field(0, description="groups that are not flat only because contexts differ")
    scorer_errors: int = 0
    skipped_steps: int = Field(0, description="slow steps whose update was left out: a NaN or exploding gradient")
    peak_memory_gb: float | None = Field(None, description="largest resident memory of the process so far, 1e9 bytes")
    versions: dict[str, str] = Field(default_factory=dict)

    @property
    def flat_share(self) -> float:
        return self.flat_groups / self.groups if self.groups else 0.0


class Counts(Protocol):
    """What a run counts as it goes; :class:`fastslow.runs.state.RunState` has it."""

    step: int
    problems: int
    rollouts: dict[str, int]
    tokens: dict[str, dict[str, int]]
    seconds: dict[str, float]
    flat_groups: int
    rescued_groups: int
    scorer_errors: int
    skipped_steps: int


def build_summary(
    config: RunConfig, counts: Counts, lines: Sequence[Mapping[str, Any]], drift: Mapping[str, float] | None = None
) -> RunSummary:
    """The summary of a run from its counters and the lines of its metrics.jsonl (:func:`read_metrics`)."""
    by_kind: dict[str, list[Mapping[str, Any]]] = {"slow": [], "fast": [], "evaluation": []}
    for line in lines:
        by_kind[line["kind"]].append(line)
    evaluations = by_kind["evaluation"]
    contexts = {context for line in by_kind["fast"] for context in line["population"]}
    reflection = sum(line.get("reflection_tokens") or 0 for line in by_kind["fast"])
    return RunSummary(
        method=config.method,
        task=task_title(config),
        model=config.model.name,
        init_from=config.model.init_from,
        seed=config.seed,
        steps=counts.step,
        problems=counts.problems,
        rollouts=RolloutCounts(**counts.rollouts),
        tokens=TokenCounts.model_validate({**counts.tokens, "reflection": reflection}),
        seconds=Seconds(**counts.seconds, total=sum(counts.seconds.values())),
        accuracy=summarise_accuracy(evaluations),
        stages=summarise_stages(config, evaluations),
        drift=dict(drift or {}),
        majority_share=evaluations[-1].get("majority_answer_share") if evaluations else None,
        contexts_used=max(1, len(contexts)),
        groups=sum(line.get("groups") or 0 for line in by_kind["slow"]),
        flat_groups=counts.flat_groups,
        rescued_groups=counts.rescued_groups,
        scorer_errors=counts.scorer_errors,
        skipped_steps=counts.skipped_steps,
        peak_memory_gb=peak_memory_gb(),
        versions=package_versions(),
    )


def peak_memory_gb() -> float | None:
    """Of this process since it started; None where the system doesn't tell (Windows)."""
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak * (1 if sys.platform == "darwin" else 1024) / 1e9, 2)  # macOS counts bytes, Linux KiB


def summarise_accuracy(evaluations: Sequence[Mapping[str, Any]]) -> AccuracySummary | None:
    """First, last and best of the ``evaluation`` lines; None where there are none."""
    points = [AccuracyPoint.from_line(line) for line in evaluations]
    if not points:
        return None
    return AccuracySummary(initial=points[0], final=points[-1], best=max(points, key=lambda p: p.evolved_context))


def task_title(config: RunConfig) -> str:
    """The task's name (or path), or those of all stages."""
    if config.schedule:
        names = task_names(config.tasks)
        return " -> ".join(names[config.tasks.index(stage.task)] for stage in config.schedule)
    return config.task.name or getattr(config.task, "path", "")


def summarise_stages(config: RunConfig, evaluations: Sequence[Mapping[str, Any]]) -> list[StageSummary]:
    """Each stage of a schedule, from the ``evaluation`` lines that measured all; empty for a run of one task."""
    lines = [line for line in evaluations if line.get("stages")]
    if not lines or not config.schedule:
        return []
    names, start, found = task_names(config.tasks), 0, []
    for stage in config.schedule:
        name = names[config.tasks.index(stage.task)]
        points = [AccuracyPoint.from_line({**line, **line["stages"][name]}) for line in lines]
        end = [p for p in points if p.step <= start + stage.steps][-1]
        best = max(points, key=lambda p: p.evolved_context)
        found.append(
            StageSummary(
                name=name, start=start, steps=stage.steps, initial=points[0], end=end, final=points[-1], best=best
            )
        )  # fmt: skip
        start += stage.steps
    return found


def read_summary(path: str | Path) -> RunSummary:
    """Read a summary.json; raises :class:`RunError` where it is missing or damaged."""
    path = Path(path)
    try:
        return RunSummary.model_validate(read_json(path))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"])
        raise RunError(f"{path}: {field}: {first['msg']}; run it again, or leave it out") from error
