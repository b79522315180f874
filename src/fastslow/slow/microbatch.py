"""Splitting a batch so that one forward stays within a token budget, with each context computed as seldom as can be."""

from __future__ import annotations

from collections.abc import Sequence

from fastslow.policy.tree import TokenSequence


def split_by_context(
    sequences: Sequence[TokenSequence], token_budget: int, *, counts_contexts: bool = True
) -> list[list[int]]:
    """Indices of the sequences of each micro-batch, sorted by context and prompt.

    A micro-batch's packed tokens (each context once, each problem once, completions) stay within ``token_budget``,
    except where a single sequence alone is longer. ``counts_contexts`` is False where contexts are constants.
    """
    order = sorted(range(len(sequences)), key=lambda i: (_context(sequences[i]), sequences[i].prompt_ids, i))
    parts: list[list[int]] = []
    contexts: set[tuple[int, ...]] = set()
    prompts: set[tuple[int, ...]] = set()
    used = 0
    for i in order:
        s = sequences[i]
        cost = _cost(s, contexts, prompts, counts_contexts)
        if not parts or used + cost > token_budget:
            parts.append([])
            contexts, prompts, used = set(), set(), 0
            cost = _cost(s, contexts, prompts, counts_contexts)
        parts[-1].append(i)
        contexts.add(_context(s))
        prompts.add(s.prompt_ids)
        used += cost
    return parts


def _context(s: TokenSequence) -> tuple[int, ...]:
    return s.prompt_ids[: s.shared]


def _cost(
    s: TokenSequence, contexts: set[tuple[int, ...]], prompts: set[tuple[int, ...]], counts_contexts: bool
) -> int:
    cost = len(s.completion_ids)
    if s.prompt_ids not in prompts:
        cost += len(s.prompt_ids) - s.shared
    if counts_contexts and _context(s) not in contexts:
        cost += s.shared
    return cost
