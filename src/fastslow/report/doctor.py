"""``fastslow doctor``: findings as a table for people, or as JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict

from rich.table import Table

from fastslow.doctor import Finding
from fastslow.report.text import for_terminal

_STYLES = {"ok": "green", "warning": "yellow", "problem": "bold red"}


def doctor_table(findings: Sequence[Finding]) -> Table:
    """One row for each finding; its mend stands under it."""
    table = Table("", "what", "found", show_lines=False, caption=summary(findings), caption_justify="left")
    for f in findings:
        style = _STYLES[f.status]
        table.add_row(f"[{style}]{f.status}[/]", for_terminal(f.name), for_terminal(f.found))
        if f.mend:
            table.add_row("", "", f"[{style}]→[/] {for_terminal(f.mend)}")
    return table


def doctor_json(findings: Sequence[Finding]) -> str:
    """``{"problems": n, "warnings": n, "findings": [{status, name, found, mend}, …]}``"""
    counts = {f"{status}s": sum(f.status == status for f in findings) for status in ("problem", "warning")}
    return json.dumps({**counts, "findings": [asdict(f) for f in findings]}, indent=1, ensure_ascii=False)


def summary(findings: Sequence[Finding]) -> str:
    """``1 problem, 2 warnings``"""
    counts = [(s, sum(f.status == s for f in findings)) for s in ("problem", "warning")]
    parts = [f"{n} {status}{'' if n == 1 else 's'}" for status, n in counts if n]
    return ", ".join(parts) or "all is well"
