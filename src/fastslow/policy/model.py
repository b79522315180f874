"""The policy π_θ: a causal LM with float32 master weights, a sampling copy where another dtype is faster, a head in
float32 (ScaleRL, arXiv 2510.13786; MiniMax-M1, arXiv 2506.13585), and its frozen base as reference."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastslow.errors import ModelError
from fastslow.policy.context_store import ContextStore, Prefix, prefill_contexts
from fastslow.policy.prompts import PromptRenderer
from fastslow.policy.sampling_copy import SamplingCopy
from fastslow.types import Request


class Policy:
    """Wraps a causal LM for packed forwards. ``weights_step`` counts optimizer steps and stamps every rollout.

    ``model`` is the causal LM (or a PEFT model around it) with float32 weights. ``shares_prefixes`` is False where
    its attention can't take a shared cache; callers then use the plain padded forward.
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Any,
        renderer: PromptRenderer,
        *,
        name: str,
        device: torch.device,
        sampling_dtype: torch.dtype = torch.float32,
        train_dtype: torch.dtype = torch.float32,
        shares_prefixes: bool = True,
    ) -> None:
        self.model, self.tokenizer, self.renderer = model, tokenizer, renderer
        self.name, self.device = name, device
        self.sampling_dtype, self.train_dtype = sampling_dtype, train_dtype
        self.shares_prefixes = shares_prefixes
        self.contexts = ContextStore()
        self._weights_step = 0
        self.end_ids = _end_ids(self.causal_lm, tokenizer)
        self._copy: SamplingCopy | None = None
        self._copy_step: int | None = None
        self._base: nn.Module | None = None

    @property
    def weights_step(self) -> int:
        """Optimizer steps behind the present weights. Setting it, to whatever number, says that the weights changed:
        all that was computed under the former ones is forgotten."""
        return self._weights_step

    @weights_step.setter
    def weights_step(self, step: int) -> None:
        self._weights_step = step
        self._copy_step = None
        self.contexts.refresh(step, changed=True)

    @property
    def causal_lm(self) -> nn.Module:
        return causal_lm(self.model)

    def trainable(self) -> dict[str, nn.Parameter]:
        """Parameters that move, by name; tied ones once."""
        return {n: p for n, p in self.model.named_parameters() if p.requires_grad}

    def hidden(self, ids_N: Tensor, positions_N: Tensor) -> Tensor:
        """Last hidden states [N, d] of the packed tokens, with gradient, under the active attention plan."""
        with self._autocast():
            return packed_hidden(self.causal_lm, ids_N, positions_N)

    def head(self, hidden_ND: Tensor) -> Tensor:
        """Logits [N, V] in float32."""
        return head_logits(self.causal_lm, hidden_ND)

    def plain_head(self, *, base: bool = False) -> Tensor | None:
        """The head's float32 weight [V, d] if logits are nothing but hidden @ weight.T, else None."""
        with self.base_lm() if base else contextlib.nullcontext(self.causal_lm) as lm:
            return plain_head_weight(lm)

    def sampling_hidden(self, ids_N: Tensor, positions_N: Tensor) -> Tensor:
        return packed_hidden(causal_lm(self.sampling_model()), ids_N, positions_N)

    def sampling_head(self, hidden_ND: Tensor) -> Tensor:
        """Logits from the master head, in float32 whatever the sampling dtype."""
        return head_logits(self.causal_lm, hidden_ND)

    def stored_contexts(self, prefixes: Sequence[Prefix]) -> ContextStore:
        """The store of contexts' keys and values, holding these under the present weights; they carry no gradient."""
        self.contexts.refresh(self.weights_step)
        prefill_contexts(self, self.contexts, prefixes)
        return self.contexts

    def sampling_model(self) -> nn.Module:
        """The weights to sample from: the master's own, or a copy refreshed once per weights step."""
        if self.sampling_dtype == torch.float32:
            return self.model
        if self._copy is None:
            self._copy = SamplingCopy(self.model, self.sampling_dtype)
        if self._copy_step != self.weights_step:
            self._copy.refresh(self.model)
            self._copy_step = self.weights_step
        return self._copy.model

    def keep_base(self) -> None:
        """Remember the present weights as π_base, for KL and drift. Adapters need no copy: they can be switched off."""
        if not hasattr(self.model, "disable_adapter") and self._base is None:
            self._base = copy.deepcopy(self.model).requires_grad_(False)

    def attach_base(self, lm: nn.Module) -> None:
        """Take ``lm``, freshly loaded, as π_base where none was kept: training without KL needs no second copy."""
        if not hasattr(self.model, "disable_adapter") and self._base is None:
            self._base = lm.requires_grad_(False)

    @contextlib.contextmanager
    def base_lm(self) -> Iterator[nn.Module]:
        """The causal LM with base weights θ_0; needs :meth:`keep_base` before training."""
        if hasattr(self.model, "disable_adapter"):
            with self.model.disable_adapter():
                yield self.causal_lm
        elif self._base is None:
            raise ModelError("the base weights were not kept; call Policy.keep_base before training")
        else:
            yield self._base

    def base_hidden(self, ids_N: Tensor, positions_N: Tensor) -> Tensor:
        with self.base_lm() as base, self._autocast():
            return packed_hidden(base, ids_N, positions_N)

    def base_head(self, hidden_ND: Tensor) -> Tensor:
        with self.base_lm() as base:
            return head_logits(base, hidden_ND)

    def plain_hidden(self, ids_RL: Tensor, mask_RL: Tensor, *, base: bool = False) -> Tensor:
        """Hidden states [R, L, d] of right-padded rows, for models that can't share prefixes."""
        with self.base_lm() if base else contextlib.nullcontext(self.causal_lm) as lm, self._autocast():
            return lm.base_model(input_ids=ids_RL, attention_mask=mask_RL, use_cache=False).last_hidden_state

    @property
    def window(self) -> int | None:
        """Tokens that the model holds at most, prompt and reply together; None where it sets no limit."""
        return getattr(self.causal_lm.config.get_text_config(), "max_position_embeddings", None)

    def check_length(self, prompt_tokens: int, new_tokens: int, request: Request) -> None:
        limit = self.window
        if limit is not None and prompt_tokens + new_tokens > limit:
            raise ModelError(
                f"problem {request.problem.id!r} under context {request.context.id} takes {prompt_tokens} prompt and "
                f"up to {new_tokens} new tokens, but the model holds {limit}; lower fast.max_context_tokens or "
                "sampling.max_new_tokens"
            )

    def _autocast(self) -> contextlib.AbstractContextManager[Any]:
        if self.train_dtype == torch.float32:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=self.train_dtype)


