"""Which K contexts stay in use: a small cover of the per-problem Pareto frontier.

GEPA (arXiv 2507.19457, section 3) keeps every candidate that is best on at least one problem, since a candidate
that loses on average may hold the one lesson that a problem needs. Fast-Slow Training conditions its rollouts on K
of them, so this module picks K that together are best on as many problems as possible.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean

FAR_BELOW = 0.5
"""A frontier context whose mean is under this share of the best mean waits until the others are taken: with one
rollout a problem, a weak context wins a few problems by luck alone."""

Scores = Mapping[str, Mapping[str, float]]


def select_population(scores: Scores, k: int) -> list[str]:
    """Up to ``k`` context ids, in the order they were picked; ``scores`` is context id -> problem id -> reward.

    A problem counts where the contexts scored on it don't all tie; it is covered by every context that attains its
    best reward. Picks go by tier, and inside a tier to the context that covers most problems not covered yet (ties:
    higher mean, then smaller id); the very first pick is the highest mean. The tiers:

    1. on the frontier (not dominated) and not :data:`FAR_BELOW` the best mean;
    2. on the frontier, but far below;
    3. dominated: another context is at least as good on every problem both were scored on, and better on one;

    A context of mean 0 or less is not picked at all while some mean is above 0: its share of every group would be
    spent on rollouts without a reward, and the slow phase repeats the best contexts where fewer than ``k`` are picked.

    A context may lack some problems (those whose answer it shows); only what it was scored on is compared.
    """
    means = {c: fmean(by_problem.values()) if by_problem else float("-inf") for c, by_problem in scores.items()}
    wins = _wins(scores)
    tiers = _tiers(scores, means)
    picked: list[str] = []
    covered: set[str] = set()
    for tier in tiers:
        left = sorted(tier, key=lambda c: (-means[c], c))
        while left and len(picked) < k:
            # max keeps the first of equals, so ties fall to the higher mean, then to the smaller id.
            chosen = max(left, key=lambda c: len(wins[c] - covered)) if picked else left[0]
            left.remove(chosen)
            picked.append(chosen)
            covered |= wins[chosen]
    return picked


def _wins(scores: Scores) -> dict[str, set[str]]:
    """Context id -> the telling problems on which it attains the best reward."""
    by_problem: dict[str, dict[str, float]] = {}
    for context_id, rewards in scores.items():
        for problem_id, reward in rewards.items():
            by_problem.setdefault(problem_id, {})[context_id] = reward
    wins: dict[str, set[str]] = {context_id: set() for context_id in scores}
    for problem_id, rewards in by_problem.items():
        best = max(rewards.values())
        if min(rewards.values()) == best:
            continue
        for context_id, reward in rewards.items():
            if reward == best:
                wins[context_id].add(problem_id)
    return wins


def _tiers(scores: Scores, means: Mapping[str, float]) -> list[list[str]]:
    best = max(means.values(), default=0.0)
    tiers: list[list[str]] = [[], [], []]
    for context_id, mean in means.items():
        if mean <= 0 < best:
            continue
        if any(_dominates(scores[other], scores[context_id]) for other in scores if other != context_id):
            tier = 2
        else:
            tier = 0 if best <= 0 or mean >= FAR_BELOW * best else 1
        tiers[tier].append(context_id)
    return tiers


def _dominates(left: Mapping[str, float], right: Mapping[str, float]) -> bool:
    shared = left.keys() & right.keys()
    return all(left[p] >= right[p] for p in shared) and any(left[p] > right[p] for p in shared)


def best_first(context_ids: Sequence[str], scores: Scores) -> list[str]:
    """Sorted by mean reward, highest first; ties by id."""
    return sorted(context_ids, key=lambda c: (-fmean(scores[c].values()) if scores[c] else float("inf"), c))
