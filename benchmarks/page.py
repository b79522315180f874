"""Rewrites one marked section of a Markdown page, and nothing else of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


def rewrite_section(page: Path, name: str, text: str) -> None:
    """Replace what stands between ``<!-- name:start -->`` and ``<!-- name:end -->``; ValueError where they lack."""
    whole = page.read_text(encoding="utf-8")
    before, start, rest = whole.partition(f"<!-- {name}:start -->\n")
    _, end, after = rest.partition(f"<!-- {name}:end -->")
    if not start or not end:
        raise ValueError(f"{page}: no section between <!-- {name}:start --> and <!-- {name}:end -->")
    page.write_text(f"{before}{start}{text.strip()}\n{end}{after}", encoding="utf-8")


def read_section(page: Path, name: str) -> str:
    whole = page.read_text(encoding="utf-8")
    return whole.partition(f"<!-- {name}:start -->\n")[2].partition(f"<!-- {name}:end -->")[0]


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(_cell(text) for text in line) + " |" for line in lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
