"""The same numbers from fewer stored and fewer touched values: gated MLPs and RMS norms of the training forward.

Autograd keeps every intermediate of ``down(act(gate(x)) * up(x))`` and of a norm, though all of them follow from a few
in one elementwise pass. On a CPU that memory is also time: pages are touched for the first time, written and read back.
Modules are recognised by shape and by comparing numbers, so any family built like Llama's gains.

Under autocast a norm at the entry of a layer's attention or MLP gives its output in the narrow dtype at once, since all
that reads it are matrix products that would each cast it for themselves, and keep the copy until the backward.
"""

from __future__ import annotations

import types
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_AGREE = 1e-5  # relative to the largest output, float32


class GatedDown(torch.autograd.Function):
    """``(act(gate) * up) @ down.T``; keeps only gate and up, [N, f] each, for the backward."""

    @staticmethod
    def forward(ctx: Any, gate_NF: Tensor, up_NF: Tensor, down_DF: Tensor, act: str) -> Tensor:
        ctx.save_for_backward(gate_NF, up_NF, down_DF)
        ctx.act = act
        return F.linear(_activate(gate_NF, act).mul_(up_NF), down_DF)

    @staticmethod
    def backward(ctx: Any, grad_ND: Tensor) -> tuple[Tensor | None, ...]:
        gate, up, down = ctx.saved_tensors
        activated = _activate(gate, ctx.act)
        grad_down = None
        if ctx.needs_input_grad[2]:
            product = (activated * up).flatten(0, -2)
            grad_down = grad_ND.flatten(0, -2).t() @ product
        grad_product = grad_ND @ down
        grad_up = activated.mul_(grad_product)
        return _activate_backward(grad_product.mul_(up), gate, ctx.act), grad_up, grad_down, None


class RmsNorm(torch.autograd.Function):
    """``x / rms(x) * weight`` over the last dimension as ``dtype``, x's by default; keeps x and a number a token."""

    @staticmethod
    def forward(ctx: Any, x_ND: Tensor, weight_D: Tensor, eps: float, dtype: torch.dtype | None = None) -> Tensor:
        scale_N1 = _rms_scale(x_ND, eps)
        ctx.save_for_backward(x_ND, weight_D, scale_N1)
        normed = (x_ND * scale_N1).mul_(weight_D)
        return normed if dtype is None else normed.to(dtype)

    @staticmethod
    def backward(ctx: Any, grad_ND: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, scale = ctx.saved_tensors
        normed = x * scale
        grad_weight = (grad_ND * normed).flatten(0, -2).sum(0) if ctx.needs_input_grad[1] else None
        inner = grad_ND * weight
        along = (inner * normed).mean(-1, keepdim=True)
        return inner.sub_(normed.mul_(along)).mul_(scale), grad_weight, None, None


def _rms_scale(x_ND: Tensor, eps: float) -> Tensor:
    return torch.rsqrt(torch.linalg.vector_norm(x_ND, dim=-1, keepdim=True).square_().div_(x_ND.shape[-1]).add_(eps))


def _activate(gate: Tensor, act: str) -> Tensor:
    return F.silu(gate) if act == "silu" else F.gelu(gate, approximate="tanh")


def _activate_backward(grad: Tensor, gate: Tensor, act: str) -> Tensor:
    if act == "silu":
        return torch.ops.aten.silu_backward(grad, gate)
    return torch.ops.aten.gelu_backward(grad, gate, approximate="tanh")


def make_lean(model: nn.Module) -> int:
    """Give every recognised module of ``model`` (float32, before adapters) a lean forward; returns how many."""
    changed = 0
    for parent in model.modules():
        in_layer = any("attn" in name or name == "mlp" for name, _ in parent.named_children())
        for module in parent.children():
            forward = _lean_forward(module)
            if forward is not None and _agrees(module, forward):
                module.forward = types.MethodType(forward, module)
                module.lean_in_layer = in_layer
                changed += 1
    return changed


def _lean_forward(module: nn.Module) -> Any:
    if type(module).__name__.endswith("RMSNorm") and hasattr(module, "weight"):
        return _norm_forward
    linears = [getattr(module, name, None) for name in ("gate_proj", "up_proj", "down_proj")]
    if all(type(x) is nn.Linear for x in linears) and hasattr(module, "act_fn"):
        return _mlp_forward
    return None


def _norm_forward(self: nn.Module, hidden_states: Tensor) -> Tensor:
    eps = self.variance_epsilon if hasattr(self, "variance_epsilon") else self.eps
    weight, dtype = self.weight, hidden_states.dtype
    if dtype != weight.dtype:
        return type(self).forward(self, hidden_states)
    if dtype in (torch.bfloat16, torch.float16):  # a sampling copy; the mean square wants more bits
        wide = hidden_states.float()
        return (wide * _rms_scale(wide, eps)).to(dtype).mul_(weight)
    narrow = None
    if self.lean_in_layer and torch.is_autocast_enabled(hidden_states.device.type):
        narrow = torch.get_autocast_dtype(hidden_states.device.type)
    return RmsNorm.apply(hidden_states, weight, eps, narrow)


def _mlp_forward(self: nn.Module, x: Tensor) -> Tensor:
    act = self.lean_act
    gate, up = self.gate_proj(x), self.up_proj(x)
    if not torch.is_grad_enabled():
        return self.down_proj((F.silu(gate, inplace=True) if act == "silu" else _activate(gate, act)).mul_(up))
    down = self.down_proj
    if type(down) is not nn.Linear or down.bias is not None:
        return down(self.act_fn(gate) * up)
    return GatedDown.apply(gate, up, down.weight.to(gate.dtype), act)


@torch.no_grad()
def _agrees(module: nn.Module, forward: Any) -> bool:
    """Does the lean forward give this module's own numbers? Asked on random tokens, so that no table of families is
    needed: Gemma's norms scale by 1 + weight, for instance, and stay as they are."""
    parameter = next(module.parameters())
    width = module.gate_proj.in_features if hasattr(module, "gate_proj") else parameter.shape[-1]
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, width, generator=generator).to(parameter.device, parameter.dtype)
    expected = module(x)
    for act in ("silu", "gelu") if hasattr(module, "gate_proj") else ("",):
        if act:
            module.lean_act = act
        module.lean_in_layer = False
        # with gradients enabled, so that the very functions of the training forward are compared
        with torch.enable_grad():
            got = forward(module, x).detach()
        if bool((got - expected).abs().max() <= _AGREE * expected.abs().max().clamp_min(1e-9)):
            return True
    if hasattr(module, "lean_act"):
        del module.lean_act
    return False