def causal_lm(model: nn.Module) -> nn.Module:
    """The causal LM inside a PEFT model, or the model itself."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def packed_hidden(lm: nn.Module, ids_N: Tensor, positions_N: Tensor) -> Tensor:
    """[N] ids and positions -> last hidden states [N, d], as one packed row without a cache."""
    output = lm.base_model(input_ids=ids_N[None], position_ids=positions_N[None], use_cache=False)
    return output.last_hidden_state[0]


def head_logits(lm: nn.Module, hidden_ND: Tensor) -> Tensor:
    """The language-model head in float32, with the scalings and caps that some families put behind it."""
    head, config = lm.get_output_embeddings(), lm.config.get_text_config()
    with torch.autocast(hidden_ND.device.type, enabled=False):
        bias = head.bias.float() if getattr(head, "bias", None) is not None else None
        logits = F.linear(hidden_ND.float(), head.weight.float(), bias)
        if (scale := getattr(config, "logit_scale", None)) is not None:  # Cohere
            logits = logits * scale
        if (divisor := getattr(config, "logits_scaling", None)) is not None:  # Granite
            logits = logits / divisor
        if (cap := getattr(config, "final_logit_softcapping", None)) is not None:  # Gemma 2
            logits = cap * torch.tanh(logits / cap)
    return logits


def plain_head_weight(lm: nn.Module) -> Tensor | None:
    head, config = lm.get_output_embeddings(), lm.config.get_text_config()
    shaped = any(
        getattr(config, k, None) is not None for k in ("logit_scale", "logits_scaling", "final_logit_softcapping")
    )
    if shaped or type(head) is not nn.Linear or head.bias is not None or head.weight.dtype != torch.float32:
        return None
    return head.weight


def _end_ids(lm: nn.Module, tokenizer: Any) -> tuple[int, ...]:
    ends = getattr(lm.generation_config, "eos_token_id", None)
    found = ends if isinstance(ends, list) else [ends]
    return tuple(dict.fromkeys(e for e in [*found, tokenizer.eos_token_id] if e is not None))
