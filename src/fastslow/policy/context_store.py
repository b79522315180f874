"""Keys and values of contexts, computed once per weights step and shared by all that needs them: the rollouts of a
batch, the fast phase's evaluations, and, where the gradient stops at the context, the training forward.

Shapes as in :mod:`fastslow.policy.tree_attention`: J key heads, C tokens of the context, D head width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from fastslow.policy.tree_attention import AttentionOptions, KeyValue, attend_context, attention_plan

Prefix = tuple[int, ...]
MAX_STORED_TOKENS = 65_536


class Prefills(Protocol):
    """What prefilling asks of a policy."""

    device: torch.device

    def sampling_hidden(self, ids_N: Tensor, positions_N: Tensor) -> Tensor: ...


class ContextStore:
    """Keys and values [J, C, D] per layer of each context, valid for one weights step only."""

    def __init__(self) -> None:
        self.weights_step: int | None = None
        self._layers: dict[Prefix, dict[int, KeyValue]] = {}

    def refresh(self, weights_step: int, *, changed: bool = False) -> None:
        """Forget everything computed under other weights, or everything once the store grows too large."""
        if changed or weights_step != self.weights_step or sum(map(len, self._layers)) > MAX_STORED_TOKENS:
            self._layers.clear()
            self.weights_step = weights_step

    def missing(self, prefixes: Sequence[Prefix]) -> list[Prefix]:
        return [p for p in dict.fromkeys(prefixes) if p and p not in self._layers]

    def put(self, prefix: Prefix, layer: int, keys: Tensor, values: Tensor) -> None:
        self._layers.setdefault(prefix, {})[layer] = (keys, values)

    def get(self, prefix: Prefix, layer: int, like: KeyValue) -> KeyValue:
        """Keys and values in ``like``'s dtype; none of its tokens for an empty context."""
        if not prefix:
            return like[0][:, :0], like[1][:, :0]
        keys, values = self._layers[prefix][layer]
        return keys.to(like[0].dtype), values.to(like[1].dtype)


@dataclass(slots=True)
class _ContextPlan:
    """Prefill of one whole context."""

    store: ContextStore
    prefix: Prefix

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, options: AttentionOptions) -> Tensor:
        self.store.put(self.prefix, layer, k.contiguous(), v.contiguous())
        return attend_context(q, k, v, options)


def prefill_contexts(policy: Prefills, store: ContextStore, prefixes: Sequence[Prefix]) -> None:
    """Compute the contexts that the store doesn't hold yet, under the sampling weights.

    Each in a forward of its own: packed together they would round differently in other company, and a resumed run,
    which starts with an empty store, would not repeat an unbroken one to the bit.
    """
    # no_grad, not inference mode: a training forward may read these tensors and save them for its backward
    with torch.inference_mode(False), torch.no_grad():
        for prefix in store.missing(prefixes):
            ids = torch.tensor(prefix, device=policy.device)
            with attention_plan(_ContextPlan(store, prefix)):
                policy.sampling_hidden(ids, torch.arange(len(prefix), device=policy.device))
