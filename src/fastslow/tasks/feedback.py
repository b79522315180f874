"""The text that a miss teaches: free notes, then lines that a program can find again.

    The right answer is '7'; you answered '12'.
    Advice: Write the final answer in square brackets, like [7].
    Expected reply: [7]

A person reads it top to bottom; a reflector without an LLM reads the ``Advice:`` and ``Expected reply:`` lines.
"""

from __future__ import annotations

from collections.abc import Iterable

ADVICE = "Advice: "
EXPECTED = "Expected reply: "
CORRECT = "Correct."
ANSWER_ALONE = "Reply with the answer alone."
LONGEST_FEEDBACK = 16_000
"""Characters of one feedback that are kept; a longer one loses its middle."""

_CONTINUED = "    "
_QUOTE_LIMIT = 120
_LONGEST_EXPECTED = LONGEST_FEEDBACK // 2


def compose_feedback(notes: str | Iterable[str], *, advice: Iterable[str] = (), expected: str | None = None) -> str:
    """Notes, each on lines of its own; then one ``Advice:`` line per distinct advice; then the expected reply.

    ``expected`` may span lines: the further ones are indented, and :func:`expected_in` gives back the exact text.
    One of over 8,000 characters is left out, since a part of it would teach a wrong reply. An advice is folded onto
    one line. Quote model output with :func:`quoted`, so that it can't pose as advice.
    """
    lines = [notes] if isinstance(notes, str) else list(notes)
    lines = [line for line in lines if line]
    seen = dict.fromkeys(" ".join(text.split()) for text in advice)
    lines += [ADVICE + text for text in seen if text]
    if expected is not None and len(expected) + expected.count("\n") * len(_CONTINUED) <= _LONGEST_EXPECTED:
        lines.append(EXPECTED + expected.replace("\n", "\n" + _CONTINUED))
    return "\n".join(lines)


def advice_in(feedback: str) -> list[str]:
    """The distinct advices in a feedback, in order, without their ``Advice:`` mark."""
    found = (line[len(ADVICE) :].strip() for line in feedback.split("\n") if line.startswith(ADVICE))
    return list(dict.fromkeys(text for text in found if text))


def expected_in(feedback: str) -> str | None:
    """The exact expected reply told by a feedback, or None."""
    lines = feedback.split("\n")
    starts = [i for i, line in enumerate(lines) if line.startswith(EXPECTED)]
    if not starts:
        return None
    first = starts[-1]
    parts = [lines[first][len(EXPECTED) :]]
    for line in lines[first + 1 :]:
        if not line.startswith(_CONTINUED):
            break
        parts.append(line[len(_CONTINUED) :])
    return "\n".join(parts)


def bounded(feedback: str) -> str:
    """The feedback in at most about LONGEST_FEEDBACK characters, its end (the expected reply) kept whole."""
    if len(feedback) <= LONGEST_FEEDBACK:
        return feedback
    tail = LONGEST_FEEDBACK - LONGEST_FEEDBACK // 4
    cut = feedback.find("\n", len(feedback) - tail) + 1  # at a line's start, so that no half line poses as advice
    cut = cut or len(feedback)
    short = f"{feedback[: LONGEST_FEEDBACK // 4]}\n[… long feedback: its middle is left out …]\n{feedback[cut:]}"
    if expected_in(short) != expected_in(feedback):  # a part of the expected reply would teach a wrong one
        short = f"\n{short}".replace(f"\n{EXPECTED}", "\nA part of the expected reply: ")[1:]
    return short


def quoted(text: str, limit: int = _QUOTE_LIMIT) -> str:
    """Untrusted text as one printable, quoted line of at most about ``limit`` characters."""
    shown = text if len(text) <= limit else text[: limit - 1] + "…"
    return repr(shown)


def one_line(text: str, limit: int = 300) -> str:
    """Text of unknown origin (an error's message) as one printable line of at most ``limit`` characters."""
    shown = "".join(c if c.isprintable() else " " for c in text[: 2 * limit])
    return " ".join(shown.split())[:limit]


def miss_notes(answer: str, reply: str) -> tuple[list[str], list[str]]:
    """(notes, advices) for a plain reply that did not earn the full reward, where the gold answer is known."""
    if not reply:
        return [f"The right answer is {quoted(answer)}; you gave no answer."], [ANSWER_ALONE]
    notes = [f"The right answer is {quoted(answer)}; you answered {quoted(reply)}."]
    if stands_in(answer, reply):
        return [*notes, "The right answer stands inside a longer reply."], [ANSWER_ALONE]
    # A reply far longer than any answer is told so even when it is wrong: its form is the first thing to mend.
    is_wordy = len(reply.split()) > 2 * len(answer.split()) + 2 or reply.count("\n") > answer.count("\n")
    return notes, [ANSWER_ALONE] if is_wordy else []


def stands_in(answer: str, reply: str) -> bool:
    """Whether ``answer`` stands in the longer ``reply`` as a whole word (case and white space folded)."""
    wanted, text = _folded(answer), _folded(reply)
    if not wanted or wanted == text:
        return False
    start = text.find(wanted)
    while start >= 0:
        before, after = text[max(0, start - 1) : start], text[start + len(wanted) : start + len(wanted) + 1]
        glued = (before.isalnum() and wanted[0].isalnum()) or (after.isalnum() and wanted[-1].isalnum())
        if not glued:
            return True
        start = text.find(wanted, start + 1)
    return False


def _folded(text: str) -> str:
    return " ".join(text.split()).casefold()
