from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastslow.fast.budget import Budget, Plan, plan


def test_spending_beyond_the_budget_is_an_error() -> None:
    budget = Budget(5)
    budget.spend(3)
    assert (budget.spent, budget.remaining) == (3, 2)
    with pytest.raises(RuntimeError):
        budget.spend(3)
    assert budget.spent == 3


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        # (budget, members, problems, proposals, minibatch); room for p proposals costs 2 * minibatch * p.
        ((960, 1, 192, 2, 3), Plan(1, 192)),  # (1 + 2) * 192 + 12 = 588
        ((960, 4, 192, 2, 3), Plan(4, 158)),  # (960 - 12) / 6
        ((240, 4, 48, 2, 3), Plan(4, 38)),  # (240 - 12) / 6
        ((300, 4, 48, 2, 3), Plan(4, 48)),  # 6 * 48 + 12, to the last call
        ((96, 4, 48, 2, 3), Plan(3, 16)),  # 84 / 6 = 14 is under a third of 48, 84 / 5 = 16 is not
        ((48, 4, 48, 2, 3), Plan(1, 21)),  # (48 - 6) / 2, with one proposal
        ((20, 4, 48, 2, 3), Plan(1, 20)),  # nothing new fits
        ((100, 4, 48, 2, 30), Plan(1, 20)),
        ((1, 4, 48, 2, 3), Plan(1, 1)),
    ],
)
def test_plans(args: tuple[int, ...], expected: Plan) -> None:
    assert plan(*args) == expected


@given(st.integers(1, 2000), st.integers(1, 9), st.integers(1, 200), st.integers(1, 4), st.integers(1, 8))
def test_rescoring_always_fits(budget: int, members: int, problems: int, proposals: int, minibatch: int) -> None:
    chosen = plan(budget, members, problems, proposals, minibatch)
    assert 1 <= chosen.members <= members
    assert 1 <= chosen.anchors <= problems
    assert chosen.members * chosen.anchors <= budget
