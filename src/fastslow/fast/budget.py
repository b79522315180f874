"""The metric calls of one fast phase: counted one for one with rollouts, planned so that they are never exceeded."""

from __future__ import annotations

from dataclasses import dataclass

SMALLEST_ANCHOR = 1 / 3
"""The anchor set is not shrunk below this share of the lookahead to keep one more member of the old population."""


@dataclass(slots=True)
class Budget:
    """Counts rollouts; spending beyond ``total`` is a bug, never a policy. ``reserved`` of them are kept for later."""

    total: int
    spent: int = 0
    reserved: int = 0

    @property
    def remaining(self) -> int:
        return self.total - self.spent - self.reserved

    def spend(self, calls: int) -> None:
        if calls > self.remaining:
            raise RuntimeError(f"{calls} metric calls asked for with {self.remaining} of {self.total} left")
        self.spent += calls


@dataclass(frozen=True, slots=True)
class Plan:
    """``members``: how many of the old population are re-scored. ``anchors``: on how many problems each context is."""

    members: int
    anchors: int


def plan(budget: int, members: int, problems: int, proposals: int, minibatch: int) -> Plan:
    """How to split ``budget`` so that the old population is re-scored and new contexts still get their chance.

    Every context, old or new, is scored on the same ``anchors`` problems. Room is kept for one whole iteration: the
    minibatches of ``proposals`` parents and children, and the full scoring of all these children. Where the budget
    can't hold that on the whole lookahead, first the anchor set shrinks, down to a third of it; then old members are
    left out, then the room for more than one proposal. Where nothing new fits at all, one member is re-scored on as
    many problems as there are calls.
    """
    for room in sorted({proposals, 1}, reverse=True):
        for count in range(members, 0, -1):
            anchors = min(problems, (budget - room * 2 * minibatch) // (count + room))
            if anchors >= max(1, problems * SMALLEST_ANCHOR):
                return Plan(count, anchors)
    return Plan(1, min(problems, budget))
