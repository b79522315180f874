"""Dr. GRPO: no length bias, the divisor is a constant (arXiv 2503.20783, section 3.2).

The paper also leaves out the division by std in the advantage; ``divides_by_std`` tells the learner so.
"""

from __future__ import annotations

from fastslow.slow.losses.base import Loss
from fastslow.slow.losses.grpo import grpo
from fastslow.slow.losses.weights import constant

dr_grpo = Loss(grpo, constant, divides_by_std=False)
