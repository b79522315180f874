"""The plain forward for models whose attention can't take a shared cache: padded rows, nothing shared.

Slower, and equal to the shared forward to rounding; which of the two a model gets is found at load time.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fastslow.policy.model import Policy
from fastslow.policy.tree import TokenSequence


def plain_hidden(
    policy: Policy, sequences: Sequence[TokenSequence], *, base: bool = False
) -> tuple[Tensor, Tensor, int]:
    """(hidden states [T, d] that predict each completion token, those tokens [T], tokens computed)."""
    rows = [[*s.prompt_ids, *s.completion_ids] for s in sequences]
    longest = max(map(len, rows))
    device = policy.device
    ids_RL = torch.tensor([r + [r[-1]] * (longest - len(r)) for r in rows], device=device)
    mask_RL = torch.tensor([[1] * len(r) + [0] * (longest - len(r)) for r in rows], device=device)
    hidden_RLD = policy.plain_hidden(ids_RL, mask_RL, base=base)
    row = [i for i, s in enumerate(sequences) for _ in s.completion_ids]
    column = [len(s.prompt_ids) - 1 + t for s in sequences for t in range(len(s.completion_ids))]
    target = [t for s in sequences for t in s.completion_ids]
    return hidden_RLD[row, column], torch.tensor(target, device=device), ids_RL.numel()
