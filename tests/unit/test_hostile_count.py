"""Locks: the hostile-text tests are asked for well over 10,000 cases, counted once whatever their parameters."""

from __future__ import annotations

import importlib
from pathlib import Path

from hostile import COUNTS, PLANNED, SPECIAL, hostile, hostile_text
from hypothesis import given


def test_ten_thousand_cases_and_more_are_planned() -> None:
    for path in Path(__file__).parent.glob("test_hostile_*.py"):
        importlib.import_module(path.stem)
    assert sum(PLANNED.values()) >= 10_000


def test_every_case_is_counted_and_cases_are_the_same_in_every_run() -> None:
    seen: list[list[str]] = [[], []]

    for texts in seen:

        @hostile(50)
        @given(text=hostile_text())
        def counted(text: str) -> None:
            texts.append(text)  # noqa: B023 - called before the next turn

        before = COUNTS.pop("counted", 0)
        counted()
        assert before in (0, 50) and COUNTS["counted"] == len(texts) == 50
    del COUNTS["counted"], PLANNED["counted"]
    assert seen[0] == seen[1]
    assert any(token in text for text in seen[0] for token in SPECIAL)
