"""Before a new context replaces an old one, it is scored again on fresh rollouts, and these alone decide.

The winner among many noisy scores is lucky on average. GEPA already scores a child in full on rollouts other than those
of the minibatch that let it in; but which children then make it into the population is a second choice among noisy
scores, and this is the check on that one.

It isn't free: the share kept for it tries fewer new contexts. In a simulation with contexts of known quality (4 cycles,
48 problems, a tenth kept) it changed nothing at 144 calls a phase, where the true mean quality ended at 0.44 with and
without; at 480 calls it was 0.65 with and 0.70 without. ``fast.rescore: 0`` turns it off.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from statistics import fmean

from fastslow.fast.gepa_adapter import Adapter, rewards_by_problem
from fastslow.fast.pareto import best_first, select_population
from fastslow.seeds import derive_seed
from fastslow.types import Context

_ROUNDING = 1e-9


def kept_for_rescoring(budget: int, share: float) -> int:
    """Metric calls of a phase that nothing else may spend: at least one, where there is more than one to spend."""
    return min(budget - 1, max(1, round(share * budget))) if share else 0


def confirm_newcomers(
    adapter: Adapter, members: Sequence[Context], chosen: Sequence[str], k: int, seed: int
) -> list[str]:
    """The ids of the new population: ``chosen``, or fewer newcomers where fresh rollouts speak against them.

    Costs nothing where no old member with a reward would leave. Else each newcomer in ``chosen`` is rolled out again on
    a seeded sample of the anchor problems, as large as the rest of the budget allows, all in one batch. The best
    newcomer stands against the best leaving member, the second against the second, and so on: one whose fresh mean is
    below that member's on the same problems stays out. A tie is for the newcomer, which won the full scoring. One that
    the budget can't re-score stays out too.
    """
    lineage = adapter.lineage
    old = [m.id for m in members]
    before = select_population({i: lineage.scores[i] for i in old}, k)
    leaving = [i for i in before if i not in chosen and _mean(lineage.scores[i]) > 0]
    newcomers = best_first([i for i in chosen if i not in old], lineage.scores)
    if not leaving or not newcomers:
        return list(chosen)
    rivals = best_first(leaving, lineage.scores)
    size = min(len(adapter.anchor), max(1, adapter.budget.remaining // len(newcomers)))
    places = random.Random(derive_seed(seed, "rescore")).sample(range(len(adapter.anchor)), size)
    sample = [adapter.anchor[i] for i in sorted(places)]
    affordable = adapter.budget.remaining // size
    contexts = [lineage.archive[i] for i in newcomers]
    for context in contexts[affordable:]:
        lineage.take_back(context, {}, "no budget left: to score it on fresh rollouts")
    confirmed = []
    outputs = adapter.measure([(context, sample) for context in contexts[:affordable]])
    for rank, (context, rollouts) in enumerate(zip(contexts[:affordable], outputs, strict=True)):
        rival = rivals[min(rank, len(rivals) - 1)]
        fresh = rewards_by_problem(rollouts)
        known = lineage.scores[rival]
        theirs = {p: known[p] for p in fresh if p in known} or known
        told = f"{_mean(lineage.scores[context.id]):.2f} -> {_mean(fresh):.2f} on fresh rollouts"
        if fresh and _mean(fresh) < _mean(theirs) - _ROUNDING:
            lineage.take_back(context, fresh, f"lucky: {told}, where {rival} has {_mean(theirs):.2f} and stays")
        else:
            lineage.confirm(context, fresh, told)
            confirmed.append(context.id)
    return select_population({i: lineage.scores[i] for i in (*old, *confirmed)}, k)


def _mean(scores: dict[str, float]) -> float:
    return fmean(scores.values()) if scores else float("-inf")
