"""Text from configs, datasets and models, made safe for where it is shown: it may hold anything."""

from __future__ import annotations

import re

_BRACKET = re.compile(r"(\\*)\[(?=([a-zA-Z#/@][^\[]*?\])?)")
_MARKDOWN = str.maketrans({c: f"\\{c}" for c in "\\`*_[]|#~$"} | {"<": "&lt;", ">": "&gt;", "&": "&amp;"})


def plain(text: str) -> str:
    """One line without control characters: line breaks become spaces, what can't be printed becomes �.

    >>> plain("a\\n b\\x1b[31m")
    'a b�[31m'
    """
    return "".join(c if c.isprintable() else "�" for c in " ".join(text.split()))


def printable(line: str) -> str:
    """A line as it is, its white space kept: tabs become four spaces, what can't be printed becomes �.

    >>> printable("  a\\tb\\x1b[31m")
    '  a    b�[31m'
    """
    return "".join(c if c.isprintable() else "�" for c in line.replace("\t", "    "))


def for_terminal(text: str) -> str:
    """Safe as rich markup: ``[red]`` stays ``[red]``, and a backslash stays too (rich's own ``escape`` loses some)."""
    return _BRACKET.sub(lambda m: _escaped(len(m[1]), is_tag=m[2] is not None), plain(text))


def _escaped(backslashes: int, is_tag: bool) -> str:
    """A bracket and the backslashes before it, as rich reads them back: pairs before a tag, one that goes elsewhere."""
    return "\\" * (2 * backslashes + 1 if is_tag else backslashes + (backslashes > 0)) + "["


def for_markdown(text: str) -> str:
    """Safe inside a cell of a Markdown table."""
    return plain(text).translate(_MARKDOWN)
