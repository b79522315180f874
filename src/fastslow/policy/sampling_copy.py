"""The weights to sample from, in a narrower dtype: cast once per weights step rather than in every forward.

On a CPU its linear layers also keep their weights in the blocked layout that oneDNN computes in. Left as they are, it
would rearrange them in every product, which tells most in the few rows of a decoding step.
"""

from __future__ import annotations

import copy
import functools
from typing import Any

import torch
from torch import Tensor, nn

_ROWS = 64  # what the blocked layout is chosen for; any number of rows can be multiplied
_LEAST = 64  # narrower layers (adapters) gain nothing
_AGREE = 0.02  # relative: two roundings to bfloat16


class SamplingCopy:
    """A copy of ``model`` in ``dtype``; :meth:`refresh` takes over its weights, before the first use too."""

    def __init__(self, model: nn.Module, dtype: torch.dtype) -> None:
        self.model = copy.deepcopy(model).to(dtype).requires_grad_(False)
        device = next(model.parameters()).device
        self._packed = pack_linears(self.model) if device.type == "cpu" and can_pack(dtype) else {}

    @torch.no_grad()
    def refresh(self, model: nn.Module) -> None:
        """Take over the weights of ``model``, the one this is a copy of."""
        sources = dict(model.named_parameters(remove_duplicate=False))  # tied layers by either name
        for name, parameter in self.model.named_parameters():
            parameter.copy_(sources[name])
        for name, linear in self._packed.items():
            linear.load(sources[f"{name}.weight"])


class PackedLinear(nn.Module):
    """A linear layer on the CPU, its weight [out, in] in oneDNN's layout. Nothing in it until :meth:`load`."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.bias, self._dtype = linear.bias, linear.weight.dtype
        self._packed: Tensor | None = None

    def load(self, weight: Tensor) -> None:
        self._packed = _ops()._reorder_linear_weight(weight.to(self._dtype).contiguous(), _ROWS)

    def forward(self, x: Tensor) -> Tensor:
        return _ops()._linear_pointwise(x, self._packed, self.bias, "none", [], "")


def pack_linears(model: nn.Module) -> dict[str, PackedLinear]:
    """Put packed layers in the place of ``model``'s linear ones, but for its head, which is tied to the embedding."""
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    found = {
        name: PackedLinear(module)
        for name, module in model.named_modules()
        if type(module) is nn.Linear and module is not head and min(module.weight.shape) >= _LEAST
    }
    for name, packed in found.items():
        parent, _, last = name.rpartition(".")
        setattr(model.get_submodule(parent), last, packed)
    return found


@functools.cache
def can_pack(dtype: torch.dtype) -> bool:
    """Whether this machine's torch packs weights of ``dtype``, and comes to the same product.

    The operations are those that torch's compiler emits; they are no public interface, so they are tried, not trusted.
    """
    if dtype not in (torch.bfloat16, torch.float16) or not torch.backends.mkldnn.is_available():
        return False
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        linear = nn.Linear(128, 96).to(dtype)
        x = torch.randn(3, 128, dtype=dtype)
        packed = PackedLinear(linear)
        try:
            packed.load(linear.weight)
            found, expected = packed(x).float(), linear(x).float()
        except (RuntimeError, AttributeError, TypeError):  # no such operation, or not on this processor
            return False
    return bool((found - expected).abs().max() <= _AGREE * expected.abs().max())


def _ops() -> Any:
    return torch.ops.mkldnn
