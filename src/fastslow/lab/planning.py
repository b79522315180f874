"""Which runs an experiment needs, and their configs: arms by seeds by studies, matched at equal total rollouts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path

from fastslow.config import Method, RunConfig
from fastslow.config_io import load_config, parse_config
from fastslow.errors import FastslowError
from fastslow.lab.studies import ARMS, DEFAULT_LR, Arm, find_study
from fastslow.runs.directory import RunDirectory
from fastslow.runs.metrics import read_metrics
from fastslow.runs.summary import read_summary
from fastslow.worked_examples import WorkedExample, format_examples

_FAR = 1_000_000  # steps: the rollout budget ends the arms that are matched to FST
_TOLD_EXAMPLES = 3


@dataclass(frozen=True, slots=True)
class Planned:
    """A run that an experiment needs. Its budget is that of FST with the same study and seed, unless it is FST."""

    study: str
    arm: str
    seed: int
    lr: float = DEFAULT_LR
    lr_of_fst: float = DEFAULT_LR

    @property
    def folder(self) -> str:
        """Below the lab's root; the learning rate is in it, so that a new one never mixes with old runs."""
        rate = "" if self.arm == "gepa" else f"-lr{self.lr:g}"
        return f"{self.study}/{self.arm}{rate}-seed{self.seed}"

    @property
    def matched(self) -> Planned | None:
        """The FST run whose total rollouts this one may spend."""
        if self.arm == "fst":
            return None
        return Planned(self.study, "fst", self.seed, self.lr_of_fst, self.lr_of_fst)

    @property
    def minutes(self) -> float:
        """Roughly, on two cores."""
        return ARMS[self.arm].pace * find_study(self.study).pace

    @property
    def label(self) -> str:
        return f"{self.study} {self.arm} seed {self.seed}"


@dataclass(frozen=True)
class LabRun:
    """A run on disk: what was planned, and where it is."""

    planned: Planned
    path: Path

    @property
    def finished(self) -> bool:
        return RunDirectory(self.path).summary_path.exists()


@dataclass(frozen=True)
class Choice:
    """What the user asked for: ``seeds`` 0 … N-1, ``arms``, and the sweep's rates: swept study -> arm -> rate."""

    seeds: int
    arms: tuple[str, ...]
    rates: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def rate(self, arm: str, study: str) -> float:
        """The AdamW learning rate with which ``arm`` is trained on ``study``."""
        return self.rates.get(find_study(study).tuned_on, {}).get(ARMS[arm].tuned_as or arm, DEFAULT_LR)


def plan(studies: Sequence[str], choice: Choice) -> list[Planned]:
    """Every study, seed by seed, FST first; after a stop all arms have the same seeds, as far as it got."""
    arms = sorted(choice.arms, key=list(ARMS).index)
    return [
        Planned(study, arm, seed, choice.rate(arm, study), choice.rate("fst", study))
        for seed in range(choice.seeds)
        for study in studies
        for arm in arms
    ]


def with_matched(planned: Sequence[Planned]) -> list[Planned]:
    """The same runs, each after the FST run that gives its budget, without repetition."""
    return list(dict.fromkeys(p for one in planned for p in (one.matched, one) if p is not None))


def config_of(planned: Planned, root: Path) -> RunConfig:
    """The run's config; an arm that is matched reads FST's rollouts from its summary."""
    study, arm = find_study(planned.study), ARMS[planned.arm]
    settings = [*study.settings, f"method={arm.method}", f"seed={planned.seed}", f"slow.lr={planned.lr!r}"]
    settings.append(f"name={planned.study}-{planned.arm}")
    config = load_config(study.path, settings)
    if planned.matched is not None:
        config = _matched(config, arm, RunDirectory(root / planned.matched.folder))
    if not arm.told:
        return config
    told = config.task.seed_context.model_copy(update=told_context(config))
    return config.model_copy(update={"task": config.task.model_copy(update={"seed_context": told})})


