"""The local slow learner: one AdamW step per batch of groups, contexts computed once per micro-batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fastslow.config import SlowConfig
from fastslow.errors import ModelError
from fastslow.policy.logprobs import sequence_logprobs
from fastslow.policy.model import Policy
from fastslow.policy.tree import TokenSequence
from fastslow.slow.advantages import group_advantages
from fastslow.slow.guard import GradientGuard
from fastslow.slow.losses import LOSSES, LossSettings, TokenBatch, kl_penalty
from fastslow.slow.microbatch import split_by_context
from fastslow.staleness import require_current
from fastslow.types import Group, Rollout


@dataclass(frozen=True, slots=True)
class _Sample:
    """A rollout that carries a gradient."""

    sequence: TokenSequence
    old_logprobs: tuple[float, ...]
    advantage: float
    group: int


class LocalLearner:
    """AdamW with linear warm-up on float32 master weights (see :class:`~fastslow.slow.base.SlowLearner`)."""

    def __init__(self, policy: Policy, config: SlowConfig, max_new_tokens: int, temperature: float = 1.0) -> None:
        self.policy, self.config, self.temperature = policy, config, temperature
        self.loss = LOSSES[config.loss]
        self.settings = LossSettings(config.cap, config.clip_low, config.clip_high, max_new_tokens)
        self.optimizer = torch.optim.AdamW(
            policy.trainable().values(), lr=config.lr, betas=config.betas, weight_decay=config.weight_decay, fused=True
        )
        self.updates = 0
        self.guard = GradientGuard()
        if config.kl > 0:
            policy.keep_base()

    def update(self, groups: Sequence[Group]) -> dict[str, float]:
        """One optimizer step. Flat groups are dropped before the forward pass, so they get no KL gradient either.

        Without any group left the weights stay as they are and no optimizer step is counted. Neither do they move where
        :class:`GradientGuard` skips the update (``skipped_steps`` is then 1). Raises :class:`StaleError` for rollouts
        that other weights made: their log-probabilities would be taken for the current policy's.
        """
        for rollout in (r for g in groups for r in g.rollouts):
            require_current(
                f"a rollout of problem {rollout.problem_id!r}", rollout.weights_step, self.policy.weights_step
            )
        kept = [g for g in groups if not g.is_flat]
        metrics = {
            "groups": float(len(groups)),
            "flat_groups": float(len(groups) - len(kept)),
            "rescued_groups": float(sum(map(rescued_by_contexts, kept))),
            "lr": self.learning_rate,
            "skipped_steps": 0.0,
        }
        samples = self._samples(kept)
        if not samples:
            return {**metrics, "loss": 0.0, "grad_norm": 0.0, "kl": 0.0, "computed_tokens": 0.0}
        self.optimizer.zero_grad(set_to_none=True)
        if self.config.context_gradient:  # sampling is over, and the update needs the memory
            self.policy.contexts.refresh(self.policy.weights_step, changed=True)
        return {**metrics, **self._step(self._backward(samples))}

    def _step(self, totals: dict[str, float]) -> dict[str, float]:
        """Clip the gradient and take the optimizer's step, unless the guard skips it; returns more ``totals``."""
        grad_norm = float(torch.nn.utils.clip_grad_norm_(self.policy.trainable().values(), self.config.max_grad_norm))
        if self.guard.skips(totals["loss"], grad_norm):
            self.optimizer.zero_grad(set_to_none=True)
            return {**totals, "grad_norm": grad_norm, "skipped_steps": 1.0}
        for settings in self.optimizer.param_groups:
            settings["lr"] = self.learning_rate
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.updates += 1
        self.policy.weights_step += 1
        return {**totals, "grad_norm": grad_norm}

    @property
    def learning_rate(self) -> float:
        """Of the next update: linear warm-up from lr / warmup to lr."""
        return self.config.lr * min(1.0, (self.updates + 1) / max(1, self.config.warmup))

    def _samples(self, groups: Sequence[Group]) -> list[_Sample]:
        samples = []
        for number, group in enumerate(groups):
            advantages = group_advantages(group.rewards, self.loss.divides_by_std).tolist()
            for rollout, advantage in zip(group.rollouts, advantages, strict=True):
                if not self._masked(rollout):
                    tokens = TokenSequence(rollout.prompt_ids, rollout.shared, rollout.completion_ids)
                    samples.append(_Sample(tokens, rollout.logprobs, advantage, number))
        return samples

    def _masked(self, rollout: Rollout) -> bool:
        return self.config.truncated == "mask" and rollout.finish_reason == "length"

    def _backward(self, samples: Sequence[_Sample]) -> dict[str, float]:
        device = self.policy.device
        lengths = torch.tensor([len(s.sequence.completion_ids) for s in samples])
        sequence_T = torch.arange(len(samples)).repeat_interleave(lengths)
        group_T = torch.tensor([s.group for s in samples])[sequence_T]
        weights_T = self.loss.weights(sequence_T, group_T, self.settings)
        offsets = (torch.cumsum(lengths, 0) - lengths).tolist()
        totals = {"loss": 0.0, "kl": 0.0, "ratio_max": 0.0, "entropy": 0.0, "computed_tokens": 0.0}
        for part in split_by_context(
            [s.sequence for s in samples], self.config.token_budget, counts_contexts=self.config.context_gradient
        ):
            tokens = [t for i in part for t in range(offsets[i], offsets[i] + len(samples[i].sequence.completion_ids))]
            index_T = torch.tensor(tokens)
            batch = _token_batch([samples[i] for i in part], sequence_T[index_T], group_T[index_T], device)
            self._backward_part([samples[i].sequence for i in part], batch, weights_T[index_T].to(device), totals)
        return totals

    def _backward_part(
        self, sequences: list[TokenSequence], batch: TokenBatch, weights_T: Tensor, totals: dict[str, float]
    ) -> None:
        with sequence_logprobs(
            self.policy, sequences, self.temperature, context_gradient=self.config.context_gradient
        ) as (logprobs_T, entropy_T, computed):
            batch = batch._replace(logprobs_T=logprobs_T)
            loss_T = self.loss.tokens(batch, self.settings)
            if self.config.kl > 0:
                with (
                    torch.no_grad(),
                    sequence_logprobs(self.policy, sequences, self.temperature, base=True) as (
                        base_T,
                        _,
                        base_computed,
                    ),
                ):
                    base_logprobs_T = base_T
                    computed += base_computed
                kl_T = kl_penalty(logprobs_T, base_logprobs_T)
                loss_T = loss_T + self.config.kl * kl_T
                totals["kl"] += float((weights_T * kl_T.detach()).sum())
            loss = (weights_T * loss_T).sum()
            loss.backward()
        totals["loss"] += float(loss.detach())
        totals["entropy"] += float((weights_T * entropy_T).sum())
        ratio = (logprobs_T.detach() - batch.old_logprobs_T).exp()
        totals["ratio_max"] = max(totals["ratio_max"], float(ratio.max()))
        totals["computed_tokens"] += computed

    def state(self) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
        """Weights and AdamW moments by parameter name, the number of updates and their latest gradient norms.

        Raises :class:`ModelError` where a weight is not finite: a checkpoint holds weights that a run can go on from.
        """
        self.require_finite_weights()
        named = self.policy.trainable()
        moments: dict[str, Tensor] = {}
        for name, parameter in named.items():
            for key, value in self.optimizer.state.get(parameter, {}).items():
                moments[f"{name}/{key}"] = value.detach().clone().reshape(value.shape).contiguous()
        weights = {name: p.detach().contiguous() for name, p in named.items()}
        return {"weights": weights, "optimizer": moments}, {"updates": self.updates, "grad_norms": self.guard.norms}

    def load_state(self, tensors: dict[str, dict[str, Tensor]], state: dict[str, Any]) -> None:
        named = self.policy.trainable()
        with torch.no_grad():
            for name, parameter in named.items():
                parameter.copy_(tensors["weights"][name])
        for key, value in tensors["optimizer"].items():
            name, _, moment = key.rpartition("/")
            parameter = named[name]
            # AdamW's fused step wants its step counter on the parameter's device, in float32.
            self.optimizer.state[parameter][moment] = value.to(parameter.device).clone()
        self.updates = self.policy.weights_step = int(state["updates"])
        self.guard.load(state.get("grad_norms", ()))

    def require_finite_weights(self) -> None:
        bad = [name for name, p in self.policy.trainable().items() if not bool(torch.isfinite(p).all())]
        if bad:
            raise ModelError(
                f"weights step {self.policy.weights_step}: {bad[0]} holds NaN or infinite weights, which are never "
                "saved; go on from the last checkpoint, with a lower slow.lr"
            )


def rescued_by_contexts(group: Group) -> bool:
    """A group with a signal whose every context, taken alone, would have been flat."""
    by_context: dict[str, set[float]] = {}
    for rollout in group.rollouts:
        by_context.setdefault(rollout.context_id, set()).add(rollout.reward)
    return not group.is_flat and len(by_context) > 1 and all(len(rewards) == 1 for rewards in by_context.values())


def _token_batch(samples: Sequence[_Sample], sequence_T: Tensor, group_T: Tensor, device: torch.device) -> TokenBatch:
    old = torch.tensor([p for s in samples for p in s.old_logprobs], device=device)
    advantages = torch.tensor([s.advantage for s in samples for _ in s.old_logprobs], device=device)
    return TokenBatch(old, old, advantages, sequence_T.to(device), group_T.to(device))
