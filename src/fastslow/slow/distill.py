"""FST-distill: the weights learn to do without a context what they do with one (arXiv 2605.12484, the ablation of FST).

The teacher is the policy under an evolved context c, the student the same weights under the seed context alone. On
rollouts y that were sampled with c, at every token of y,

    KL( π_θ(· | x, y_<t) ‖ sg π_θ(· | c, x, y_<t) )

is minimised: the reverse KL, exact over the vocabulary. It takes the place of the whole RL loss, so rewards move no
weights; they still choose the contexts, in the fast phase.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from fastslow.config import SlowConfig
from fastslow.policy import logprobs
from fastslow.policy.logprobs import Head, output_head, sequence_hidden
from fastslow.policy.model import Policy
from fastslow.policy.tree import TokenSequence
from fastslow.slow.learner import LocalLearner
from fastslow.slow.losses.weights import per_problem
from fastslow.slow.microbatch import split_by_context
from fastslow.staleness import require_current
from fastslow.types import Group

StudentPrompt = Callable[[str], tuple[tuple[int, ...], int]]
"""Problem id -> (prompt token ids without an evolved context, how many of them are the seed context's)."""


@dataclass(frozen=True, slots=True)
class _Pair:
    """One completion, behind its own prompt and behind the student's."""

    teacher: TokenSequence
    student: TokenSequence
    group: int


class DistillLearner(LocalLearner):
    """AdamW on the reverse KL (see :class:`~fastslow.slow.base.SlowLearner`).

    Optimizer, warm-up, clipping, guard and checkpoints are those of :class:`LocalLearner`; ``loss`` and ``kl`` of the
    config have no say here, so no second copy of the weights is kept.
    """

    def __init__(
        self, policy: Policy, config: SlowConfig, max_new_tokens: int, temperature: float, student_prompt: StudentPrompt
    ) -> None:
        super().__init__(policy, config.model_copy(update={"kl": 0.0}), max_new_tokens, temperature)
        self.student_prompt = student_prompt

    def update(self, groups: Sequence[Group]) -> dict[str, float]:
        """One optimizer step on all groups, whatever their rewards: none is flat here.

        Rollouts whose prompt is the student's own are left out: teacher and student are the same there. With no other
        rollout the weights stay as they are. Raises :class:`StaleError` for rollouts that other weights made.
        """
        for rollout in (r for g in groups for r in g.rollouts):
            require_current(
                f"a rollout of problem {rollout.problem_id!r}", rollout.weights_step, self.policy.weights_step
            )
        pairs = self._pairs(groups)
        metrics = {
            "groups": float(len(groups)),
            "flat_groups": 0.0,
            "rescued_groups": 0.0,
            "distilled_rollouts": float(len(pairs)),
            "lr": self.learning_rate,
            "skipped_steps": 0.0,
        }
        if not pairs:
            return {**metrics, "loss": 0.0, "grad_norm": 0.0, "computed_tokens": 0.0}
        self.optimizer.zero_grad(set_to_none=True)
        if self.config.context_gradient:  # sampling is over, and the update needs the memory
            self.policy.contexts.refresh(self.policy.weights_step, changed=True)
        return {**metrics, **self._step(self._distill(pairs))}

    def _pairs(self, groups: Sequence[Group]) -> list[_Pair]:
        pairs = []
        for number, group in enumerate(groups):
            prompt, shared = self.student_prompt(group.problem_id)
            for rollout in group.rollouts:
                if rollout.prompt_ids != prompt and not self._masked(rollout):
                    teacher = TokenSequence(rollout.prompt_ids, rollout.shared, rollout.completion_ids)
                    pairs.append(_Pair(teacher, TokenSequence(prompt, shared, rollout.completion_ids), number))
        return pairs

    def _distill(self, pairs: Sequence[_Pair]) -> dict[str, float]:
        lengths = torch.tensor([len(p.student.completion_ids) for p in pairs])
        group_T = torch.tensor([p.group for p in pairs]).repeat_interleave(lengths)
        weights_T = per_problem(group_T, group_T, self.settings)
        offsets = (torch.cumsum(lengths, 0) - lengths).tolist()
        totals = {"loss": 0.0, "computed_tokens": 0.0}
        # The teacher's tokens are counted, the longer ones: so the student's stay within the budget too.
        for part in split_by_context(
            [p.teacher for p in pairs], self.config.token_budget, counts_contexts=self.config.context_gradient
        ):
            index_T = torch.cat([torch.arange(offsets[i], offsets[i] + int(lengths[i])) for i in part])
            self._distill_part([pairs[i] for i in part], weights_T[index_T].to(self.policy.device), totals)
        return totals

    def _distill_part(self, pairs: Sequence[_Pair], weights_T: Tensor, totals: dict[str, float]) -> None:
        policy, gradient, head = self.policy, self.config.context_gradient, output_head(self.policy)
        with (
            torch.no_grad(),
            sequence_hidden(policy, [p.teacher for p in pairs], context_gradient=gradient) as found,
        ):
            teacher_TD, _, computed = found
        with sequence_hidden(policy, [p.student for p in pairs], context_gradient=gradient) as found:
            student_TD, _, own = found
            loss = (weights_T * reverse_kl(student_TD, teacher_TD, head, self.temperature)).sum()
            loss.backward()
        totals["loss"] += float(loss.detach())
        totals["computed_tokens"] += computed + own


def reverse_kl(student_TD: Tensor, teacher_TD: Tensor, head: Head, temperature: float = 1.0) -> Tensor:
    """KL(student ‖ teacher) over the vocabulary at each of T positions [T], nats, at the sampling temperature.

    The gradient goes through the student alone; the teacher, the head's part in it included, is a constant. Logits are
    held for a chunk of positions at a time and computed anew in the backward.
    """

    def chunk(student: Tensor, teacher: Tensor) -> Tensor:
        log_p = (_logits(student, head) / temperature).log_softmax(-1)
        with torch.no_grad():
            log_q = (_logits(teacher, head) / temperature).log_softmax(-1)
        return (log_p.exp() * (log_p - log_q)).sum(-1)

    vocabulary = _logits(teacher_TD[:1].detach(), head).shape[-1]
    size = max(1, logprobs.CHUNK_LOGITS // (2 * vocabulary))  # two distributions at once
    if len(student_TD) <= size:
        return chunk(student_TD, teacher_TD)
    parts = [
        checkpoint(chunk, student_TD[i : i + size], teacher_TD[i : i + size], use_reentrant=False)
        for i in range(0, len(student_TD), size)
    ]
    return torch.cat(parts)


def _logits(hidden_TD: Tensor, head: Head) -> Tensor:
    return hidden_TD.float() @ head.t() if isinstance(head, Tensor) else head(hidden_TD)
