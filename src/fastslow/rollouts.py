"""From a completion to a rollout: scored, stamped, and cut-off replies treated as the config says."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from fastslow.seeds import derive_seed
from fastslow.tasks.base import Task
from fastslow.types import Completion, Phase, Request, Rollout

CUT_OFF = "The reply was cut off before it ended; answer in fewer words."


def score_rollout(
    task: Task,
    request: Request,
    sample: int,
    completion: Completion,
    *,
    phase: Phase,
    weights_step: int,
    truncated: Literal["zero", "mask"] = "zero",
) -> Rollout:
    """The rollout of ``request``'s sample number ``sample``.

    ``truncated``: a reply that ended at the token limit gets reward 0 and is told so (``zero``), or keeps its score
    and is left out of the loss later (``mask``).
    """
    score = task.score(request.problem, completion.text)
    if completion.finish_reason == "length" and truncated == "zero":
        score = replace(score, reward=min(score.reward, 0.0), feedback=f"{score.feedback}\n{CUT_OFF}".strip())
    return Rollout(
        problem_id=request.problem.id,
        context_id=request.context.id,
        weights_step=weights_step,
        phase=phase,
        seed=derive_seed(request.seed, sample),
        prompt_ids=completion.prompt_ids,
        shared=completion.shared,
        completion_ids=completion.completion_ids,
        logprobs=completion.logprobs,
        text=completion.text,
        finish_reason=completion.finish_reason,
        reward=score.reward,
        feedback=score.feedback,
        error=score.error,
    )