def told_context(config: RunConfig) -> dict[str, str]:
    """What a person would write who knows how answers must be given: the rule in words, and worked examples.

    The examples are training problems, as anyone would take who has the data; validation problems stay unseen.
    """
    from fastslow.tasks.conventions import make_convention
    from fastslow.tasks.feedback import ANSWER_ALONE
    from fastslow.tasks.registry import build_task

    task = build_task(config.task)
    if config.task.convention is not None:
        plain = build_task(config.task.model_copy(update={"convention": None}))
        answers = [p.answer for p in (*plain.train, *plain.val)]
        advice = [make_convention(config.task.convention, answers).advice]
    else:
        advice = [str(p.metadata["advice"]) for p in task.train if "advice" in p.metadata] or [ANSWER_ALONE]
    rules = list(dict.fromkeys(advice))
    shown = [next(p for p in task.train if p.metadata.get("advice") == rule) for rule in rules] if rules[1:] else []
    shown = shown or list(task.train[:_TOLD_EXAMPLES])
    examples = [WorkedExample(p.text, p.answer) for p in shown if p.answer is not None]
    return {"instructions": "\n".join(rules), "examples": format_examples(examples)}


def check_arms(arms: Sequence[str], known: Sequence[str]) -> tuple[str, ...]:
    """Raises :class:`FastslowError` for an arm that the experiment or the config does not have."""
    unknown = [arm for arm in arms if arm not in ARMS]
    if unknown or not arms:
        raise FastslowError(f"--arms: {unknown[0] if unknown else 'none'} is not known; choose from {', '.join(known)}")
    for arm in arms:
        if ARMS[arm].method not in Method.__args__:  # type: ignore[attr-defined]
            raise FastslowError(f"--arms: {arm} needs method {ARMS[arm].method}, which this version does not have")
    return tuple(dict.fromkeys(arms))


def by_arm(runs: Sequence[LabRun], study: str) -> dict[str, list[LabRun]]:
    """The finished runs of a study: arm -> runs, in the order of their seeds."""
    found: dict[str, list[LabRun]] = {}
    for run in sorted(_of(runs, study), key=lambda r: (list(ARMS).index(r.planned.arm), r.planned.seed)):
        found.setdefault(run.planned.arm, []).append(run)
    return found


def _of(runs: Sequence[LabRun], study: str) -> Iterator[LabRun]:
    return (run for run in runs if run.planned.study == study and run.finished)


def _matched(config: RunConfig, arm: Arm, fst: RunDirectory) -> RunConfig:
    """``config`` with the total rollouts of a finished FST run, by the arm's multiple; in a schedule, every stage's."""
    data = config.model_dump(mode="json")
    if not data.get("schedule"):
        total = round(arm.budget * read_summary(fst.summary_path).rollouts.training)
        data |= {"max_rollouts": total, "steps": _FAR}
        return parse_config(data, where=str(fst.path))
    if arm.method != "rl" or arm.budget != 1:
        raise FastslowError(f"--arms: {arm.name} can't be matched to FST stage by stage; choose fst, rl")
    size, spent, done = config.slow.group_size * config.slow.problems_per_step, _spent_by_stage(fst), 0
    for stage, total in zip(data["schedule"], spent, strict=True):
        stage["steps"] = max(1, round(total / size) - done)
        done += stage["steps"]
    return parse_config({**data, "steps": done}, where=str(fst.path))


def _spent_by_stage(run: RunDirectory) -> list[int]:
    """Total training rollouts of a run up to the end of each stage of its schedule."""
    lines = [line for line in read_metrics(run.metrics_path) if line["kind"] == "evaluation"]
    totals = {line["step"]: line["rollouts"]["fast"] + line["rollouts"]["slow"] for line in lines}
    ends = accumulate(stage.steps for stage in run.load_config().stages)
    return [totals[end] for end in ends]
