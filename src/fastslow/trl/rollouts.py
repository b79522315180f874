"""From completions to rollouts: rewards through TRL, feedback, and cut-off replies treated as the config says."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from fastslow.rollouts import CUT_OFF
from fastslow.seeds import derive_seed
from fastslow.trl.scoring import CONTEXT, TEXT, FeedbackFunc, call_feedback
from fastslow.types import Completion, Context, Phase, Problem, Rollout, Score

if TYPE_CHECKING:
    from fastslow.trl.trainer import FSTTrainer

T = TypeVar("T")
UNSCORED = "no reward function gave it a score"


@dataclass(frozen=True, slots=True)
class Sampled:
    """A completion with what it was asked."""

    problem: Problem
    context: Context
    completion: Completion


class RolloutScorer:
    """Scores this process's share; all processes call it together, with shares of one size."""

    def __init__(self, trainer: FSTTrainer, feedback_func: FeedbackFunc | None) -> None:
        self.trainer, self.feedback_func = trainer, feedback_func

    def score(self, phase: Phase, sampled: Sequence[Sampled], seed: int) -> list[Rollout]:
        """Ask the trainer's reward functions, then the feedback function."""
        trainer = self.trainer
        rows = [self._row(s) for s in sampled]
        replies = [_reply(row["prompt"], s.completion.text) for row, s in zip(rows, sampled, strict=True)]
        ids = [list(s.completion.completion_ids) for s in sampled]
        rewards = trainer._calculate_rewards(rows, [row["prompt"] for row in rows], replies, ids)
        trainer.processes.together(trainer.fences.take())
        feedback: list[str] | None = None
        if self.feedback_func is not None:
            mine = [0.0 if math.isnan(r) else r for r in self._mine(self._totals(rewards), len(sampled))]
            feedback = trainer.processes.try_together(lambda: call_feedback(self.feedback_func, rows, replies, mine))
        return self.rollouts(phase, sampled, rewards, seed, feedback)

    def rollouts(
        self,
        phase: Phase,
        sampled: Sequence[Sampled],
        rewards_SF: torch.Tensor,
        seed: int,
        feedback: Sequence[str] | None = None,
    ) -> list[Rollout]:
        """This process's rollouts from the rewards [S, functions] of all processes; a task brings its own feedback."""
        trainer = self.trainer
        totals = self._totals(rewards_SF)
        unscored = self._mine([UNSCORED if math.isnan(t) else None for t in totals], len(sampled))
        rewards = self._mine(fill_unscored(totals, trainer.num_generations if phase == "slow" else 1), len(sampled))
        scores = trainer.task_reward.scores if trainer.task_reward else [Score(0.0)] * len(sampled)
        texts = feedback if feedback is not None else [s.feedback for s in scores]
        first = trainer.processes.rank * len(sampled)
        return [
            self._rollout(
                phase,
                s,
                rewards[i],
                texts[i],
                unscored[i] or scores[i].error,
                derive_seed(seed, first + i),
            )
            for i, s in enumerate(sampled)
        ]

    def _rollout(
        self, phase: Phase, sampled: Sampled, reward: float, feedback: str, error: str | None, seed: int
    ) -> Rollout:
        completion = sampled.completion
        if completion.finish_reason == "length" and self.trainer.args.truncated == "zero":
            reward, feedback = min(reward, 0.0), f"{feedback}\n{CUT_OFF}".strip()
        return Rollout(
            problem_id=sampled.problem.id,
            context_id=sampled.context.id,
            weights_step=self.trainer.state.global_step,
            phase=phase,
            seed=seed,
            prompt_ids=completion.prompt_ids,
            shared=completion.shared,
            completion_ids=completion.completion_ids,
            logprobs=completion.logprobs,
            text=completion.text,
            finish_reason=completion.finish_reason,
            reward=reward,
            feedback=feedback,
            error=error,
        )

    def _row(self, sampled: Sampled) -> dict[str, Any]:
        problems = self.trainer.problems
        row = problems.row(problems.index(sampled.problem))
        return {**row, TEXT: sampled.completion.text, CONTEXT: sampled.context.id}

    def _totals(self, rewards_SF: torch.Tensor) -> list[float]:
        """Weighted sums [S], NaN where no function gave a score."""
        totals = (rewards_SF * self.trainer.reward_weights.to(rewards_SF.device)).nansum(dim=1)
        return totals.masked_fill(rewards_SF.isnan().all(dim=1), math.nan).tolist()

    def _mine(self, values: list[T], size: int) -> list[T]:
        first = self.trainer.processes.rank * size
        return values[first : first + size]


def fill_unscored(rewards: Sequence[float], group_size: int) -> list[float]:
    """NaN becomes the mean of its group's others, which leaves their mean alone; 0 where no other has a score.

    >>> fill_unscored([1.0, float("nan"), 0.0, 0.5], 4)
    [1.0, 0.5, 0.0, 0.5]
    """
    filled = []
    for start in range(0, len(rewards), group_size):
        group = rewards[start : start + group_size]
        known = [r for r in group if not math.isnan(r)]
        mean = fmean(known) if known else 0.0
        filled += [mean if math.isnan(r) else r for r in group]
    return filled


def _reply(prompt: Any, text: str) -> Any:
    """A completion as TRL hands it to reward functions: text, or one assistant's turn."""
    return text if isinstance(prompt, str) else [{"role": "assistant", "content": text}]
