"""Selection from the per-problem frontier: numbers derived by hand, then invariants."""

from __future__ import annotations

from statistics import fmean

from hypothesis import given
from hypothesis import strategies as st

from fastslow.fast.pareto import best_first, select_population


def scores(**rows: str) -> dict[str, dict[str, float]]:
    """``a="101"`` scores context a 1, 0, 1 on problems p0, p1, p2; ``.`` leaves a problem out."""
    return {c: {f"p{i}": float(x) for i, x in enumerate(row) if x != "."} for c, row in rows.items()}


def test_the_best_mean_comes_first_then_whoever_covers_most_of_the_rest() -> None:
    # a misses p4 and p5; c covers both, b only p4 (its mean is higher than c's).
    table = scores(a="111100", b="011010", c="000011")
    assert select_population(table, 1) == ["a"]
    assert select_population(table, 2) == ["a", "c"]
    # Nothing is left to cover after a and c.
    assert select_population(table, 3) == ["a", "c", "b"]
    assert select_population(table, 9) == ["a", "c", "b"]


def test_a_dominated_context_waits_for_the_last_non_dominated_one() -> None:
    # b's mean is three times c's, but a is at least as good everywhere; c alone solves p4.
    table = scores(a="11110", b="11100", c="00001")
    assert select_population(table, 2) == ["a", "c"]


def test_far_below_the_best_mean_is_taken_after_the_steady_ones() -> None:
    # d wins p7 alone, but with a mean of 1/8 against a's 6/8 that may be luck; b and c tie on p6.
    table = scores(a="11111100", b="11110010", c="11101010", d="00000001")
    assert select_population(table, 3) == ["a", "b", "c"]
    assert select_population(table, 4) == ["a", "b", "c", "d"]


def test_a_context_that_never_solves_anything_is_not_picked_beside_one_that_does() -> None:
    table = scores(a="10", zero="00", b="01")
    assert select_population(table, 2) == ["a", "b"]
    assert select_population(table, 3) == ["a", "b"]


def test_problems_where_all_tie_cover_nothing() -> None:
    # p0..p3 are solved by all: only p4 and p5 tell. b's 5/6 ties c's; b is smaller.
    table = scores(b="111110", c="111101", a="111100")
    assert select_population(table, 2) == ["b", "c"]


def test_all_zero_falls_back_to_ids() -> None:
    assert select_population(scores(b="00", a="00"), 1) == ["a"]
    assert select_population({}, 3) == []
    assert select_population({"a": {}}, 1) == ["a"]


def test_a_context_is_compared_only_where_it_was_scored() -> None:
    # b lacks p0; on p1 and p2 it dominates c, and a is better nowhere.
    table = scores(a="100", b=".11", c="110")
    assert select_population(table, 1) == ["b"]
    assert select_population(table, 2) == ["b", "c"]


def test_best_first_sorts_by_mean_then_id() -> None:
    table = {**scores(a="10", c="11", b="10"), "none": {}}
    assert best_first(["none", "b", "a", "c"], table) == ["c", "a", "b", "none"]


CONTEXTS = st.sampled_from("abcdef")
TABLES = st.integers(1, 6).flatmap(
    lambda n: st.dictionaries(
        CONTEXTS,
        st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=n, max_size=n).map(
            lambda row: {f"p{i}": x for i, x in enumerate(row)}
        ),
        min_size=1,
    )
)


def dominates(x: dict[str, float], y: dict[str, float]) -> bool:
    return all(x[p] >= y[p] for p in x) and any(x[p] > y[p] for p in x)


@given(TABLES, st.integers(1, 7))
def test_invariants(table: dict[str, dict[str, float]], k: int) -> None:
    picked = select_population(table, k)
    means = {c: fmean(row.values()) for c, row in table.items()}
    worthy = [c for c in table if means[c] > 0] or list(table)  # without a reward only where nobody has one
    assert len(picked) == len(set(picked)) == min(k, len(worthy))
    assert means[picked[0]] == max(means.values())
    left = set(worthy) - set(picked)
    frontier = {c for c in table if not any(dominates(table[d], table[c]) for d in table)}
    if left & frontier:
        assert set(picked) <= frontier
    if any(means[c] > 0 for c in left):
        assert all(means[c] > 0 for c in picked)
    assert select_population(dict(reversed(table.items())), k) == picked
    assert select_population(table, k + 1)[:k] == picked


@given(TABLES)
def test_two_picks_cover_at_least_as_much_as_the_best_pair_with_the_first(table: dict[str, dict[str, float]]) -> None:
    """Greedy is optimal for one further pick within its tier."""
    picked = select_population(table, 2)
    if len(picked) < 2:
        return
    first, second = picked
    telling = [p for p in table[first] if len({row[p] for row in table.values()}) > 1]
    best = {p: max(row[p] for row in table.values()) for p in telling}
    means = {c: fmean(row.values()) for c, row in table.items()}

    def gain(c: str) -> int:
        return sum(table[c][p] == best[p] != table[first][p] for p in telling)

    steady = [
        c
        for c in table
        if c != first
        and not any(dominates(table[d], table[c]) for d in table)
        and means[c] >= 0.5 * max(means.values())
    ]
    if steady:
        assert second in steady and gain(second) == max(gain(c) for c in steady)
