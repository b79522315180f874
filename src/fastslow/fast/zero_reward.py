"""What a fast phase does where no context earns a reward: nothing can be lost, so it searches wider.

Two rules of the search assume that some context scores. A parent is worth editing since it works in part; a child is
kept only where it beats its parent on a minibatch. Where everything is at zero (a task that the base model can't do,
a switch to a task that the old contexts are wrong for) the first rule edits what has failed, and the second hides what
may earn a reward in one of thirty tries, since three tries seldom show it. So here

* the search starts again from the contexts the run began with, the *roots*, and
* where it still finds nothing, candidates that tied with their parent at zero fill the population, and the rollouts of
  the slow phase are spread over them. The next fast phase scores them in full.

Neither rule is of the paper; with a reward anywhere in the population neither acts.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from statistics import fmean

from fastslow.fast.gepa_adapter import Adapter
from fastslow.fast.lineage import Lineage
from fastslow.fast.population import Population
from fastslow.types import Context


def has_reward(lineage: Lineage) -> bool:
    """Whether any context scored in this phase earned more than 0 on any problem."""
    return any(reward > 0 for scores in lineage.scores.values() for reward in scores.values())


def search_from(adapter: Adapter, population: Population, members: Sequence[Context], iteration: int) -> list[Context]:
    """The contexts that the search starts from: ``members``, or the run's roots where no member has a reward.

    Roots that aren't members are scored here, on the anchor set, in one batch. The members stay where the budget holds
    no ``iteration`` (metric calls of one proposal, its full scoring included) after that.
    """
    if has_reward(adapter.lineage):
        return list(members)
    roots = [c for c in population.archive.values() if not c.parents]
    missing = [c for c in roots if c.id not in adapter.lineage.scores]
    if not roots or adapter.budget.remaining < len(missing) * len(adapter.anchor) + iteration:
        return list(members)
    for root in missing:
        adapter.lineage.add_member(root)
    if missing:
        adapter.rescore(missing)
    return roots


def fill_with_unproven(lineage: Lineage, chosen: Sequence[str], old: Collection[str], k: int) -> list[str]:
    """Ids of the new population where nothing scored in full; with a reward anywhere: ``chosen`` as it is.

    First come accepted candidates (those of ``chosen`` that aren't ``old``: each had a reward on its minibatch), then
    rejected ones that tied, better minibatches first: three zeros prove little. The old, which failed on every anchor
    problem, take what places are left.
    """
    if has_reward(lineage):
        return list(chosen)
    accepted = [i for i in chosen if i not in old]
    best_tie_first = sorted(lineage.tied, key=lambda i: -fmean(lineage.tied[i].values()))
    unproven = [i for i in best_tie_first if i not in chosen][: max(0, k - len(accepted))]
    for context_id in unproven:
        lineage.give_a_place(context_id, "unproven: no context has a reward, and this one tied on its minibatch")
    return [*accepted, *unproven, *(i for i in chosen if i in old)][:k]
