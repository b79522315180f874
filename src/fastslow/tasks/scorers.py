"""Scorers for your own file: built-in ones by name, or a function of yours as ``module:function``.

All have one signature, and may return a reward alone or a reward with feedback that a person could learn from::

    def score(question: str, answer: str | None, completion: str, metadata: dict) -> float | tuple[float, str]
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import math
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from fastslow.errors import TaskError
from fastslow.tasks.math_child import MathChild
from fastslow.tasks.replies import extract_answer
from fastslow.tasks.scorer_child import ScorerChild

ScoreFunction = Callable[[str, str | None, str, Mapping[str, Any]], float | tuple[float, str]]

_NUMBER = re.compile(r"(?<![\w.)])[-+]?(?:\d[\d,]*(?:\.\d+)?|\.\d+)(?:[eE][-+]?\d{1,3}(?!\d))?")
_CHOICE_ALONE = re.compile(r"\(?([A-Za-z])(?:\)|[.):](?:\s.*)?)?", re.DOTALL)
_CHOICE_TOLD = re.compile(r"answer(?:\s+is)?\s*(?::\s*)?\(?([A-Z])\b(?!')", re.IGNORECASE)
_TOLERANCE = 1e-6


@dataclass(frozen=True, slots=True)
class Scorer:
    """A score function that keeps its own time; ``needs_answer`` where it compares with a gold."""

    function: ScoreFunction
    needs_answer: bool = True


def make_scorer(name: str, folders: Sequence[Path], timeout: float) -> Scorer:
    """A built-in scorer, or ``module:function`` looked up in ``folders`` first; raises TaskError with one line."""
    if name in _BUILT_IN:
        return Scorer(_BUILT_IN[name])
    if name == "math-verify":
        return Scorer(MathChild(timeout).score)
    module_name, colon, function_name = name.partition(":")
    if not colon or not module_name or not function_name:
        known = ", ".join([*_BUILT_IN, "math-verify"])
        raise TaskError(f"task.scorer: {name!r} is neither one of {known} nor module:function")
    return Scorer(ScorerChild(module_name, function_name, folders, timeout).score, needs_answer=False)


def import_scorer(module_name: str, function_name: str, folders: Sequence[Path]) -> ScoreFunction:
    """``module:function``, looked up in ``folders`` first; raises TaskError with one line."""
    function = getattr(_import(module_name, folders), function_name, None)
    if not callable(function):
        raise TaskError(f"task.scorer: module {module_name!r} has no function {function_name!r}")
    return function


def exact(question: str, answer: str | None, completion: str, metadata: Mapping[str, Any]) -> float:
    """1 if the reply is the gold answer, case and white space folded."""
    return float(_folded(extract_answer(completion)) == _folded(answer or ""))


def numeric(question: str, answer: str | None, completion: str, metadata: Mapping[str, Any]) -> float:
    """1 if the last number in the reply equals the gold's last number, to one part in a million."""
    reply = extract_answer(completion)
    gold, said = last_number(answer or ""), last_number(reply)
    if gold is None:
        raise ValueError(f"the gold answer {answer!r} holds no number")
    if math.isinf(gold):  # beyond a float's range all numbers look alike: the digits decide
        return float(_last_digits(reply) == _last_digits(answer or ""))
    return float(said is not None and math.isclose(said, gold, rel_tol=_TOLERANCE, abs_tol=1e-9))


def choice(question: str, answer: str | None, completion: str, metadata: Mapping[str, Any]) -> float:
    """1 if the reply names the gold letter of a multiple choice: ``B``, ``(B)``, ``B. text``, ``the answer is B``."""
    gold, said = choice_letter(answer or ""), choice_letter(extract_answer(completion))
    if gold is None:
        raise ValueError(f"the gold answer {answer!r} names no choice letter")
    return float(said == gold)


def last_number(text: str) -> float | None:
    """The last number in a text, thousands commas and a Unicode minus read; None if there is none."""
    digits = _last_digits(text)
    return None if digits is None else float(digits)


def _last_digits(text: str) -> str | None:
    found = _NUMBER.findall(text.replace("\u2212", "-"))
    return found[-1].replace(",", "").removeprefix("+") if found else None


def choice_letter(text: str) -> str | None:
    """The one choice letter that a reply names, in upper case; None if it names none or is not clear."""
    alone = _CHOICE_ALONE.fullmatch(text.strip())
    if alone:
        return alone.group(1).upper()
    told = _CHOICE_TOLD.findall(text)
    return told[-1].upper() if told else None


_BUILT_IN: dict[str, ScoreFunction] = {"exact": exact, "numeric": numeric, "choice": choice}


def _folded(text: str) -> str:
    return " ".join(text.split()).casefold()


def _import(name: str, folders: Sequence[Path]) -> ModuleType:
    """Import a scorer's module, a file in ``folders`` before anything installed.

    A file is loaded under a name of its own, so that scorers of two projects in one process don't get mixed up.
    """
    relative = Path(*name.split(".")).with_suffix(".py")
    file = next((folder / relative for folder in folders if (folder / relative).is_file()), None)
    try:
        with _search_path(folders):
            return importlib.import_module(name) if file is None else _load(file)
    except ModuleNotFoundError as error:
        looked = " and ".join(str(folder) for folder in folders)
        missing = f"needs {error.name!r}, which" if file is not None else f"{name!r}"
        raise TaskError(f"task.scorer: {missing} can't be found; looked in {looked}") from None
    except (Exception, SystemExit) as error:  # a user's module may raise anything while it is imported
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise TaskError(f"task.scorer: importing {name!r} failed: {reason}") from None


def _load(file: Path) -> ModuleType:
    digest = hashlib.sha256(str(file.resolve()).encode("utf-8", "surrogateescape")).hexdigest()[:12]
    name = f"fastslow_scorer_{file.stem}_{digest}"
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise ImportError(f"{file} is not a Python module")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        sys.modules.pop(name, None)
        raise
    return module


@contextmanager
def _search_path(folders: Sequence[Path]) -> Iterator[None]:
    """Put folders in front of the import search, and leave ``sys.path`` as it was."""
    before = list(sys.path)
    sys.path[:0] = [str(folder) for folder in folders]
    try:
        yield
    finally:
        sys.path[:] = before
