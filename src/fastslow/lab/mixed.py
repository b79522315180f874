"""One run, three skills, three conventions that contradict one another: which one holds, the question tells.

Sums are answered in square brackets, products behind ``Result:``, divisors with a unit. ``configs/lab/mixed.jsonl``
holds the rows of :func:`mixed_rows`; :func:`score` is the scorer of ``configs/lab/mixed.yaml``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastslow.tasks.feedback import CORRECT, compose_feedback, quoted, stands_in

PARTS = {"chain_sum": ("brackets", "For a sum"), "products": ("prefix", "For a product"), "gcd": ("unit", "For a GCD")}
"""Dataset -> (its convention, the words that its advice begins with)."""


def mixed_rows(each: int = 96, seed: int = 0) -> list[dict[str, str]]:
    """``each`` questions of every part, one after another; answers stand in the part's convention."""
    from fastslow.config import ConventionConfig
    from fastslow.config_io import parse_config
    from fastslow.tasks.conventions import make_convention
    from fastslow.tasks.registry import build_task

    rows = []
    for name, (kind, when) in PARTS.items():
        settings = {"task": {"name": name, "train_size": each - 8, "val_size": 8, "seed": seed}}
        task = build_task(parse_config(settings).task)
        convention = make_convention(ConventionConfig(kind=kind))
        advice = f"{when}: {convention.advice[0].lower()}{convention.advice[1:]}"
        rows += [
            {"question": p.text, "answer": convention.encode(p.answer), "value": p.answer, "advice": advice}
            for p in (*task.train, *task.val)
            if p.answer is not None
        ]
    return rows


def score(question: str, answer: str | None, completion: str, metadata: Mapping[str, Any]) -> tuple[float, str]:
    """1 for the value in its form, else 0; the feedback tells form and value apart.

    >>> score("2 + 3 =", "[5]", " [5]", {"value": "5", "advice": "Brackets."})[0]
    1.0
    >>> score("2 + 3 =", "[5]", "5", {"value": "5", "advice": "Brackets."})[1].splitlines()[0]
    'The value is right, but the form is not.'
    """
    reply, value = completion.strip(), str(metadata["value"])
    if reply == answer:
        return 1.0, CORRECT
    if reply == value:
        note = "The value is right, but the form is not."
    elif stands_in(value, reply):
        note = "The right value stands inside a longer reply, but the form is not right."
    else:
        note = f"The right answer is {quoted(str(answer))}; you answered {quoted(reply)}."
    return 0.0, compose_feedback(note, advice=[str(metadata["advice"])], expected=answer)
