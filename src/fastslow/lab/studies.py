"""What the lab trains: studies (a task under a convention, or a schedule) and arms (a method with its prompt).

Studies are shared: several experiments look at the same runs. They were chosen by what a model of 135M parameters can
be taught, and cover the range from an answer's form that the weights find by themselves to one reward never finds.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fastslow.config import config_dir
from fastslow.errors import FastslowError

DEFAULT_LR = 1.5e-5
"""AdamW learning rate of every arm until the sweep has been run."""
TUNED_ON = ("sums", "sums-brackets")
"""The studies of the sweep: for tasks as they are, and for tasks under a convention."""


@dataclass(frozen=True, slots=True)
class Arm:
    """``told``: starts from the prompt of a person who knows the convention. ``budget``: total rollouts, as a multiple
    of FST's. ``tuned_as``: the arm of the sweep whose learning rate it takes, by default its own. ``pace``: minutes
    per 12-step study on two cores, for the plan alone."""

    name: str
    title: str
    method: str
    told: bool = False
    budget: float = 1.0
    tuned_as: str = ""
    pace: float = 2.0


ARMS: Mapping[str, Arm] = {
    arm.name: arm
    for arm in (
        Arm("fst", "FST", "fst", pace=2.8),
        Arm("rl", "RL", "rl", pace=1.5),
        Arm("rl-long", "RL, four times the rollouts", "rl", budget=4.0, tuned_as="rl", pace=6.0),
        Arm("rl-told", "RL, told", "rl", told=True, pace=2.0),
        Arm("gepa", "GEPA", "gepa", pace=2.3),
        Arm("fst-distill", "FST-distill", "fst-distill", pace=3.0),
    )
}


@dataclass(frozen=True, slots=True)
class Study:
    """``config``: a file of configs/lab; ``settings``: overrides on top. ``keep``: arms whose final weights stay, to
    be measured (1.6 GB a run). ``pace``: its runs take so many times those of the 12-step sums."""

    name: str
    title: str
    config: str
    settings: tuple[str, ...] = ()
    keep: tuple[str, ...] = ()
    pace: float = 1.0

    @property
    def path(self) -> Path:
        return config_dir() / "lab" / f"{self.config}.yaml"

    @property
    def tuned_on(self) -> str:
        """The swept study whose learning rates it takes: answers under a convention have rates of their own."""
        conventional = self.config == "mixed" or any(s.startswith("task.convention=") for s in self.settings)
        return TUNED_ON[conventional]


_LONGER = ("sampling.max_new_tokens=12",)
"""A JSON object takes more tokens than a number."""


def _sums(name: str, title: str, convention: str | None, **more: object) -> Study:
    settings = () if convention is None else (f"task.convention={convention}",)
    settings += _LONGER if convention == "json" else ()
    return Study(name, title, "sums", settings, **more)  # type: ignore[arg-type]


def _schedule(*stages: tuple[str, str | None]) -> tuple[str, ...]:
    """Settings on top of the sums' config: stages of (dataset, convention), 12 slow steps each."""
    tasks = [
        {"name": name, "level": "small", "val_size": 48, **({"convention": {"kind": kind}} if kind else {})}
        for name, kind in stages
    ]
    first = stages[0][1]
    start = (f"task.convention={first}",) if first else ()
    plan = json.dumps([{"task": task, "steps": 12} for task in tasks])
    return (*start, f"steps={12 * len(stages)}", f"schedule={plan}", "evaluation.every=6", *_LONGER)


_LONG = ("steps=30", "evaluation.every=3")

STUDIES: Mapping[str, Study] = {
    study.name: study
    for study in (
        _sums("sums", "sums", None, keep=("fst", "rl")),
        _sums("sums-period", "sums, a full stop behind", "period", keep=("fst", "rl")),
        _sums("sums-prefix", "sums behind 'Result:'", "prefix"),
        _sums("sums-brackets", "sums in brackets", "brackets", keep=("fst", "rl-told")),
        _sums("sums-json", "sums as JSON", "json"),
        Study("products", "products", "products"),
        Study("gcd", "greatest common divisors", "gcd"),
        Study("letters", "letter counting", "letter_counting"),
        Study("isomorphic", "isomorphic strings", "isomorphic_strings", pace=1.8),
        Study(
            "isomorphic-brackets", "isomorphic strings in brackets", "isomorphic_strings",
            ("task.convention=brackets",), keep=("fst", "rl"), pace=1.8,
        ),
        Study("ransom-note", "ransom notes", "ransom_note", pace=1.8),
        Study("mixed", "three skills, three conventions", "mixed", pace=1.3),
        Study("path-star", "paths on star graphs", "path_star", ("steps=24",), pace=2.5),
        Study("sums-long", "sums, 30 steps", "sums", _LONG, pace=2.4),
        Study("brackets-long", "sums in brackets, 30 steps", "sums", ("task.convention=brackets", *_LONG), pace=2.4),
        Study(
            "period-long", "sums, a full stop behind, 30 steps", "sums", ("task.convention=period", *_LONG), pace=2.4
        ),
        Study(
            "switch-convention", "sums: brackets, then 'Result:', then JSON", "sums",
            _schedule(("chain_sum", "brackets"), ("chain_sum", "prefix"), ("chain_sum", "json")), pace=4.5,
        ),
        Study(
            "switch-skill", "sums, then isomorphic strings, then products", "sums",
            _schedule(("chain_sum", None), ("isomorphic_strings", None), ("products", None)), pace=5.0,
        ),
    )
}  # fmt: skip


def find_study(name: str) -> Study:
    if name not in STUDIES:
        raise FastslowError(f"lab: no study is called {name}; known: {', '.join(STUDIES)}")
    return STUDIES[name]
