"""Which updates are skipped: those whose loss or gradient is not finite, and those whose gradient explodes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median

EXPLOSION = 100.0
"""A gradient this many times the median of the latest updates explodes. Clipping alone would still take a whole step in
the direction of the one sample that blew up."""

HISTORY = 20
"""Updates whose gradient norms are remembered."""

ENOUGH = 5
"""Updates before a median says anything."""


class GradientGuard:
    """Remembers the gradient norms of the latest updates; ``norms`` belongs into checkpoints."""

    def __init__(self) -> None:
        self.norms: list[float] = []

    def skips(self, loss: float, grad_norm: float) -> bool:
        """Whether this update must be left out. The norm of one that may go on is remembered.

        ``grad_norm``: before clipping. A skipped norm is not remembered, so a run can't get used to exploding.
        """
        if not (math.isfinite(loss) and math.isfinite(grad_norm)):
            return True
        if len(self.norms) >= ENOUGH and grad_norm > EXPLOSION * median(self.norms):
            return True
        self.norms = [*self.norms, grad_norm][-HISTORY:]
        return False

    def load(self, norms: Sequence[float]) -> None:
        self.norms = [float(n) for n in norms]
