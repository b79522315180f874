"""Group-relative advantages: the group is the problem, across contexts (FST, arXiv 2605.12484; GRPO, 2402.03300)"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

EPSILON = 1e-6


def group_advantages(rewards_G: Sequence[float], divide_by_std: bool = True) -> Tensor:
    """A_i = (r_i - mean) / (std + ε) over all G rollouts of one problem, whatever their contexts -> [G].

    ``std`` is the population's (divided by G). A flat group has zero advantages. Dr. GRPO leaves the division out.
    """
    rewards = torch.tensor(rewards_G, dtype=torch.float64)
    centred = rewards - rewards.mean()
    if not divide_by_std:
        return centred.float()
    return (centred / (centred.square().mean().sqrt() + EPSILON)).float()
