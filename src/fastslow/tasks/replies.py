"""Reading a reply: the part that is the answer, and whether a scorer that evaluates text may see it.

Some Reasoning Gym scorers run ``eval`` or sympy's parser (which evaluates too) over the reply. A reply is a model's
text and never evaluated here, so those scorers only see replies that are plain literals or plain, small arithmetic.
"""

from __future__ import annotations

import ast
import re
import warnings

# Parsing a reply warns of odd escapes and the like inside it, on the terminal, from Python 3.12 on.
warnings.filterwarnings("ignore", category=SyntaxWarning, module="<unknown>")

_ANSWER_TAG = re.compile(r"<(/?)answer>", re.IGNORECASE)
_HUGE_EXPONENT = re.compile(r"\d[eE][+-]?\d{4,}")
_MAX_CHARS = 20_000
_MAX_EXPRESSION = 500
_FUNCTIONS = {"sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh", "tanh", "exp", "log", "ln", "sqrt", "Abs"}
_OPERATORS = (ast.Add, ast.Sub, ast.Mult, ast.Div, ast.Pow)

EVALUATED_AS_LITERAL = {"string_insertion", "spiral_matrix", "binary_matrix", "n_queens"}
EVALUATED_AS_EXPRESSION = {
    "simple_integration",
    "intermediate_integration",
    "polynomial_multiplication",
    "puzzle24",
    "countdown",
}


def extract_answer(completion: str) -> str:
    """The last ``<answer>…</answer>`` if there is one, else the whole completion; stripped either way."""
    # One pass over the tags: a pattern for the pair takes time quadratic in openings that are never closed.
    start, found = None, None
    for tag in _ANSWER_TAG.finditer(completion):
        if tag.group(1):
            found, start = (found if start is None else (start, tag.start())), None
        elif start is None:
            start = tag.end()
    return (completion if found is None else completion[slice(*found)]).strip()


def is_safe_reply(dataset: str, reply: str) -> bool:
    """Whether the scorer of a Reasoning Gym dataset may read this reply (see the module's text)."""
    if len(reply) > _MAX_CHARS or _HUGE_EXPONENT.search(reply):
        return False
    if dataset in EVALUATED_AS_LITERAL:
        return is_literal(reply)
    if dataset in EVALUATED_AS_EXPRESSION:
        return is_small_expression(reply)
    return True


def is_literal(text: str) -> bool:
    """A Python literal (numbers, strings, lists of them), found by parsing, not by evaluating."""
    try:
        ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return False
    return True


def is_small_expression(text: str) -> bool:
    """Plain arithmetic over numbers, one-letter variables and known functions, with exponents too small to explode."""
    if len(text) > _MAX_EXPRESSION:
        return False
    try:
        tree = ast.parse(text.replace("^", "**"), mode="eval")
        return _is_arithmetic(tree.body, depth=0)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return False


def _is_arithmetic(node: ast.AST, depth: int) -> bool:
    """``depth`` counts the powers around the node; a power of a power of a power is refused."""
    if isinstance(node, ast.Constant):
        return type(node.value) in (int, float) and len(str(node.value)) <= 30
    if isinstance(node, ast.Name):
        return node.id in _FUNCTIONS or node.id in ("pi",) or (len(node.id) == 1 and node.id.isascii())
    if isinstance(node, ast.UnaryOp):
        return isinstance(node.op, (ast.UAdd, ast.USub)) and _is_arithmetic(node.operand, depth)
    if isinstance(node, ast.Call):
        named = isinstance(node.func, ast.Name) and node.func.id in _FUNCTIONS
        return named and not node.keywords and len(node.args) == 1 and _is_arithmetic(node.args[0], depth)
    if isinstance(node, ast.BinOp) and isinstance(node.op, _OPERATORS):
        if isinstance(node.op, ast.Pow):
            return depth < 2 and _is_small_exponent(node.right) and _is_arithmetic(node.left, depth + 1)
        return _is_arithmetic(node.left, depth) and _is_arithmetic(node.right, depth)
    return False


def _is_small_exponent(node: ast.AST) -> bool:
    numbers = [n.value for n in ast.walk(node) if isinstance(n, ast.Constant)]
    powers = any(isinstance(n, ast.Pow) for n in ast.walk(node))
    return not powers and _is_arithmetic(node, 2) and len(numbers) <= 2 and all(abs(n) <= 20 for n in numbers)
