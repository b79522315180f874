"""Can a model's attention take shared prefixes? Asked of the model itself: a tiny tree against plain forwards.

Families differ in ways no table keeps up with (recurrent layers, attention sinks, masks built elsewhere), so the
answer is a comparison of numbers, made once at load time on a few tokens.
"""

from __future__ import annotations

import logging

import torch
from torch import nn

from fastslow.policy.model import head_logits, packed_hidden
from fastslow.policy.tree import TokenSequence, Tree
from fastslow.policy.tree_attention import attention_plan

log = logging.getLogger(__name__)
PROBE_TOLERANCE = 1e-3  # relative to the largest logit, float32

_PROBE = (
    TokenSequence((5, 6, 7, 8, 9, 3), 4, (4, 5, 6)),
    TokenSequence((5, 6, 7, 8, 9, 3), 4, (7, 8)),
    TokenSequence((5, 6, 7, 8, 2), 4, (9, 9, 4)),
    TokenSequence((3, 4, 9, 1), 2, (6, 7)),
)


@torch.inference_mode()
def can_share_prefixes(lm: nn.Module) -> bool:
    """True if the packed tree gives the plain forward's logits on every completion token."""
    device = next(lm.parameters()).device
    tree = Tree(_PROBE, device)
    try:
        with attention_plan(tree):
            hidden = packed_hidden(lm, tree.input_ids, tree.position_ids)
        shared = head_logits(lm, hidden[tree.predict_T])
        plain = []
        for s in _PROBE:
            ids = torch.tensor([*s.prompt_ids, *s.completion_ids], device=device)
            logits = lm(input_ids=ids[None], use_cache=False).logits[0].float()
            plain.append(logits[len(s.prompt_ids) - 1 : -1])
        expected = torch.cat(plain)
    except (NotImplementedError, RuntimeError, TypeError, ValueError, KeyError, AttributeError) as error:
        log.info("no prefix sharing for %s: %s", type(lm).__name__, error)
        return False
    difference = (shared - expected).abs().max() / expected.abs().max().clamp_min(1e-9)
    if not bool(difference <= PROBE_TOLERANCE):
        log.info("no prefix sharing for %s: its logits differ by %.2g", type(lm).__name__, float(difference))
        return False
    return True


@torch.inference_mode()
def keeps_a_cache(lm: nn.Module) -> bool:
    """True if the model hands out a key-value cache, which sampling token by token needs."""
    ids = torch.tensor([[5, 6]], device=next(lm.parameters()).device)
    return getattr(lm.base_model(input_ids=ids, use_cache=True), "past_key_values", None) is not None
