"""A task, an evaluator and reflectors that are small enough to reason about.

Problem ``p<i>`` needs the word ``WORDS[i % 4]``: any context that holds it solves the problem.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from fastslow.fast.base import Proposal, Record
from fastslow.types import Context, Problem, Rollout

WORDS = ("amber", "birch", "cedar", "dune")


def problems(n: int = 16) -> list[Problem]:
    return [Problem(f"p{i}", f"Question number {i}, please?", f"answer {i}", {"word": WORDS[i % 4]}) for i in range(n)]


def context(instructions: str = "", examples: str = "") -> Context:
    return Context({"instructions": instructions, "examples": examples})


class Evaluator:
    """Counts calls and pairs. ``noise`` flips that share of rewards, by a seeded stream."""

    def __init__(self, noise: float = 0.0, weights_step: int = 0, sign: int = 1) -> None:
        self.noise, self.weights_step, self.sign = noise, weights_step, sign
        self.calls: list[list[tuple[Context, Problem]]] = []
        self._rng = random.Random(0)

    @property
    def rollouts(self) -> int:
        return sum(map(len, self.calls))

    def __call__(self, pairs: Sequence[tuple[Context, Problem]]) -> list[Rollout]:
        self.calls.append(list(pairs))
        return [self.roll_out(c, p) for c, p in pairs]

    def reward(self, context: Context, problem: Problem) -> float:
        solved = problem.metadata["word"] in " ".join(context.components.values())
        return float(solved if self.sign > 0 else not solved)

    def roll_out(self, context: Context, problem: Problem) -> Rollout:
        reward = self.reward(context, problem)
        if self._rng.random() < self.noise:
            reward = 1.0 - reward
        feedback = "Correct." if reward == 1.0 else f"Wrong.\nAdvice: Say {problem.metadata['word']}."
        return Rollout(
            problem_id=problem.id,
            context_id=context.id,
            weights_step=self.weights_step,
            phase="fast",
            seed=0,
            prompt_ids=(1,),
            shared=0,
            completion_ids=(2,),
            logprobs=(-0.5,),
            text="reply",
            finish_reason="stop",
            reward=reward,
            feedback=feedback,
        )


class WordReflector:
    """Adds one word that a missed record asks for, to the component that the seed picks."""

    name = "word"

    def __init__(self) -> None:
        self.calls = 0

    def propose(self, context: Context, records: Sequence[Record], components: Sequence[str], seed: int) -> Proposal:
        self.calls += 1
        missed = [r for r in records if r.reward < 1]
        if not missed:
            return Proposal(None, "nothing missed", calls=1, tokens=10)
        word = missed[seed % len(missed)].problem.metadata["word"]
        component = components[(seed // 7) % len(components)]
        old = context.components.get(component, "")
        if component == "examples":
            new = f"{old}\n\n### Question\nWhich word?\n### Answer\n{word}".strip()
        else:
            new = f"{old} {word}".strip()
        return Proposal({component: new}, f"say {word}", calls=1, tokens=10)


class SilentReflector:
    """Has nothing to say, in the given way."""

    name = "silent"

    def __init__(self, error: Exception | None = None, reason: str = "no idea: really") -> None:
        self.error, self.reason, self.calls = error, reason, 0

    def propose(self, context: Context, records: Sequence[Record], components: Sequence[str], seed: int) -> Proposal:
        self.calls += 1
        if self.error is not None:
            raise self.error
        return Proposal(None, self.reason, calls=1)
