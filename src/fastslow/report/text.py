"""Text from configs, datasets and models, made safe for where it is shown: it may hold anything."""

from __future__ import annotations

from rich.markup import escape

_MARKDOWN = str.maketrans({c: f"\\{c}" for c in "\\`*_[]|#~$"} | {"<": "&lt;", ">": "&gt;", "&": "&amp;"})


def plain(text: str) -> str:
    """One line without control characters: line breaks become spaces, what can't be printed becomes �.

    >>> plain("a\\n b\\x1b[31m")
    'a b�[31m'
    """
    return "".join(c if c.isprintable() else "�" for c in " ".join(text.split()))


def for_terminal(text: str) -> str:
    """Safe inside rich markup: ``[red]`` stays ``[red]``."""
    return escape(plain(text))


def for_markdown(text: str) -> str:
    """Safe inside a cell of a Markdown table."""
    return plain(text).translate(_MARKDOWN)
