"""What a fast phase does where no context earns a reward: nothing can be lost, so it searches wider.

Two rules of the search assume that some context scores. A parent is worth editing since it works in part; a child is
kept only where it beats its parent on a minibatch. Where everything is at zero (a task that the base model can't do,
a switch to a task that the old contexts are wrong for) the first rule edits what has failed, and the second hides what
may earn a reward in one of thirty tries, since three tries seldom show it. So here

* the search starts again from the contexts the run began with, the *roots*, and
* where it still finds nothing, candidates that did no worse than their parent fill the population, and the rollouts
  that follow are spread over them. The next fast phase scores them in full.

Neither rule is of the paper. Neither acts where any context that was scored earned a reward, or can't be judged.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from statistics import fmean

from fastslow.fast.gepa_adapter import Adapter
from fastslow.fast.lineage import Lineage
from fastslow.fast.pareto import best_first
from fastslow.fast.population import Population
from fastslow.types import Context


def nothing_earned(lineage: Lineage) -> bool:
    """Whether every context scored in full so far has the same reward, 0 or less, on every problem.

    Partial credit is told apart, below 0 too. A context that shows every anchor question has no score to go by: it may
    be good, so the answer is no.
    """
    scores = lineage.scores.values()
    rewards = {reward for by_problem in scores for reward in by_problem.values()}
    return all(scores) and len(rewards) == 1 and max(rewards) <= 0


def roots_of(population: Population) -> list[Context]:
    """The contexts that the run began with: those without parents."""
    return [c for c in population.archive.values() if not c.parents]


def search_from(adapter: Adapter, population: Population, members: Sequence[Context], iteration: int) -> list[Context]:
    """The contexts that the search starts from: ``members``, or the run's roots where no member earned anything.

    Roots that aren't members are scored here, on the anchor set, in one batch. The members stay where the budget holds
    no ``iteration`` (metric calls of one proposal, its full scoring included) after that. What the budget reserves for
    scoring newcomers again is set free where there is no reward that they could push out.
    """
    budget = adapter.budget
    if not nothing_earned(adapter.lineage):
        return list(members)
    reserved, budget.reserved = budget.reserved, 0
    roots = roots_of(population)
    missing = [c for c in roots if c.id not in adapter.lineage.scores]
    if not roots or budget.remaining < len(missing) * len(adapter.anchor) + iteration:
        return list(members)
    for root in missing:
        adapter.lineage.add_member(root)
    if missing:
        adapter.rescore(missing)
    if not nothing_earned(adapter.lineage):  # a root has a reward to lose
        budget.reserved = min(reserved, budget.remaining)
    return roots


def fill_with_unproven(lineage: Lineage, chosen: Sequence[str], old: Collection[str], k: int) -> list[str]:
    """Ids of the new population where nothing was earned in full scoring; else ``chosen`` as it is.

    First come accepted candidates (scored, and not ``old``), which beat their parent on a minibatch; then those that
    did no worse, better minibatches first: three zeros prove little. The old, which failed on every anchor problem,
    take what places are left.
    """
    if not nothing_earned(lineage):
        return list(chosen)
    accepted = best_first([i for i in lineage.scores if i not in old], lineage.scores)[:k]
    best_tie_first = sorted(lineage.tied, key=lambda i: -fmean(lineage.tied[i].values()))
    unproven = [i for i in best_tie_first if i not in lineage.scores][: k - len(accepted)]
    for context_id in unproven:
        lineage.give_a_place(context_id, "unproven: no context has a reward, and this one did no worse than its parent")
    return [*accepted, *unproven, *(i for i in chosen if i in old)][:k]
