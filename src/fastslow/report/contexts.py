"""The lineage of a run's contexts: as a tree, as differences between parent and child, and as JSON.

All text of a context comes from models and datasets, so it is shown without markup or control characters.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from difflib import unified_diff
from typing import Any

from rich.text import Text
from rich.tree import Tree

from fastslow.errors import RunError
from fastslow.report.text import plain, printable
from fastslow.runs.ledger_query import ContextHistory

_LONGEST = 160
_DIFF_STYLES = {"+": "green", "-": "red", "@": "cyan"}


def lineage_tree(contexts: Sequence[ContextHistory], title: str) -> Tree:
    """Every context under its first parent; a crossing names its others. Each is shown once, whatever the file says."""
    tree = Tree(Text(f"{plain(title)}: {_count(contexts)}", style="bold"), guide_style="dim")
    by_id = {c.id: c for c in contexts}
    children: dict[str | None, list[ContextHistory]] = {}
    for context in contexts:
        parent = context.parents[0] if context.parents and context.parents[0] in by_id else None
        children.setdefault(parent, []).append(context)
    placed: set[str] = set()
    # What no root leads to, since a damaged file may hold a circle, starts a tree of its own.
    for root in [*children.get(None, []), *contexts]:
        waiting = [(root, tree)]
        while waiting:
            context, above = waiting.pop()
            if context.id in placed:
                continue
            placed.add(context.id)
            branch = above.add(_label(context))
            waiting += [(child, branch) for child in reversed(children.get(context.id, []))]
    return tree


def lineage_json(contexts: Sequence[ContextHistory]) -> str:
    """A JSON list of all contexts, in the order in which they were first heard of; ASCII alone."""
    return json.dumps([_as_dict(c) for c in contexts], indent=2)


def find_context(contexts: Sequence[ContextHistory], prefix: str) -> ContextHistory:
    """The one context whose id starts with ``prefix``; raises :class:`RunError` for none or several."""
    found = [c for c in contexts if c.id.startswith(prefix)] if prefix else []
    if len(found) == 1:
        return found[0]
    known = ", ".join(c.id for c in (found or contexts)[:5]) + (", …" if len(found or contexts) > 5 else "")
    problem = "several contexts start so" if found else "no such context"
    raise RunError(f"--diff {plain(prefix)}: {problem}; give an id such as {known or '(this run has none yet)'}")


def difference(context: ContextHistory, by_id: Mapping[str, ContextHistory]) -> Text:
    """What sets a context apart from each of its parents, component by component; a seed from nothing."""
    text = Text()
    parents = [by_id[p] for p in context.parents if p in by_id]
    for parent in parents or [None]:
        before = parent.components if parent else {}
        came = f"{parent.id} -> {context.id}" if parent else f"(nothing) -> {context.id}"
        text.append(came + (f": {_short(context.reason)}" if context.reason else "") + "\n", style="bold")
        for line in _diff_lines(before, context.components):
            text.append(printable(line) + "\n", style=_DIFF_STYLES.get(line[:1], ""))
    return text


def _diff_lines(before: Mapping[str, str], after: Mapping[str, str]) -> Iterator[str]:
    for name in dict.fromkeys([*before, *after]):
        old, new = (_lines(texts.get(name, "")) for texts in (before, after))
        if old == new:
            continue
        yield f"@ {name}"
        yield from list(unified_diff(old, new, lineterm="", n=2))[2:]  # without its two lines of file names


def _lines(text: str) -> list[str]:
    return text.split("\n") if text else []


def _label(context: ContextHistory) -> Text:
    fate, style = _fate(context)
    label = Text(context.id, style="bold")
    label.append(f"  cycle {context.birth_cycle}  ", style="not bold dim")
    label.append(fate, style=f"not bold {style}")
    rewards = [f"{phase} {r.mean:.2f} (n={r.n})" for phase, r in sorted(context.rewards.items(), key=_phase_order)]
    if rewards:
        label.append("\n" + "  ".join(rewards), style="not bold")
    if context.reason and context.parents:
        label.append(f"\nwhy: {_short(context.reason)}", style="not bold")
    others = context.parents[1:]
    if others:
        label.append(f"\ncrossed with {plain(', '.join(others))}", style="not bold magenta")
    return label


def _fate(context: ContextHistory) -> tuple[str, str]:
    """What is true of it now, with its style."""
    lasting = [f for f in context.fates if f.outcome != "refused"] or context.fates
    last = lasting[-1]
    if context.in_use:
        return "in use" if last.outcome != "unproven" else "in use, unproven", "green"
    reason = f": {_short(last.reason)}" if last.reason else ""
    style = "yellow" if last.outcome == "dropped" else "red"
    return f"{plain(last.outcome)} in cycle {last.cycle}{reason}", style


def was_accepted(context: ContextHistory) -> bool:
    """Whether it ever was scored in full or had a place: the seed, what passed its minibatch, the unproven."""
    return any(f.outcome in ("seed", "rescored", "accepted", "unproven") for f in context.fates)


def _phase_order(item: tuple[str, Any]) -> int:
    phases = ("fast", "slow", "evaluation")
    return phases.index(item[0]) if item[0] in phases else len(phases)


def _count(contexts: Sequence[ContextHistory]) -> str:
    in_use = sum(c.in_use for c in contexts)
    return f"{len(contexts)} context{'s' if len(contexts) != 1 else ''}, {in_use} in use"


def _as_dict(context: ContextHistory) -> dict[str, Any]:
    return {
        "id": context.id,
        "parents": list(context.parents),
        "birth_cycle": context.birth_cycle,
        "reason": context.reason,
        "in_use": context.in_use,
        "fates": [{"cycle": f.cycle, "outcome": f.outcome, "reason": f.reason} for f in context.fates],
        "rewards": {phase: {"mean": r.mean, "n": r.n} for phase, r in context.rewards.items()},
        "components": dict(context.components),
    }


def _short(text: str) -> str:
    text = plain(text)
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"
