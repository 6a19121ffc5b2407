r"""Exact answers: finding the result that a text states, and whether it is the right one.

Two kinds of results. A *literal* is a value of Python: quotes, spaces and the order of a set or a
mapping do not count. A *formula* is mathematics in LaTeX or plain text: `\frac{1}{2}`, `1/2` and
`0.5` are one result; units, `\boxed`, `\text`, dollar signs and thousands' commas do not count.
Nothing is computed: 2^3 is not 8 here. Knows texts only.
"""

from __future__ import annotations

import ast
import json
import re
import warnings
from fractions import Fraction
from typing import Any

__all__ = ["same_formula", "same_literal", "stated"]

_NAMED = re.compile(r"""\banswer\b["'*`]*\s*[:=]\s*["'*`]*?(?=\S)""", re.IGNORECASE)
"""Before a stated answer: `"answer": `, `**answer**: `."""
_SAID = re.compile(r"(?:final answer|answer) is:?\s*(.+)", re.IGNORECASE)
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"', re.DOTALL)
_BARE = re.compile(r"[^\n,}`]+")
_BOXED = "\\boxed{"
_QUOTES = ("'", '"')
_OPENERS = ('"', "[", "{")
"""What begins a JSON value that ends of itself; the first number of `1/2` is not the whole."""
_DECODER = json.JSONDecoder(strict=False)


def stated(text: str) -> str | None:
    r"""The result that `text` states, None if it states none.

    Looked for in this order: the field `answer` of a JSON object, whatever is around it; what
    follows the last `"answer":` of broken JSON; the last `\boxed{...}`; "the final answer is ...".
    """
    found = _in_object(text)
    for look in (_after_name, _boxed, _said):
        if found is not None:
            break
        found = look(text)
    return found


def same_literal(stated: str, right: str) -> bool:
    """Whether two texts are the same value of Python.

    The right one is a literal. A string may be stated without its quotes, as in JSON, where the
    field's own quotes look like them.
    """
    value = _literal(right)
    if isinstance(value, str) and value.strip() in (stated.strip(), _unquoted(stated).strip()):
        return True
    read = _literal(stated)
    if isinstance(value, bool) is not isinstance(read, bool):
        return False
    return bool(read == value)


def same_formula(stated: str, right: str) -> bool:
    """Whether two texts are the same mathematics, as far as spelling and numbers go."""
    one, other = _plain(stated), _plain(right)
    if one == other:
        return True
    values = _number(one), _number(other)
    return values[0] is not None and values[0] == values[1]


# ------------------------------------------------------------------------------------- finding it


def _in_object(text: str) -> str | None:
    start, end = text.find("{"), text.rfind("}")
    if start < 0 or end < start:
        return None
    try:
        read = json.loads(text[start : end + 1], strict=False)
    except (json.JSONDecodeError, RecursionError):
        return None
    return _spelled(read.get("answer")) if isinstance(read, dict) else None


def _spelled(value: Any) -> str | None:
    """A JSON value as the text that would stand between the quotes."""
    if value is None or isinstance(value, str):
        return value or None
    return repr(value)


def _after_name(text: str) -> str | None:
    named = [*_NAMED.finditer(text)]
    if not named:
        return None
    rest = text[named[-1].end() :]
    if rest.startswith(_OPENERS):
        try:
            return _spelled(_DECODER.raw_decode(rest)[0])
        except (json.JSONDecodeError, RecursionError):
            pass
    if quoted := _QUOTED.match(rest):
        return quoted[1].replace('\\"', '"').replace("\\\\", "\\") or None
    bare = _BARE.match(rest)
    return (bare[0].strip() or None) if bare else None


def _boxed(text: str) -> str | None:
    start = text.rfind(_BOXED)
    if start < 0:
        return None
    return _braced(text, start + len(_BOXED))


def _braced(text: str, start: int) -> str | None:
    """What stands from `start` to the brace that closes it."""
    depth = 1
    for at in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[at], 0)
        if not depth:
            return text[start:at]
    return None


def _said(text: str) -> str | None:
    found = _SAID.findall(text)
    return str(found[-1]).strip().rstrip(".") if found else None


# --------------------------------------------------------------------------------------- literals


def _literal(text: str) -> Any:
    """The value, or the text itself where it is none."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a text's odd escapes are its own business
            return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return text.strip()


def _unquoted(text: str) -> str:
    text = text.strip()
    alike = len(text) > 1 and text[0] == text[-1] and text[0] in _QUOTES
    return text[1:-1] if alike else text


# --------------------------------------------------------------------------------------- formulas

_DROPPED = re.compile(
    r"\\left|\\right|\\displaystyle|\\[!,;: ]|\\(?:quad|qquad)\b|\^\{?\\circ\}?|°|\\?%|\\?\$"
)
"""LaTeX that changes how a result looks, and signs of units."""
_WORDED = re.compile(r"\\(?:text|mathrm|mbox|textbf|mathbf|operatorname)\s*\{([^{}]*)\}")
_FRACTION = re.compile(r"\\[dtc]?frac\s*(?:\{([^{}]+)\}|(\d))\s*(?:\{([^{}]+)\}|(\d))")
_NAME = re.compile(r"^[a-z](?:\([a-z0-9]\))?=", re.IGNORECASE)
"""`x = 5` states 5."""
_COMMA = re.compile(r"(?<=\d),(?=\d{3}(?!\d))|\{,\}")
_UNIT = re.compile(r"^(-?[\d.]+(?:/\d+)?)[a-zA-Z\s]{2,}\.?$")
_MINUS = str.maketrans({"\N{MINUS SIGN}": "-", "\N{EN DASH}": "-"})


def _plain(text: str) -> str:
    """Without what does not count."""
    text = text.strip().translate(_MINUS)
    if (inner := _boxed(text)) is not None:
        text = inner
    text = _DROPPED.sub("", text.replace("\\(", "").replace("\\)", ""))
    text = _WORDED.sub(lambda word: f" {word[1]}", text)
    text = _FRACTION.sub(lambda part: f"{part[1] or part[2]}/{part[3] or part[4]}", text)
    text = _COMMA.sub("", text)
    if unit := _UNIT.match(text.strip()):
        text = unit[1]
    text = re.sub(r"[\s{}]", "", text).rstrip(".").removeprefix("+")
    return _NAME.sub("", text).lower()


def _number(text: str) -> Fraction | None:
    try:
        return Fraction(text.strip("()"))
    except (ValueError, ZeroDivisionError):
        pass
    above, slash, below = text.partition("/")
    try:
        return Fraction(above.strip("()")) / Fraction(below.strip("()")) if slash else None
    except (ValueError, ZeroDivisionError):
        return None
