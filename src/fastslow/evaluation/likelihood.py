"""Log-likelihood of given text under the policy: of a task's gold answers, and of plain English."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from fastslow.policy.logprobs import sequence_logprobs
from fastslow.policy.model import Policy
from fastslow.policy.tree import TokenSequence
from fastslow.types import Context, Problem

_SEQUENCES = 64  # of one forward


def answer_loglik(policy: Policy, problems: Sequence[Problem], context: Context) -> dict[str, float]:
    """Problem id -> mean log-probability per token (nats, <= 0) of its gold answer after the rendered prompt.

    Problems without a known answer are left out. The end of the reply is no part of the answer.
    """
    # After "Answer:" the answer begins with a space; a chat turn begins with the answer itself.
    lead = " " if policy.renderer.style == "text" else ""
    sequences: dict[str, TokenSequence] = {}
    for problem in problems:
        if problem.answer is not None and problem.answer.strip():
            prompt, shared = policy.renderer.render(context, problem)
            answer = policy.tokenizer(lead + problem.answer.strip(), add_special_tokens=False)["input_ids"]
            sequences[problem.id] = TokenSequence(prompt, shared, tuple(answer))
    return dict(zip(sequences, mean_loglik(policy, list(sequences.values())), strict=True))


def text_loglik(policy: Policy, passages: Sequence[str]) -> dict[str, float]:
    """Passage -> mean log-probability per token (nats) of all its tokens but the first, which nothing precedes."""
    found: dict[str, TokenSequence] = {}
    for passage in passages:
        first, *rest = policy.tokenizer(passage, add_special_tokens=False)["input_ids"]
        found[passage] = TokenSequence((first,), 0, tuple(rest))
    return dict(zip(found, mean_loglik(policy, list(found.values())), strict=True))


@torch.no_grad()
def mean_loglik(policy: Policy, sequences: Sequence[TokenSequence]) -> list[float]:
    """Mean log-probability per completion token of each sequence, at temperature 1."""
    means: list[float] = []
    for start in range(0, len(sequences), _SEQUENCES):
        part = sequences[start : start + _SEQUENCES]
        with sequence_logprobs(policy, part) as (logprobs_T, _, _):
            means += [float(t.double().mean()) for t in logprobs_T.split([len(s.completion_ids) for s in part])]
    return means
