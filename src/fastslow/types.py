"""What passes between the parts: small frozen dataclasses, free of torch.

Everything that can go stale (a rollout, a score) carries the weights step and the context id it was made with.
Rewards are floats, higher is better, and 1.0 means solved.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Message = Mapping[str, str]
FinishReason = Literal["stop", "length"]
Phase = Literal["fast", "slow", "evaluation"]

INSTRUCTIONS = "instructions"
EXAMPLES = "examples"


@dataclass(frozen=True, slots=True)
class Problem:
    """One question with its gold answer.

    ``id`` is unique within a task and stable across processes. ``text`` is the question as the model reads it;
    ``messages`` holds earlier chat turns, if the question closes a conversation. ``answer`` is the gold answer in
    the exact form that scores 1, or None where only a scorer knows.
    """

    id: str
    text: str
    answer: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict, compare=False)
    task: str = ""
    messages: tuple[Message, ...] = ()


@dataclass(frozen=True, slots=True)
class Score:
    """A reward (1.0 = solved) and the feedback that a person could learn from.

    ``error`` is set when the scorer itself failed; the reward is then 0 and the feedback tells the error.
    """

    reward: float
    feedback: str = ""
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Context:
    """One fast weight φ: named text components, by default ``instructions`` and ``examples``.

    ``id`` is a hash of the text alone, so equal texts are one context whoever proposed them. ``parents``,
    ``birth_cycle`` and ``reason`` keep the lineage.
    """

    components: Mapping[str, str]
    parents: tuple[str, ...] = ()
    birth_cycle: int = 0
    reason: str = "seed"
    id: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "components", dict(self.components))
        object.__setattr__(self, "id", context_id(self.components))

    @property
    def instructions(self) -> str:
        return self.components.get(INSTRUCTIONS, "")

    @property
    def examples(self) -> str:
        return self.components.get(EXAMPLES, "")

    @property
    def is_empty(self) -> bool:
        return not any(text.strip() for text in self.components.values())


def context_id(components: Mapping[str, str]) -> str:
    """First 12 hex digits of the SHA-256 over the sorted (name, text) pairs."""
    digest = hashlib.sha256()
    for name in sorted(components):
        for part in (name, components[name]):
            data = part.encode("utf-8", "surrogatepass")
            digest.update(len(data).to_bytes(8, "big") + data)
    return digest.hexdigest()[:12]


@dataclass(frozen=True, slots=True)
class Request:
    """Ask a sampler for ``n`` completions of ``problem`` under ``context``; sample i draws from stream (seed, i)."""

    context: Context
    problem: Problem
    n: int = 1
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Completion:
    """What a sampler returns for one sample of a request.

    ``prompt_ids`` is the whole prompt, context included; its first ``shared`` tokens are the context alone, equal
    for every problem under that context. ``logprobs`` has one log-probability (nats, at the sampling temperature)
    per completion token. ``text`` is what the scorer sees: special tokens and the stop string removed.
    """

    prompt_ids: tuple[int, ...]
    shared: int
    completion_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    text: str
    finish_reason: FinishReason


@dataclass(frozen=True, slots=True)
class Rollout:
    """A scored completion, stamped with the context and the weights step that made it."""

    problem_id: str
    context_id: str
    weights_step: int
    phase: Phase
    seed: int
    prompt_ids: tuple[int, ...]
    shared: int
    completion_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    text: str
    finish_reason: FinishReason
    reward: float
    feedback: str = ""
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Group:
    """The G rollouts of one problem, across contexts: the unit over which advantages are computed."""

    problem_id: str
    rollouts: tuple[Rollout, ...]

    def __post_init__(self) -> None:
        strangers = {r.problem_id for r in self.rollouts} - {self.problem_id}
        if strangers:
            raise ValueError(f"group of problem {self.problem_id!r} holds rollouts of {sorted(strangers)}")

    @property
    def rewards(self) -> tuple[float, ...]:
        return tuple(r.reward for r in self.rollouts)

    @property
    def is_flat(self) -> bool:
        """All rewards equal: the group carries no advantage (ScaleRL drops it, arXiv 2510.13786)."""
        return len(set(self.rewards)) <= 1


def group_rollouts(rollouts: Sequence[Rollout], size: int) -> list[Group]:
    """Group by problem id, in order of first appearance; every group must have exactly ``size`` rollouts.

    The key is the problem's id, never its prompt tokens: under several contexts each rollout has its own prompt.
    """
    by_problem: dict[str, list[Rollout]] = {}
    for rollout in rollouts:
        by_problem.setdefault(rollout.problem_id, []).append(rollout)
    for problem_id, members in by_problem.items():
        if len(members) != size:
            raise ValueError(f"problem {problem_id!r} has {len(members)} rollouts, expected exactly {size}")
    return [Group(problem_id, tuple(members)) for problem_id, members in by_problem.items()]
