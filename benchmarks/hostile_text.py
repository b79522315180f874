"""Runs the hostile-text tests and prints the cases of each property; fails below 10,000.

    python benchmarks/hostile_text.py

A case is one call of a test's body with text that hypothesis generated, explicit examples included.
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import pytest

LEAST = 10_000
TESTS = Path(__file__).resolve().parents[1] / "tests" / "unit"


def main() -> int:
    files = sorted(map(str, TESTS.glob("test_hostile_*.py")))
    status = pytest.main([*files, "-q", "-p", "no:cacheprovider"])
    from hostile import COUNTS  # on the path once pytest has read its settings

    return max(int(status), report(COUNTS))


def report(counts: Counter[str]) -> int:
    for name, cases in sorted(counts.items()):
        print(f"{cases:7,}  {name.removeprefix('test_').replace('_', ' ')}")
    total = sum(counts.values())
    print(f"{total:7,}  in all (at least {LEAST:,})")
    return int(total < LEAST)


if __name__ == "__main__":
    sys.exit(main())
